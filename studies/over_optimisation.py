"""Over-optimisation in the default sandbox, its controls, and what inverse alignment changes, over seeds.

For every seed one run with five arms from one SFT policy: a static reward model, a same-size random refit, FRFT-alpha, and two controls:
the reward model of clean labels, and gold itself as the reward. Every checkpoint of the arms in `FRESH` is sampled again for gold alone,
until the standard error of its gold is small beside the gain.

    python studies/over_optimisation.py --seeds 100:120 --jobs 2 --out runs/over_optimisation

A seed that is done is not run again; a killed one resumes. The peak is chosen on one half of the prompts and measured on the other, both
ways, and averaged; intervals are bootstraps over seeds.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import trueup
from trueup.core.config import load_config
from trueup.core.record import Decoding
from trueup.core.rng import Key
from trueup.models.policy import load_policy
from trueup.optimizers.protocol import OnlineConfig
from trueup.pipeline.config import RunConfig
from trueup.pipeline.sampling import write
from trueup.stats.bootstrap import mean_estimate
from trueup.store.atomic import write_text
from trueup.store.records import frame

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / "src" / "trueup" / "configs" / "quickstart.yaml"
SETTINGS = ["probe.samples_per_prompt=12", "probe.keep_policies=all"]
FRESH = {"static": 84, "clean": 60}
"""Further replies a prompt and checkpoint, by arm, as often as needed for `PRECISE`, `ROUNDS` times at most."""
PRECISE, ROUNDS = 0.03, 6
"""Largest standard error of gold at a checkpoint, as a share of the gain."""
REFIT = "every: 40, select: {kind: %s, size: 400}"
ARMS = (
    f"[{{name: static}}, {{name: random, realign: {{{REFIT % 'random'}}}}}, {{name: frft_alpha, realign: {{{REFIT % 'similar'}}}}}, "
    "{name: clean, reward: clean}, {name: gold, reward: gold}]"
)


def run_seed(seed: int, out: Path, extra: list[str]) -> Path:
    """One run in a process of its own, on one thread."""
    done = out / f"seed-{seed:04d}" / "summary.json"
    if not done.exists():
        command = [sys.executable, __file__, "--one", str(seed), "--out", str(out), *(x for s in extra for x in ("--set", s))]
        with (out / f"seed-{seed:04d}.log").open("a") as log:
            subprocess.run(command, check=True, stdout=log, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"})
    return done


def one(seed: int, out: Path, extra: list[str]) -> None:
    """The run of a seed, in this process."""
    folder = out / f"seed-{seed:04d}"
    if not (folder / "fresh").exists():  # made only when the run is whole
        trueup.train(CONFIG, folder, overrides=[f"seed={seed}", f"arms={ARMS}", *SETTINGS, *extra], resume=True, report=False)
        (folder / "fresh").mkdir()
    records = frame(folder / "records")
    records = records[records["arm"] != "offline"]
    arms = {}
    for name, rows in records.groupby("arm", sort=False):
        golds = rows[["prompt_id", "step", "gold"]]
        found = arm_summary(rows, golds)
        for turn in range(ROUNDS if name in FRESH else 0):
            if turn and found["gold_standard_error"] <= PRECISE * found["gain"]:
                break
            golds = pd.concat([golds, fresh_gold(folder, str(name), rows, FRESH[str(name)], turn)])
            found = arm_summary(rows, golds)
        arms[str(name)] = found
    write_text(folder / "summary.json", json.dumps({"seed": seed, "arms": arms}, indent=1))


def fresh_gold(folder: Path, arm: str, rows: pd.DataFrame, samples: int, turn: int) -> pd.DataFrame:
    """Gold of further replies of every checkpoint of an arm to the prompts of its records; kept in the run's folder."""
    path = folder / "fresh" / (f"{arm}-{samples}.parquet" if not turn else f"{arm}-{samples}-{turn}.parquet")
    if path.exists():
        return pd.read_parquet(path)
    config = load_config(folder / "config.yaml", RunConfig)
    assert config.world is not None
    assert config.policy is not None
    assert isinstance(config.policy.optimizer, OnlineConfig)
    world, optimizer = config.world.build(config.seed, folder), config.policy.optimizer
    decoding = Decoding(temperature=optimizer.temperature, top_p=optimizer.top_p, max_tokens=optimizer.max_completion_length)
    known = set(rows["prompt_id"])
    prompts = [p for p in world.prompts("test") if p.id in known]
    parts = []
    for step in sorted(int(s) for s in rows["step"].unique()):
        policy = load_policy(folder / "checkpoints" / arm / f"policy-{step:06d}")
        key = Key(config.seed) / "fresh" / step
        written = write(policy, prompts, decoding, key / turn if turn else key, samples=samples)
        told = [(p.id, g.score) for w in written for p, g in zip(w.prompts, world.gold(w.prompts, w.replies) or (), strict=True)]
        parts.append(pd.DataFrame(told, columns=["prompt_id", "gold"]).assign(step=step))
    fresh = pd.concat(parts)
    fresh.to_parquet(path)
    return fresh


