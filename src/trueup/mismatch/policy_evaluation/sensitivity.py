"""Sensitivity: is the policy good only when it is decoded, and asked, as it was trained?

Replies of another decoding (``greedy``, ``temperature_...``) and to prompts with a trick (``prompt_...``, such as "think step by step")
are compared with the plain samples of the same prompts and checkpoint. What counts is how that gap changed since the first checkpoint:
a policy before its optimisation has a gap, too.

Series, one entry a checkpoint: ``step``; for each variant and measure ``<variant>.<measure>`` (variant minus plain) with ``_low`` and
``_high``; None where a checkpoint has no such rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from pydantic import Field

from trueup.core.config import Config
from trueup.core.rng import Key
from trueup.mismatch.diagnosis import Diagnosis, not_enough, shown
from trueup.mismatch.panel import METHOD, Panel, curve_columns, panel_of
from trueup.mismatch.variants import variant_names, variant_panel
from trueup.stats.bootstrap import DRAWS, Array, make_estimate
from trueup.stats.estimate import Estimate
from trueup.stats.simultaneous import band

NAME = "sensitivity"
QUESTION = "Does the policy fail where it is decoded or asked in another way than in training?"


class Sensitivity(Config):
    """Thresholds of the sensitivity diagnosis."""

    prefixes: tuple[str, ...] = ("greedy", "temperature_", "prompt_")
    """Beginnings of the names of variants that are compared."""
    measures: tuple[str, ...] = ("task_correct", "fact_correct", "quiz_correct")
    """Evaluations (without the prefix; more is better) that are compared beside gold."""
    min_prompts: int = Field(default=10, ge=2)
    """A variant on fewer common prompts at either end is left out."""
    min_loss: float = Field(default=0.2, ge=0)
    """A gap that widened by less, in standard deviations of the plain samples at the first checkpoint, raises no alarm."""
    level: float = Field(default=0.95, gt=0.5, lt=1)
    """Coverage of the band over all variants and measures."""
    draws: int = Field(default=DRAWS, ge=100)
    """Bootstrap resamples."""


@dataclass(frozen=True, kw_only=True)
class _Gap:
    """Variant minus plain: [S] and resamples [R, S]; its change between the first and the last checkpoint that have both."""

    name: str
    values: Array
    draws: Array
    units: int
    spread: float
    """Standard deviation of the plain samples at the first checkpoint."""
    ends: tuple[int, int]

    def change(self) -> tuple[float, Array]:
        first, last = self.ends
        return float(self.values[last] - self.values[first]), self.draws[:, last] - self.draws[:, first]


def diagnose(records: pd.DataFrame, arm: str, settings: Sensitivity, key: Key) -> Diagnosis:
    """Gaps of every variant; alarm when one is below 0 at the last checkpoint and wider than at the first, beyond the band.

    Args:
        records: flat frame of sample records, with rows of variants.
        arm: name of the arm.
        settings: thresholds.
        key: random stream.
    """
    panel = panel_of(records, arm)
    names = [v for v in variant_names(records, arm) if v.startswith(settings.prefixes)]
    gaps = [] if panel is None else _gaps(panel, records, names, settings, key)
    if panel is None or not gaps:
        why = (
            f"rows of a variant ({', '.join(settings.prefixes)}...) with gold or one of {', '.join(settings.measures)}, on "
            f"{settings.min_prompts} prompts at two checkpoints, are needed; a probe writes them with `variants: [greedy]`"
        )
        return not_enough("policy_evaluation", NAME, QUESTION, arm, why)
    changes = [g.change() for g in gaps]
    values, draws = np.array([v for v, _ in changes]), np.stack([d for _, d in changes], axis=1)
    lasts, last_draws = np.array([g.values[g.ends[1]] for g in gaps]), np.stack([g.draws[:, g.ends[1]] for g in gaps], axis=1)
    units = min(g.units for g in gaps)
    _, high = band(np.r_[values, lasts], np.concatenate([draws, last_draws], axis=1), units, settings.level)
    count = len(gaps)
    failed = [
        g.name
        for i, g in enumerate(gaps)
        if high[i] < 0 and high[count + i] < 0 and -values[i] >= settings.min_loss * g.spread and g.spread > 0
    ]
    estimates: list[Estimate] = []
    series: dict[str, list[float | None]] = {}
    for g, (value, drawn) in zip(gaps, changes, strict=True):
        last = g.ends[1]
        estimates.append(make_estimate(f"gap_{g.name}", float(g.values[last]), g.draws[:, last], g.units, "", method=METHOD))
        estimates.append(make_estimate(f"gap_change_{g.name}", value, drawn, g.units, "", method=METHOD))
        series |= curve_columns(g.name, g.values, g.draws, g.units)
    seen = "; ".join(f"{e.name.removeprefix('gap_change_')} {shown(e)}" for e in estimates[1::2])
    return Diagnosis(
        link="policy_evaluation",
        name=NAME,
        question=QUESTION,
        arm=arm,
        verdict="alarm" if failed else "quiet",
        rule=(
            f"Alarm when a variant is worse than the plain samples at the last checkpoint, and by more than at the first, both beyond a "
            f"simultaneous {settings.level:.0%} band over all variants and measures, and by at least {settings.min_loss:g} standard "
            f"deviations. Change of variant minus plain: {seen}. Failed: {', '.join(failed) or 'none'}."
        ),
        estimates=tuple(estimates),
        series={"step": panel.steps.tolist(), **series},
        samples=_worst(panel, records, failed),
    )


def _gaps(panel: Panel, records: pd.DataFrame, names: list[str], settings: Sensitivity, key: Key) -> list[_Gap]:
    weights = panel.weights(key / "prompts", settings.draws)
    found = []
    for variant in names:
        other = variant_panel(panel, records, variant)
        for measure in ("gold", *settings.measures):
            column = measure if measure == "gold" else f"evaluations.{measure}"
            gap = None if other is None else _gap(f"{variant}.{measure}", panel, other, column, weights, settings)
            found += [] if gap is None else [gap]
    return found


def _gap(name: str, plain: Panel, other: Panel, column: str, weights: Array, settings: Sensitivity) -> _Gap | None:
    """Paired by prompt: only prompts of which both have a value at a checkpoint count there."""
    first, second = plain.column(column), other.column(column)
    if first is None or second is None:
        return None
    cells = [plain.cells(first), other.cells(second)]
    both = (cells[0].counts > 0) & (cells[1].counts > 0)
    usable = np.flatnonzero(both.sum(axis=0) >= settings.min_prompts)
    if len(usable) < 2:
        return None
    means = [np.divide(c.sums, c.counts, out=np.zeros_like(c.sums), where=c.counts > 0) for c in cells]
    difference = np.where(both, means[1] - means[0], 0.0)
    total = weights @ both
    draws = np.divide(weights @ difference, total, out=np.full(total.shape, np.nan), where=total > 0)
    counts = both.sum(axis=0)
    values = np.divide(difference.sum(axis=0), counts, out=np.full(len(counts), np.nan), where=counts >= settings.min_prompts)
    ends = (int(usable[0]), int(usable[-1]))
    start = first[(plain.step == ends[0]) & np.isfinite(first)]
    return _Gap(name=name, values=values, draws=draws, units=int(counts[usable].min()), spread=float(start.std()), ends=ends)


def _worst(panel: Panel, records: pd.DataFrame, failed: list[str], count: int = 5) -> tuple[str, ...]:
    """Replies of a failing variant at its last checkpoint, the worst by what failed."""
    out: list[str] = []
    for name in failed:
        variant, measure = name.rsplit(".", 1)
        other = variant_panel(panel, records, variant)
        values = None if other is None else other.column(measure if measure == "gold" else f"evaluations.{measure}")
        if other is None or values is None:
            continue
        rows = np.flatnonzero((other.step == other.step.max()) & np.isfinite(values))
        out += [str(s) for s in other.rows["sample_id"].to_numpy()[rows[np.argsort(values[rows], kind="stable")[:count]]]]
    return tuple(dict.fromkeys(out))
