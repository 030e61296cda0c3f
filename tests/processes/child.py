"""Run by torchrun: every learner of the contract takes two steps on its share of the batches; process 0 writes what came out.

torchrun --nproc_per_node 2 tests/processes/child.py OUT.json [NAME ...]
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

import tests_support
from contract import test_learners as contract
from tests_support import parameters, tiny_parts
from trueup.core.rng import Key
from trueup.loop.config import LoopConfig
from trueup.loop.train import train

ROWS, STEPS = 8, 2


def taken(name: str, accelerator: Accelerator) -> dict[str, Any]:
    """Metrics of each step, and the weights after the last."""

    def add(x: torch.Tensor) -> torch.Tensor:
        return accelerator.reduce(x, "sum") if accelerator.num_processes > 1 else x

    for module in (contract, tests_support):
        module.tiny_parts = lambda *a, **k: replace(tiny_parts(*a, **k), sum_over_processes=add)  # type: ignore[attr-defined]
    case = contract.LEARNERS[name]
    learner = case.build()
    # a plain AdamW step follows signs of gradients that may be rounding; a large epsilon keeps steps in proportion
    config = LoopConfig(learning_rate=3e-3, adam_epsilon=1e-2, num_iterations=2)
    steps = train(learner, lambda i: case.data(ROWS, Key(i)), steps=STEPS, config=config, key=Key(7), accelerator=accelerator)
    metrics = [s.metrics for s in steps]
    weights = torch.cat([p.detach().flatten() for p in parameters(learner)])
    return {"metrics": metrics, "weights": weights.tolist()}


def main() -> None:
    """Every learner, or those named."""
    torch.set_num_threads(1)
    accelerator = Accelerator(cpu=True)
    names = sys.argv[2:] or list(contract.LEARNERS)
    found = {name: taken(name, accelerator) for name in names}
    if accelerator.is_main_process:
        Path(sys.argv[1]).write_text(json.dumps({"processes": accelerator.num_processes, "learners": found}))
    accelerator.end_training()


if __name__ == "__main__":
    main()