def arm_summary(rows: pd.DataFrame, golds: pd.DataFrame) -> dict[str, Any]:
    """Peak, final and drop of gold, from the records' replies and the fresh ones; each half of the prompts chooses for the other."""
    by = rows.groupby(["prompt_id", "step"])[["gold", "proxy_fixed", "proxy_current", "kl_policy_ref_exact_nats"]].mean()
    gold = golds.groupby(["prompt_id", "step"])["gold"].mean().unstack()
    steps = [int(s) for s in gold.columns]
    halves = [gold.iloc[0::2], gold.iloc[1::2]]
    measured = []
    for choose, judge in (halves, halves[::-1]):
        peak = int(choose.mean().to_numpy().argmax())
        curve = judge.mean().to_numpy()
        measured.append([curve[0], curve[peak], curve[-1], steps[peak]])
    start, peak_gold, final, peak_step = np.mean(measured, axis=0)
    proxy = by["proxy_fixed"].unstack()
    # sampling error of a checkpoint's gold over its fixed set of prompts: spread of replies within prompts
    within = golds.groupby(["prompt_id", "step"])["gold"].agg(["var", "count"])
    error = np.sqrt((within["var"] / within["count"]).groupby("step").sum()) / within.groupby("step").size()
    curves = {c: [float(x) for x in by[c].unstack().mean()] for c in by.columns} | {"gold": [float(x) for x in gold.mean()]}
    gap = proxy.iloc[:, -1].to_numpy()[:, None] - proxy.to_numpy()
    behind = gap.mean(0) + 1.96 * gap.std(0, ddof=1) / np.sqrt(len(gap)) < 0
    return {
        "steps": steps,
        "curves": curves,
        "gold_start": float(start),
        "gold_peak": float(peak_gold),
        "gold_final": float(final),
        "peak_step": float(peak_step),
        "gain": float(peak_gold - start),
        "drop_share": float((peak_gold - final) / (peak_gold - start)) if peak_gold > start else 0.0,
        "gold_standard_error": float(error.max()),
        "rises": bool(peak_gold - start > 5 * float(error.max())),
        "proxy_ends_highest": bool(not behind.any()),
        "proxy_final_is_maximum": bool(np.argmax(curves["proxy_fixed"]) == len(steps) - 1),
    }


def conclude(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Tables over seeds."""
    names = list(found[0]["arms"])
    key, seeds = Key(0) / "study", [f["seed"] for f in found]
    table: dict[str, Any] = {"seeds": seeds, "arms": {}, "differences": {}}
    for name in names:
        arms = [f["arms"][name] for f in found]
        row: dict[str, Any] = {
            k: mean_estimate([a[k] for a in arms], seeds, k, "gold", key / name / k).to_dict()
            for k in ("gold_start", "gold_peak", "gold_final", "gain")
        }
        row["median_drop_share"] = float(np.median([a["drop_share"] for a in arms]))
        row["seeds_that_rise"] = int(sum(a["rises"] for a in arms))
        row["seeds_with_drop_of_20_percent"] = int(sum(a["rises"] and a["drop_share"] >= 0.2 for a in arms))
        row["seeds_with_final_95_percent_of_peak_gain"] = int(sum(a["rises"] and a["drop_share"] <= 0.05 for a in arms))
        row["seeds_where_proxy_fixed_ends_highest"] = int(sum(a["proxy_ends_highest"] for a in arms))
        row["largest_standard_error_over_gain"] = float(
            max(a["gold_standard_error"] / a["gain"] if a["gain"] > 0 else np.inf for a in arms)
        )
        row["mean_curves"] = {
            "steps": arms[0]["steps"],
            **{c: np.mean([a["curves"][c] for a in arms], axis=0).tolist() for c in arms[0]["curves"]},
        }
        table["arms"][name] = row
    for a, b in (
        ("frft_alpha", "random"),
        ("frft_alpha", "static"),
        ("random", "static"),
        ("clean", "static"),
    ):
        if a in names and b in names:
            table["differences"][f"{a} - {b}"] = {
                k: mean_estimate([f["arms"][a][k] - f["arms"][b][k] for f in found], seeds, k, "gold", key / a / b / k).to_dict()
                for k in ("gold_peak", "gold_final")
            }
    return table


def draw(table: dict[str, Any], path: Path) -> None:
    """Gold and the first reward model's score along training, mean over seeds."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    axes = figure.subplots(1, 2)
    for name, row in table["arms"].items():
        curves = row["mean_curves"]
        for axis, column in zip(axes, ("gold", "proxy_fixed"), strict=True):
            axis.plot(curves["steps"], curves[column], label=name)
            axis.set(xlabel="policy steps", ylabel=column)
    axes[0].legend(frameon=False)
    figure.suptitle(f"mean over {len(table['seeds'])} seeds")
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="100:120", help="A:B, B not included")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--out", type=Path, default=Path("runs/over_optimisation"))
    parser.add_argument("--set", action="append", default=[], help="a.b=c, passed on to every run")
    parser.add_argument("--one", type=int, help="run this seed alone, in this process")
    options = parser.parse_args()
    if options.one is not None:
        one(options.one, options.out, options.set)
        return
    options.out.mkdir(parents=True, exist_ok=True)
    first, last = map(int, options.seeds.split(":"))
    with ThreadPoolExecutor(options.jobs) as pool:
        done = list(pool.map(lambda s: run_seed(s, options.out, options.set), range(first, last)))
    table = conclude([json.loads(p.read_text()) for p in done])
    write_text(options.out / "over_optimisation.json", json.dumps(table, indent=1))
    draw(table, options.out / "over_optimisation.png")
    for name, row in table["arms"].items():
        print(
            f"{name:11s} start {row['gold_start']['value']:.3f} peak {row['gold_peak']['value']:.3f} "
            f"final {row['gold_final']['value']:.3f} "
            f"rises: {row['seeds_that_rise']} "
            f"drop>=20%: {row['seeds_with_drop_of_20_percent']}/{len(table['seeds'])} median drop {row['median_drop_share']:.2f} "
            f"proxy highest: {row['seeds_where_proxy_fixed_ends_highest']} se/gain {row['largest_standard_error_over_gain']:.3f}"
        )
    for name, rows in table["differences"].items():
        print(name, {k: [None if v[x] is None else round(v[x], 3) for x in ("value", "low", "high")] for k, v in rows.items()})


if __name__ == "__main__":
    main()
