"""Do the diagnoses find planted mismatches, stay quiet where there is none, and notice before it is late? (`planted_worlds.py`)

    python studies/planted_mismatches.py --what honest power --seeds 1000:1100 --out runs/planted_mismatches

- ``honest``: sound proxies, and on every third seed a planted error that costs 1 % of the gain. Any alarm at all counts as false.
- ``power``: every kind at the size that costs 10 % of the gain that a sound proxy reaches over the same path, found for each world.
- ``curve``: the same at other costs.
- ``early``: worlds whose gold falls by at least a tenth of its gain from its peak. All diagnoses are asked at each checkpoint, as
  whoever watches a run would; is there an alarm at one before gold has lost that tenth?
- ``peeking``: sound proxies, asked at each checkpoint.

Two truths: ``gold``, and ``labels`` (no gold, 200 comparisons of later checkpoints with the first one). Thresholds are the defaults with
200 resamples; they may be chosen on the seeds of `planted_worlds.TUNING` alone. A row is written for each world, so that a killed study
goes on.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from planted_worlds import KINDS, TIMES, crossing, curve, records, setting, size_of, world
from scipy import stats

from trueup.core.rng import Key
from trueup.mismatch.panel import keeping
from trueup.mismatch.verdict import DIAGNOSES, MismatchSettings

PASSES = ("honest", "power", "curve", "early", "peeking")
COSTS = (0.025, 0.05, 0.15, 0.25)
"""Beside 0.1."""
EARLY_COST, SMALL = 0.25, 0.01
SLIGHT = tuple(k for k in KINDS if k != "stale")
"""Kinds of small errors; a stale proxy that costs 1 % still pays as much for what is worth nothing as for what is good."""
COMMON = ("over_optimisation", "goodhart", "tracking")
"""Of use against every kind that makes gold fall."""
SHOULD: dict[str, tuple[str, ...]] = {
    "length": (*COMMON, "length", "exploits", "style"),
    "flattery": (*COMMON, "exploits", "style"),
    "caution": (*COMMON, "exploits", "style", "refusal_balance", "alignment_tax"),
    "facts": (*COMMON, "exploits", "style", "alignment_tax"),
    "pooling": (*COMMON, "exploits", "style", "distribution_shift"),
    "tail": (*COMMON, "tail_mismatch", "distribution_shift", "shift_by_kl"),
    "noise": (*COMMON, "tail_mismatch", "ceiling_use", "predicted_regret", "distribution_shift", "calibration"),
    "stale": (*COMMON, "distribution_shift", "shift_by_kl", "exploits", "style", "length"),
}
"""Which diagnoses should notice."""


def settings(draws: int = 200) -> MismatchSettings:
    """The defaults with fewer resamples."""
    fields = {n: type(getattr(MismatchSettings(), n)).model_fields for n in MismatchSettings.model_fields}
    return MismatchSettings.model_validate({n: {"draws": draws} for n, known in fields.items() if "draws" in known})


def alarms(rows: pd.DataFrame, key: Key, chosen: MismatchSettings) -> list[str]:
    """Names of the diagnoses that alarm; asked as `diagnose_all` asks."""
    with keeping(rows):
        return [m.NAME for m in DIAGNOSES if m.diagnose(rows, "a", getattr(chosen, m.NAME), key / "a" / m.NAME).verdict == "alarm"]


def until(rows: pd.DataFrame, place: int) -> pd.DataFrame:
    """What was known at a checkpoint: offline rows and the policy's up to it."""
    return rows[rows["step"].isna() | (rows["step"] <= place * 10)].reset_index(drop=True)


