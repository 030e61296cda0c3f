"""How often the stop rule stops wrongly, and after how many labels it stops rightly.

1. Streams: 5,000 streams of 400 comparisons with the same rival, looked at after every one, at three win rates that are no fall and three
   that are.
2. Runs: 200 runs of ten probes in which no checkpoint is worse than one before it (all equal; rising; rising, then equal), with "best so
   far" chosen by the same comparisons, and as many that fall after their peak. A comparison is a coin of the chance that
   the two checkpoints' utilities give.
3. Tables (`tabular_runs.py`), compared by their annotators on freshly sampled replies: 200 honest runs, whose policy climbs what its
   annotators feel, and 100 others.

    python studies/stop_rule.py --out runs/stop
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tabular_runs import Tabular, tabular_run

from trueup.core.rng import Key
from trueup.stats.eprocess import crossed, fixed, mixed, plugged_in, restarted, sprt_limits, sprt_ratio
from trueup.store.atomic import write_text

Array = NDArray[np.float64]
ALPHA, STREAMS, LENGTH, RUNS, PROBES, LABELS = 0.05, 5000, 400, 200, 10, 40
SHAPES: dict[str, Array] = {
    "all equal": np.zeros(PROBES + 1),
    "rising": np.linspace(0, 1.5, PROBES + 1),
    "rising, then equal": np.minimum(np.linspace(0, 1.5, PROBES + 1), 0.45),
    "peak at 3, then slow": np.r_[0, 0.3, 0.5, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0, -0.1],
    "peak at 3, then fast": np.r_[0, 0.3, 0.5, 0.6, 0.2, -0.2, -0.6, -1.0, -1.4, -1.8, -2.2],
}
"""Utilities of the checkpoints, log-odds."""


def streams(key: Key) -> list[dict[str, Any]]:
    """Share of streams ever stopped, and the median number of labels, by win rate of the newer checkpoint."""
    out = []
    for wins in (0.55, 0.52, 0.5, 0.4, 0.3, 0.2):
        won = ((key / int(100 * wins)).generator().random((STREAMS, LENGTH)) < wins).astype(float)
        capitals = {"fixed 1/2": fixed(2 * won - 1, 1.0), "mixed": mixed(2 * won - 1, 1.0), "plugged in": plugged_in(2 * won - 1, 1.0)}
        stopped = {name: crossed(c, ALPHA) for name, c in capitals.items()}
        # Wald's test of 1/2 against 0.35, which knows an alternative; stopped where it accepts that
        ratio = sprt_ratio(won, 0.35)
        low, high = sprt_limits(ALPHA, 0.1)
        ended = (ratio <= low) | (ratio >= high)
        first = ended.argmax(axis=1)
        right = ended.any(axis=1) & (ratio[np.arange(STREAMS), first] >= high)
        stopped["wald .5 against .35"] = np.where(right, first + 1, 0)
        for name, n in stopped.items():
            share = float((n > 0).mean())
            out.append({"win_rate": wins, "rule": name, "stopped": share, "error": float(np.sqrt(share * (1 - share) / STREAMS)),
                        "median_labels": float(np.median(n[n > 0])) if share >= 0.5 else None})  # fmt: skip
    return out


def shaped(utility: Array, key: Key) -> tuple[int, float]:
    """A run of those utilities: comparisons until it is stopped (0: never), and the utility then less that of its best checkpoint."""
    best, outcomes, starts = 0, [], []
    g = key.generator()
    for t in range(1, len(utility)):
        won = g.random(LABELS) < 1 / (1 + np.exp(utility[best] - utility[t]))
        starts.append(len(outcomes))
        outcomes += np.where(won, 1.0, -1.0).tolist()
        capital = restarted(np.array(outcomes), starts, PROBES, 1.0)
        if capital.max() >= 1 / ALPHA:
            return int(crossed(capital, ALPHA)), float(utility[t] - utility[: t + 1].max())
        best = t if 2 * won.sum() > LABELS else best
    return 0, 0.0


def runs(key: Key) -> list[dict[str, Any]]:
    """Shares of shaped runs that are stopped."""
    out = []
    for name, utility in SHAPES.items():
        found = [shaped(utility, key / name / i) for i in range(RUNS)]
        n = np.array([f[0] for f in found])
        share = float((n > 0).mean())
        out.append({"shape": name, "runs": RUNS, "stopped": share, "error": float(np.sqrt(share * (1 - share) / RUNS)),
                    "median_labels": float(np.median(n[n > 0])) if (n > 0).any() else None,
                    "stopped_at_a_best_checkpoint": float(np.mean([f[0] > 0 and f[1] == 0 for f in found]))})  # fmt: skip
    return out


def lived(run: Tabular, key: Key) -> dict[str, Any]:
    """A table's run, asked after every probe about freshly sampled replies."""
    gain = run.gold - run.gold[0]
    best, outcomes, starts = 0, [], []
    for t in range(1, PROBES + 1):
        won = run.fresh(t, best, LABELS, key / t)
        starts.append(len(outcomes))
        outcomes += (2 * won - 1).tolist()
        capital = restarted(np.array(outcomes), starts, PROBES, 1.0)
        if capital.max() >= 1 / ALPHA:
            lost = float(gain[: t + 1].max() - gain[t])
            return {"stopped": t, "labels": int(crossed(capital, ALPHA)), "lost": lost, "gain": float(gain.max())}
        best = t if 2 * won.sum() > LABELS else best
    return {"stopped": None, "labels": len(outcomes), "lost": 0.0, "gain": float(gain.max())}


def tables(key: Key, honest: int, others: int) -> dict[str, Any]:
    """Honest tables: any stop is wrong. Others: what gold had been lost when they were stopped, and by those that were not."""
    fair = [lived(tabular_run(3000 + i, honest=True, samples=1), key / "honest" / i) for i in range(honest)]
    rest = [(r := tabular_run(4000 + i, samples=1), lived(r, key / "others" / i)) for i in range(others)]
    lose = [(r, f) for r, f in rest if r.gold.max() - r.gold[-1] > 0.2 * (r.gold.max() - r.gold[0]) and f["gain"] > 1e-2]
    stopped = [f for _, f in lose if f["stopped"] is not None]
    return {
        "honest": len(fair),
        "honest_stopped": float(np.mean([f["stopped"] is not None for f in fair])),
        "others": len(rest),
        "lose_a_fifth": len(lose),
        "stopped_of_these": len(stopped),
        "median_labels": float(np.median([f["labels"] for f in stopped])) if stopped else None,
        "median_loss_at_stop_share_of_gain": float(np.median([f["lost"] / f["gain"] for f in stopped])) if stopped else None,
        "median_loss_at_end_share_of_gain": float(np.median([(r.gold.max() - r.gold[-1]) / f["gain"] for r, f in lose])),
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/stop"))
    parser.add_argument("--honest", type=int, default=200)
    parser.add_argument("--others", type=int, default=100)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    answer: dict[str, Any] = {"streams": streams(Key(1) / "streams"), "runs": runs(Key(1) / "runs")}
    print(json.dumps(answer, indent=1), flush=True)
    answer["tables"] = tables(Key(1) / "tables", options.honest, options.others)
    write_text(options.out / "stop.json", json.dumps(answer, indent=1))
    print(json.dumps(answer["tables"], indent=1))


if __name__ == "__main__":
    main()
