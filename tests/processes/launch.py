"""Starting a script of this folder in several processes that meet through gloo."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import trueup

FOLDER = Path(__file__).parent


def launched(script: str, processes: int, *arguments: str) -> None:
    """Run a script to its end; several processes meet on a free port of this machine."""
    found = os.pathsep.join([str(FOLDER.parent), str(Path(trueup.__file__).parents[1])])  # the package that this process imported
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": found}
    meeting = ["--rdzv_backend", "c10d", "--rdzv_endpoint", "127.0.0.1:0"]
    torchrun = ["-m", "torch.distributed.run", "--nproc_per_node", str(processes), *meeting]
    command = [sys.executable, *(torchrun if processes > 1 else []), str(FOLDER / script), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-4000:]