def tasks(what: Sequence[str], seeds: range) -> Iterator[tuple[str, int, str, float]]:
    """(pass, seed, kind, cost), seeds first, so that all that was begun is balanced."""
    for seed in seeds:
        if "honest" in what:
            yield "honest", seed, SLIGHT[seed // 3 % len(SLIGHT)] if seed % 3 == 0 else "", SMALL if seed % 3 == 0 else 0.0
        if "power" in what:
            yield from (("power", seed, kind, 0.1) for kind in KINDS)
        if "curve" in what:
            yield from (("curve", seed, kind, cost) for kind in KINDS for cost in COSTS)
        if "early" in what:
            yield "early", seed, KINDS[seed % len(KINDS)], EARLY_COST
        if "peeking" in what:
            yield "peeking", seed, "", 0.0


def one(task: tuple[str, int, str, float], truth: str, chosen: MismatchSettings) -> dict[str, Any]:
    """One world asked."""
    what, seed, kind, cost = task
    key, set_to = Key(seed) / "planted", setting(seed)
    size = size_of(kind, cost, key, set_to) if cost else 0.0
    row: dict[str, Any] = {"pass": what, "seed": seed, "kind": kind, "cost": cost, "truth": truth, "size": size, "alarms": None}
    if size is None:
        return row
    w = world(kind, size, key, set_to)
    gold = curve(w)
    row["fall"] = float((gold.max() - gold[-1]) / (gold.max() - gold[0]))
    found = records(w, key / "records", set_to, truth)
    if what not in ("early", "peeking"):
        return {**row, "alarms": alarms(found, Key(seed), chosen)}
    crossed = crossing(w) if what == "early" else None
    row["crossed"] = crossed
    if what == "early" and crossed is None:
        return row
    before = [i for i, t in enumerate(TIMES) if i > 1 and (crossed is None or t < crossed)]
    for place in reversed(before):  # the latest look is the likeliest to see something; which look it was does not matter
        heard = alarms(until(found, place), Key(seed), chosen)
        if heard:
            return {**row, "alarms": heard, "at": float(TIMES[place])}
    return {**row, "alarms": []}


def rate(hits: Sequence[bool]) -> dict[str, Any]:
    """Share with its two one-sided 95 % limits (Clopper and Pearson 1934)."""
    k, n = int(sum(hits)), len(hits)
    low = 0.0 if k == 0 else float(stats.beta.ppf(0.05, k, n - k + 1))
    high = 1.0 if k == n else float(stats.beta.ppf(0.95, k + 1, n - k))
    return {"share": k / n if n else None, "low": low, "high": high, "n": n}


def conclude(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A line for each pass, truth, kind and cost."""
    asked = [r for r in rows if r["alarms"] is not None]
    groups = sorted({(r["pass"], r["truth"], r["kind"] if r["pass"] in ("power", "curve", "early") else "", r["cost"]) for r in asked})
    lines = []
    for what, truth, kind, cost in groups:
        mine = [
            r
            for r in asked
            if (r["pass"], r["truth"], r["cost"]) == (what, truth, cost) and (what in ("honest", "peeking") or r["kind"] == kind)
        ]
        line: dict[str, Any] = {"pass": what, "truth": truth, "kind": kind, "cost": cost, "any": rate([bool(r["alarms"]) for r in mine])}
        line["fall"] = float(np.mean([r["fall"] for r in mine]))
        if kind:
            line["should"] = rate([bool(set(r["alarms"]) & set(SHOULD[kind])) for r in mine])
        names = sorted({n for r in mine for n in r["alarms"]})
        line["by"] = {n: round(float(np.mean([n in r["alarms"] for r in mine])), 3) for n in names}
        lines.append(line)
    for what in ("honest", "early", "peeking"):
        for truth in ("gold", "labels"):
            mine = [r for r in asked if (r["pass"], r["truth"]) == (what, truth)]
            if mine:
                lines.append({"pass": what, "truth": truth, "kind": "all", "any": rate([bool(r["alarms"]) for r in mine])})
    return lines


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--what", nargs="*", choices=PASSES, default=["honest", "power"])
    parser.add_argument("--truth", nargs="*", choices=("gold", "labels"), default=["gold"])
    parser.add_argument("--seeds", default="1000:1100", help="A:B, B not included; below 1000 for tuning")
    parser.add_argument("--out", type=Path, default=Path("runs/planted_mismatches"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    path, chosen = options.out / "worlds.jsonl", settings()
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    done = {(r["pass"], r["seed"], r["kind"], r["cost"], r["truth"]) for r in rows}
    with path.open("a", encoding="utf-8") as out:
        for task in tasks(options.what, range(*map(int, options.seeds.split(":")))):
            for truth in options.truth:
                if (*task, truth) in done:
                    continue
                rows.append(one(task, truth, chosen))
                out.write(json.dumps(rows[-1]) + "\n")
                out.flush()
    lines = conclude(rows)
    (options.out / "planted_mismatches.json").write_text(json.dumps(lines, indent=1), encoding="utf-8")
    for line in lines:
        shown = " ".join(f"{n} {v['share']:.2f} [{v['low']:.2f}, {v['high']:.2f}]" for n in ("any", "should") if (v := line.get(n)))
        print(line["pass"], line["truth"], line["kind"], line.get("cost", ""), shown, "n", line["any"]["n"], line.get("by", ""))


if __name__ == "__main__":
    main()
