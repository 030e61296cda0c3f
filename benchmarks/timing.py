"""What the comparisons share: a clock, the machine's own matrix rate, one fresh process a precision."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Seconds = tuple[float, float]
"""Wall clock and processor."""


def now() -> Seconds:
    """Wall and processor seconds."""
    return time.perf_counter(), time.process_time()


def since(began: Seconds) -> Seconds:
    """Wall and processor seconds from ``began`` to now."""
    wall, processor = now()
    return wall - began[0], processor - began[1]


def matrix_rate(dtype: Any) -> float:
    """FLOP/s of a product of two 2048 x 2048 matrices; the best of several tries."""
    import torch

    a, b = (torch.randn(2048, 2048).to(dtype) for _ in range(2))
    best = float("inf")
    for _ in range(8):
        began = time.perf_counter()
        a @ b
        best = min(best, time.perf_counter() - began)
    return 2 * 2048**3 / best


def in_process(script: str, options: dict[str, Any]) -> dict[str, Any]:
    """Run a script with these options in a fresh process (accelerate keeps one precision a process); what it wrote to its ``--out``.

    Args:
        script: path of the script.
        options: by name without dashes; ``threads`` is also told to the process's libraries.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.json"
        command = [sys.executable, script, "--out", str(out)]
        for name, value in options.items():
            command += [f"--{name}", str(value)]
        quiet = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "OMP_NUM_THREADS": str(options["threads"])}
        done = subprocess.run(
            command, env={**os.environ, **quiet}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        if done.returncode:
            sys.exit(done.stdout)
        result: dict[str, Any] = json.loads(out.read_text())
        return result


def taking_turns() -> Any:
    """A callback of transformers' trainer that times its steps and then gives the other side a turn.

    Its attributes: ``other``, an iterator that takes a step each time it is asked; ``peer`` and ``ours``, the times of all steps.
    """
    from transformers import TrainerCallback

    class Turns(TrainerCallback):  # type: ignore[misc]
        def __init__(self) -> None:
            self.peer: list[Seconds] = []
            self.ours: list[Seconds] = []
            self.other: Iterator[Any] = iter(())

        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            self.began = now()

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            self.peer.append(since(self.began))
            began = now()
            next(self.other)
            self.ours.append(since(began))

    return Turns()
