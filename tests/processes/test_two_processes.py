"""Two processes take the same steps as one: every learner of the contract, started by torchrun with gloo."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from contract.test_learners import LEARNERS

CHILD = Path(__file__).with_name("child.py")


def started(processes: int, out: Path) -> dict[str, Any]:
    """What the child wrote; several processes meet on a free port of this machine."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(CHILD.parents[1])}
    meeting = ["--rdzv_backend", "c10d", "--rdzv_endpoint", "127.0.0.1:0"]
    torchrun = ["-m", "torch.distributed.run", "--nproc_per_node", str(processes), *meeting]
    command = [sys.executable, *(torchrun if processes > 1 else []), str(CHILD), str(out)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-4000:]
    found: dict[str, Any] = json.loads(out.read_text())
    return found


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, Any]]:
    folder = tmp_path_factory.mktemp("processes")
    one, two = started(1, folder / "one.json"), started(2, folder / "two.json")
    assert (one["processes"], two["processes"]) == (1, 2)
    return one["learners"], two["learners"]


@pytest.mark.parametrize("name", LEARNERS)
def test_two_processes_take_the_steps_of_one(name: str, both: tuple[dict[str, Any], dict[str, Any]]) -> None:
    one, two = (b[name] for b in both)
    for alone, shared in zip(one["metrics"], two["metrics"], strict=True):
        assert shared == pytest.approx(alone, rel=1e-3, abs=1e-5)
    assert two["weights"] == pytest.approx(one["weights"], rel=1e-3, abs=1e-5)
