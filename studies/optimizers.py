"""Ways to use one reward, over seeds: gold of every optimizer and decoder at equal KL and at equal cost.

    python studies/optimizers.py --config configs/compare.yaml --seeds 100:105 --jobs 2 --out runs/optimizers

Each seed is one `trueup compare` in a process of one thread; what is done is not done again. Then, method by method and budget by budget,
the mean over the seeds that reach it with Student's t interval, in how many they do, and the differences from the first method on the
same seeds. A budget of cost is the same for all seeds: shares of the cheapest optimizer's mean cost.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from trueup.store.atomic import write_text

ROOT = Path(__file__).resolve().parents[1]
START = "import sys; from trueup.cli.main import invoke; sys.exit(invoke(sys.argv[1:]))"


def run_seed(seed: int, config: Path, out: Path, overrides: Sequence[str]) -> Path:
    """One comparison; its report.json."""
    folder = out / f"seed-{seed:04d}"
    found = folder / "report" / "report.json"
    if not found.exists():
        command = [sys.executable, "-c", START, "compare", str(config), "--out", str(folder), "--resume", "--quiet"]
        for text in (f"run.seed={seed}", *overrides):
            command += ["--set", text]
        with (out / f"seed-{seed:04d}.log").open("a") as log:
            subprocess.run(command, check=True, stdout=log, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"})
    return found


def summary(values: Sequence[float]) -> dict[str, float | int | None]:
    """Mean over seeds with Student's t interval; no interval of one seed."""
    n = len(values)
    mean = float(np.mean(values)) if n else None
    half = float(stats.t.ppf(0.975, n - 1) * np.std(values, ddof=1) / np.sqrt(n)) if n > 1 else None
    return {
        "mean": mean, "low": None if mean is None or half is None else mean - half,
        "high": None if mean is None or half is None else mean + half, "n": n,
    }  # fmt: skip


def pooled(reports: Sequence[dict[str, Any]], column: str = "gold") -> dict[str, Any]:
    """Methods by budgets, over seeds."""
    methods = [m["method"] for m in reports[0]["methods"]]
    base = reports[0]["against"]
    table: dict[str, Any] = {"seeds": [r["seed"] for r in reports], "against": base, "methods": {}}
    cells = [{(c["arm"], c["axis"], c["budget"]): c for c in r["at_budget"] if c["column"] == column} for r in reports]
    axes = list(dict.fromkeys((axis, budget) for _, axis, budget in cells[0] if axis == "kl_nats"))
    for m in methods:
        points = [next(x for x in r["methods"] if x["method"] == m)["points"] for r in reports]
        rows = {}
        for axis, budget in axes:
            value = [c[m, axis, budget]["value"]["value"] for c in cells]
            other = [c[base, axis, budget]["value"]["value"] for c in cells]
            both = [v - o for v, o in zip(value, other, strict=True) if v is not None and o is not None]
            rows[f"{axis}={budget:g}"] = {
                "value": summary([v for v in value if v is not None]), "reached": sum(v is not None for v in value),
                "difference": None if m == base else summary(both),
            }  # fmt: skip
        table["methods"][m] = {
            "at": rows,
            "best": summary([max(g for g in p[column] if g is not None) for p in points]),
            "last": summary([p[column][-1] for p in points]),
            "kl_last": summary([p["kl_nats"][-1] for p in points if p["kl_nats"][-1] is not None]),
            "core_hours": summary([p["core_hours"][-1] for p in points]),
        }
    table["at_cost"] = at_cost(reports, column)
    return table


def at_cost(reports: Sequence[dict[str, Any]], column: str) -> dict[str, Any]:
    """Value of every method at shares of the cheapest optimizer's mean cost, the same core-hours for all seeds."""
    trained = [m["method"] for m in reports[0]["methods"] if not m["decodes"]]
    curves = [{m["method"]: m["points"] for m in r["methods"]} for r in reports]
    least = min(np.mean([c[m]["core_hours"][-1] for c in curves]) for m in trained)
    found: dict[str, Any] = {}
    for share in (0.25, 0.5, 1.0, 2.0):
        budget = float(share * least)
        found[f"{budget:.5f}"] = {
            m["method"]: summary([v for c in curves if (v := bought(c[m["method"]], column, budget)) is not None])
            for m in reports[0]["methods"]
        }
    return found


