"""Runs the smoke pipeline in a process of its own; may kill itself while a checkpoint is being written.

Usage: child.py OUT [COUNT]: with COUNT, SIGKILL at the COUNT-th rename of a temporary folder, between writing it and renaming it.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from trueup.core.config import load_config
from trueup.pipeline.config import RunConfig
from trueup.pipeline.run import execute

ROOT = Path(__file__).resolve().parents[2]
SMALL = [
    "world.demonstrations=96", "sft.epochs=2", "reward.epochs=2", "policy.steps=8", "policy.optimizer.max_completion_length=12",
    "probe.every=2", "probe.prompts=6", "checkpoint_every=2", "arms.1.realign.every=4", "arms.2.realign.every=4",
    "probe.variants=[greedy, {kind: cut, share: 0.5}, {kind: demonstration, rows: 10}]",
]  # fmt: skip


def main(out: str, count: int | None) -> None:
    if count is not None:
        rename, seen = os.rename, [0]

        def deadly(source: object, target: object, **more: object) -> None:
            if ".partial-" in str(source):
                seen[0] += 1
                if seen[0] == count:
                    os.kill(os.getpid(), signal.SIGKILL)
            rename(source, target, **more)  # type: ignore[arg-type]

        os.rename = deadly  # type: ignore[assignment]
    config = load_config(ROOT / "configs" / "smoke.yaml", RunConfig, SMALL)
    execute(config, Path(out), resume=True, base=ROOT / "configs")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else None)
