"""Does `trueup isolate` find the part that was changed? One part is changed in earnest, the other two in name only.

    python studies/isolation.py --seeds 700:704 --out runs/isolation

For each seed and part, a small helpdesk run: the reward model from annotators of thrice the bias, the optimizer with a penalty thirty
times as large, the evaluation on how-to questions alone. The other two parts are exchanged for ones that should make no difference: a
reward model fitted to the same pairs in batches of 33 instead of 32, the same optimizer with a penalty larger by a hundredth, the same
evaluation under a pattern that all prompts match. The figure is the share that the grid's Shapley attribution gives to the changed part
(aim: at least 0.8), with Student's t interval over seeds. What is done is not done again.
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
CONFIG = ROOT / "configs" / "isolate.yaml"
START = "import sys; from trueup.cli.main import invoke; sys.exit(invoke(sys.argv[1:]))"
RLOO = {"kind": "rloo", "num_generations": 4, "max_completion_length": 32}
NULL: dict[str, Any] = {
    "reward_models": {"name": "refit", "changes": {"reward": {"batch_size": 33}}},
    "optimizers": {"name": "same", "optimizer": {**RLOO, "beta": 0.0303}},
    "evaluations": {"name": "everything", "column": "gold", "prompts": "."},
}
PLANTED: dict[str, Any] = {
    "reward_models": {"name": "biased", "changes": {"world": {"bias_strength": 1.2}}},
    "optimizers": {"name": "tight", "optimizer": {**RLOO, "beta": 1.0}},
    "evaluations": {"name": "how_to", "column": "gold", "prompts": "how (do|can) i|best way"},
}
PARTS = {"reward_models": "reward_model", "optimizers": "optimizer", "evaluations": "evaluation"}


def isolate(seed: int, part: str, out: Path, steps: int) -> dict[str, Any]:
    """One isolation with a planted change in one part; its attribution."""
    folder = out / f"seed-{seed:04d}-{part}"
    report = folder / "report" / "report.json"
    if not report.exists():
        values = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
        values["run"] |= {"seed": seed}
        values["run"]["policy"]["steps"] = steps
        values["run"]["probe"] |= {"every": steps, "samples_per_prompt": 8}
        values |= {name: [PLANTED[name] if name == part else NULL[name]] for name in PARTS}
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / "isolate.yaml", yaml.safe_dump(values, sort_keys=False))
        command = [sys.executable, "-c", START, "isolate", str(folder / "isolate.yaml"), "--out", str(folder), "--resume", "--quiet"]
        with (folder / "log.txt").open("a") as log:
            subprocess.run(command, check=True, stdout=log, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"})
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
