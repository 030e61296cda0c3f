"""Consistency: does the score stay the same when the same is asked, or said, in other words (Shen et al. 2023, arXiv:2309.16155)?

The same replies are scored under another wording of the prompt (variants ``reworded_...``), or said otherwise (``paraphrase``). Within a
prompt and checkpoint, both scores rank the replies; what is reported is Kendall's tau-b of the two rankings, averaged over prompts. A
change of words may change what a reply is worth; gold's own tau says so, and the proxy is blamed only for what gold does not share.

Series, one entry a checkpoint: ``step``; for each variant ``proxy_<variant>`` and, where known, ``gold_<variant>``, with ``_low`` and
``_high``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from pydantic import Field

from trueup.core.config import Config
from trueup.core.rng import Key
from trueup.mismatch.diagnosis import Diagnosis, not_enough, shown
from trueup.mismatch.panel import METHOD, Cells, Panel, curve_columns, panel_of
from trueup.mismatch.variants import Twins, twins, variant_names, variant_panel
from trueup.stats import rank
from trueup.stats.bootstrap import DRAWS, Array, make_estimate
from trueup.stats.estimate import Estimate
from trueup.stats.simultaneous import band

NAME = "consistency"
QUESTION = "Does the reward model rank the same replies alike when the same is asked or said in other words?"


class Consistency(Config):
    """Thresholds of the consistency diagnosis."""

    prefixes: tuple[str, ...] = ("reworded_", "paraphrase")
    """Beginnings of the names of variants that hold the same replies in other words, or under them."""
    min_prompts: int = Field(default=10, ge=2)
    """Fewer prompts with two such replies are not enough data."""
    min_agreement: float = Field(default=0.5, gt=-1, lt=1)
    """Kendall's tau below which a score depends on the words (the upper limit must be below it)."""
    level: float = Field(default=0.95, gt=0.5, lt=1)
    """Coverage of the band over all variants."""
    draws: int = Field(default=DRAWS, ge=100)
    """Bootstrap resamples."""


@dataclass(frozen=True, kw_only=True)
class _Rankings:
    """One variant: tau of the proxy's two rankings and of gold's, as prompts x steps."""

    variant: str
    proxy: Cells
    gold: Cells | None
    pair: Twins

    def last(self) -> int:
        """Position of the last checkpoint with rankings."""
        return int(np.flatnonzero(self.proxy.prompts() > 0)[-1])


def diagnose(records: pd.DataFrame, arm: str, settings: Consistency, key: Key) -> Diagnosis:
    """Agreement of rankings; alarm when the proxy's is low at the last checkpoint, and lower than gold's own.

    Args:
        records: flat frame of sample records, with rows of reworded prompts or paraphrased replies.
        arm: name of the arm.
        settings: thresholds.
        key: random stream.
    """
    panel = panel_of(records, arm)
    names = [v for v in variant_names(records, arm) if v.startswith(settings.prefixes)]
    found = [] if panel is None else [r for v in names if (r := _rankings(panel, records, v)) is not None]
    found = [r for r in found if r.proxy.prompts()[r.last()] >= settings.min_prompts]
    if panel is None or not found:
        why = (
            f"proxy scores of the same replies in other words ({', '.join(settings.prefixes)}...), two or more for each of "
            f"{settings.min_prompts} prompts, are needed; a probe writes them with `variants: [{{kind: reworded, ...}}]`"
        )
        return not_enough("reward_evaluation", NAME, QUESTION, arm, why)
    weights = panel.weights(key / "prompts", settings.draws)
    taus = [(float(r.proxy.mean()[r.last()]), r.proxy.resampled(weights)[:, r.last()]) for r in found]
    units = min(int(r.proxy.prompts()[r.last()]) for r in found)
    _, high = band(np.array([t for t, _ in taus]), np.stack([d for _, d in taus], axis=1), units, settings.level)
    behind = [_behind(r, weights) for r in found]
    weak = [
        r.variant
        for r, most, (value, draws) in zip(found, high, behind, strict=True)
        if most < settings.min_agreement and (r.gold is None or float(np.quantile(draws, 0.05)) > 0 < value)
    ]
    estimates, series = _reported(found, weights)
    seen = "; ".join(f"{e.name} {shown(e)}" for e in estimates)
    return Diagnosis(
        link="reward_evaluation",
        name=NAME,
        question=QUESTION,
        arm=arm,
        verdict="alarm" if weak else "quiet",
        rule=(
            f"Alarm when the proxy ranks the last checkpoint's replies otherwise in other words: Kendall's mean tau within prompts below "
            f"{settings.min_agreement:g} (upper limit of a simultaneous {settings.level:.0%} band over variants), and below gold's "
            f"own where gold is known: {seen}. Depends on the words: {', '.join(weak) or 'none'}."
        ),
        estimates=tuple(estimates),
        series={"step": panel.steps.tolist(), **series},
        samples=_turned(found, weak),
    )