def bought(points: dict[str, list[float]], column: str, budget: float) -> float | None:
    """The value on the path that this cost buys; the last one where all of it costs less, None where nothing does."""
    cost = np.maximum.accumulate(points["core_hours"])
    if cost[0] > budget:
        return None
    return float(np.interp(budget, cost, points[column]))


def figure(reports: Sequence[dict[str, Any]], out: Path) -> None:
    """Gold against KL, a small panel a method, every seed a line."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot as plt

    methods = [m["method"] for m in reports[0]["methods"]]
    wide = 5
    made, axes = plt.subplots(-(-len(methods) // wide), wide, figsize=(11, 2.1 * -(-len(methods) // wide)), sharex=True, sharey=True)
    for ax in axes.flat[len(methods) :]:
        ax.set_visible(False)
    for ax, m in zip(axes.flat, methods, strict=False):
        for r in reports:
            p = next(x for x in r["methods"] if x["method"] == m)["points"]
            kl = [np.nan if k is None else k for k in p["kl_nats"]]
            ax.plot(kl, p["gold"], "-o", markersize=2, linewidth=1, color="#0072b2", alpha=0.7)
        ax.set_title(m, fontsize=8)
        ax.tick_params(labelsize=7)
        ax.set_xscale("symlog", linthresh=1)
    made.supxlabel("KL from the SFT policy (nats)", fontsize=8)
    made.supylabel("gold", fontsize=8)
    made.tight_layout()
    made.savefig(out, metadata={"Date": None})


def markdown(table: dict[str, Any]) -> str:
    """The pooled table as Markdown."""

    def text(s: dict[str, Any]) -> str:
        if s["mean"] is None:
            return "not reached"
        limits = "" if s["low"] is None else f" [{s['low']:.2f}, {s['high']:.2f}]"
        return f"{s['mean']:.2f}{limits}" + (f" ({s['n']})" if s["n"] < len(table["seeds"]) else "")

    heads = list(next(iter(table["methods"].values()))["at"])
    lines = [
        "| method | " + " | ".join(h.replace("kl_nats=", "") + " nats" for h in heads) + " | best | last | KL at the end | core-hours |"
    ]
    lines.append("|---" * (len(heads) + 5) + "|")
    for m, row in table["methods"].items():
        values = [text(row["at"][h]["value"]) for h in heads]
        ends = [text(row["best"]), text(row["last"]), text(row["kl_last"]), f"{row['core_hours']['mean']:.4f}"]
        lines.append(f"| `{m}` | " + " | ".join([*values, *ends]) + " |")
    costs = list(table["at_cost"])
    lines += ["", "| method | " + " | ".join(f"{c} core-hours" for c in costs) + " |", "|---" * (len(costs) + 1) + "|"]
    lines += [f"| `{m}` | " + " | ".join(text(table["at_cost"][c][m]) for c in costs) + " |" for m in table["methods"]]
    return "\n".join(lines) + "\n"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=ROOT / "configs" / "compare.yaml")
    parser.add_argument("--seeds", default="100:105", help="A:B, B not included")
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time")
    parser.add_argument("--out", type=Path, default=Path("runs/optimizers"))
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="A.B=C", help="change the configuration")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    seeds = range(*map(int, options.seeds.split(":")))
    with ThreadPoolExecutor(options.jobs) as pool:
        paths = list(pool.map(lambda s: run_seed(s, options.config, options.out, options.overrides), seeds))
    reports = [json.loads(p.read_text()) for p in paths]
    table = pooled(reports)
    write_text(options.out / "optimizers.json", json.dumps(table, indent=1))
    write_text(options.out / "optimizers.md", markdown(table))
    figure(reports, options.out / "optimizers.svg")
    print(markdown(table))


if __name__ == "__main__":
    main()
