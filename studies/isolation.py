"""Does `trueup isolate` find the part that was changed? One part is changed in earnest, the other two in name only.

    python studies/isolation.py --seeds 700:704 --out runs/isolation

For each seed and part, runs in an enumerable world: the reward model from labels that pay for a word nobody writes and for length, the
optimizer with a penalty a hundred times as large, the evaluation a count of words instead of gold. The other two parts are exchanged for
ones that should make little difference: a reward model fitted to the same pairs in batches of 33 instead of 32, the same optimizer with a
penalty larger by a hundredth, gold under a pattern that all prompts match. The figure is the share that the grid's Shapley attribution
gives to the changed part (aim: at least 0.8), with Student's t interval over seeds. What is done is not done again.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from scipy import stats

from trueup.store.atomic import write_text

ROOT = Path(__file__).resolve().parents[1]
START = "import sys; from trueup.cli.main import invoke; sys.exit(invoke(sys.argv[1:]))"
RLOO = {"kind": "rloo", "num_generations": 4, "max_completion_length": 6}
BETA = 0.01
BASE: dict[str, Any] = {
    "name": "isolation",
    "threads": 1,
    "world": {
        "kind": "enumerable", "odd_bonus": 0.0, "length_bonus": 0.0, "topics": 10, "test_prompts": 48, "demonstrations": 2000,
        "train_pairs": 1000,
    },
    "policy_model": {"hidden_size": 32, "layers": 1, "heads": 2},
    "sft": {"epochs": 6, "batch_size": 32, "loop": {"learning_rate": 5e-3, "lr_scheduler_type": "cosine"}},
    "reward": {"epochs": 6, "batch_size": 32, "loop": {"learning_rate": 3e-3, "lr_scheduler_type": "cosine"}},
    "policy": {"prompts_per_step": 16, "optimizer": {**RLOO, "beta": BETA}, "loop": {"learning_rate": 3e-3}},
    "probe": {"prompts": 48, "samples_per_prompt": 16, "keep_policies": "last"},
    "arms": [{"name": "baseline"}],
}  # fmt: skip
NULL: dict[str, Any] = {
    "reward_models": {"name": "refit", "changes": {"reward": {"batch_size": 33}}},
    "optimizers": {"name": "same", "optimizer": {**RLOO, "beta": 1.01 * BETA}},
    "evaluations": {"name": "everything", "column": "gold", "prompts": "."},
}
PLANTED: dict[str, Any] = {
    "reward_models": {"name": "bribed", "changes": {"world": {"odd_bonus": 1.5, "length_bonus": 0.6}}},
    "optimizers": {"name": "tight", "optimizer": {**RLOO, "beta": 100 * BETA}},
    "evaluations": {"name": "words", "column": "evaluations.words"},
}
PARTS = {"reward_models": "reward_model", "optimizers": "optimizer", "evaluations": "evaluation"}


def isolate(seed: int, part: str, out: Path, steps: int) -> dict[str, Any]:
    """One isolation with a planted change in one part; its attribution."""
    folder = out / f"seed-{seed:04d}-{part}"
    report = folder / "report" / "report.json"
    if not report.exists():
        values: dict[str, Any] = {"run": {**BASE, "seed": seed, "checkpoint_every": steps}, "grid": True}
        values["run"]["policy"] = {**BASE["policy"], "steps": steps}
        values["run"]["probe"] = {**BASE["probe"], "every": steps}
        values |= {name: [PLANTED[name] if name == part else NULL[name]] for name in PARTS}
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / "isolate.yaml", yaml.safe_dump(values, sort_keys=False))
        command = [sys.executable, "-c", START, "isolate", str(folder / "isolate.yaml"), "--out", str(folder), "--resume", "--quiet"]
        with (folder / "log.txt").open("a") as log:
            shared = {"OMP_NUM_THREADS": "1", "TRUEUP_CACHE": str(out / "cache")}
            subprocess.run(command, check=True, stdout=log, stderr=log, env={**os.environ, **shared})
    found: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))["shapley"][0]
    return {
        "seed": seed, "part": PARTS[part], "total": found["total"]["value"], "share": found["shares"][PARTS[part]]["value"],
        "effects": {n: e["value"] for n, e in found["effects"].items()},
    }  # fmt: skip


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean share with Student's t interval over seeds; runs in which nothing was shown are counted apart."""
    known = np.array([r["share"] for r in rows if r["share"] is not None], dtype=float)
    n = len(known)
    half = float(stats.t.ppf(0.975, n - 1) * known.std(ddof=1) / np.sqrt(n)) if n > 1 else None
    mean = float(known.mean()) if n else None
    return {
        "mean_share": mean, "low": None if half is None or mean is None else mean - half,
        "high": None if half is None or mean is None else mean + half, "seeds": n, "nothing_shown": len(rows) - n,
        "at_least_0.8": int((known >= 0.8).sum()),
    }  # fmt: skip


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="700:704", help="A:B, B not included")
    parser.add_argument("--steps", type=int, default=80, help="policy updates")
    parser.add_argument("--out", type=Path, default=Path("runs/isolation"))
    options = parser.parse_args()
    rows = [isolate(seed, part, options.out, options.steps) for seed in range(*map(int, options.seeds.split(":"))) for part in PARTS]
    table = {name: summary([r for r in rows if r["part"] == name]) for name in PARTS.values()}
    write_text(options.out / "isolation.json", json.dumps({"runs": rows, "shares": table}, indent=1))
    print(json.dumps(table, indent=1))


if __name__ == "__main__":
    main()