def _rankings(panel: Panel, records: pd.DataFrame, variant: str) -> _Rankings | None:
    other = variant_panel(panel, records, variant)
    pair = twins(panel, other) if other is not None else None
    columns = [c for c in ("proxy_current", "proxy_fixed") if pair is not None and pair.values(c) is not None]
    if pair is None or not columns:
        return None
    values, gold = pair.values(columns[0]), pair.values("gold")
    assert values is not None
    proxy = _taus(pair, *values)
    return None if proxy is None else _Rankings(variant=variant, proxy=proxy, gold=None if gold is None else _taus(pair, *gold), pair=pair)


def _taus(pair: Twins, first: Array, second: Array) -> Cells | None:
    """Tau-b of each prompt and checkpoint with two or more replies and no constant ranking; None where there is none."""
    panel = pair.panel()
    shape = (len(panel.prompts), len(panel.steps))
    tau = np.full(shape, np.nan)
    known = np.flatnonzero(np.isfinite(first) & np.isfinite(second))
    cell = panel.prompt[known] * shape[1] + panel.step[known]
    rows = known[np.argsort(cell, kind="stable")]
    names, starts, counts = np.unique(np.sort(cell), return_index=True, return_counts=True)
    for size in np.unique(counts[counts > 1]):  # cells of one size are ranked together
        alike = counts == size
        places = rows[starts[alike][:, None] + np.arange(size)]
        tau.flat[names[alike]] = rank.kendall(first[places], second[places])
    there = np.isfinite(tau)
    return Cells(sums=np.where(there, tau, 0.0), counts=there.astype(float)) if there.any() else None


def _behind(r: _Rankings, weights: Array) -> tuple[float, Array]:
    """Gold's tau minus the proxy's at the last checkpoint, on the prompts that have both; 0 where gold is unknown."""
    if r.gold is None:
        return 0.0, np.zeros(len(weights))
    both = (r.gold.counts * r.proxy.counts)[:, r.last()]
    gap = np.where(both > 0, r.gold.sums[:, r.last()] - r.proxy.sums[:, r.last()], 0.0)
    if not both.any():
        return 0.0, np.zeros(len(weights))
    total = weights @ both
    return float(gap.sum() / both.sum()), np.divide(weights @ gap, total, out=np.zeros(len(weights)), where=total > 0)


def _reported(found: list[_Rankings], weights: Array) -> tuple[list[Estimate], dict[str, list[float | None]]]:
    estimates: list[Estimate] = []
    series: dict[str, list[float | None]] = {}
    for r in found:
        for name, cells in (("proxy", r.proxy), ("gold", r.gold)):
            if cells is None:
                continue
            values, draws, n = cells.mean(), cells.resampled(weights), int(cells.prompts()[r.last()])
            estimates.append(make_estimate(f"{name}_{r.variant}", float(values[r.last()]), draws[:, r.last()], n, "tau", method=METHOD))
            series |= curve_columns(f"{name}_{r.variant}", values, draws, len(cells.counts))
    return estimates, series


def _turned(found: list[_Rankings], weak: list[str], count: int = 5) -> tuple[str, ...]:
    """Plain samples whose place within their prompt changed most, by the proxy."""
    out: list[str] = []
    for r in found:
        values = r.pair.values("proxy_fixed") or r.pair.values("proxy_current")
        if r.variant not in weak or values is None:
            continue
        panel = r.pair.panel()
        here = np.flatnonzero(panel.step == r.last())
        places = [pd.Series(v[here]).groupby(panel.prompt[here]).rank().to_numpy() for v in values]
        moved = np.nan_to_num(np.abs(places[1] - places[0]), nan=-1.0)
        out += [str(s) for s in panel.rows["sample_id"].to_numpy()[here[np.argsort(-moved, kind="stable")[:count]]]]
    return tuple(dict.fromkeys(out))
