"""Checkpoint evaluations: numbers of whole checkpoints that were made elsewhere, such as benchmarks; did any fall while the proxy rose?

They are shares of items, of which only the sums are known. Two checkpoints are compared by the interval of Agresti & Caffo (2000): one
success and one failure more on each side, then the normal interval of a difference of shares. Checkpoints that answer the same items
are more alike than this supposes, so it is too wide rather than too narrow. Looking at all pairs of checkpoints and all evaluations is
paid for by dividing the error among them (Bonferroni).

Records hold them as rows of the split ``evaluation``: ``evaluations.NAME``, ``evaluations.NAME:n`` (items), ``evaluations.NAME:side`` (1
higher is better, -1 lower).

Series, one entry a checkpoint with samples or evaluations: ``step``; ``proxy_fixed`` and ``evaluations.NAME``, each with ``_low`` and
``_high``; ``fallen``: names that lie below an earlier checkpoint's there, joined by commas.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from pydantic import Field
from scipy import stats

from trueup.core.config import Config
from trueup.core.rng import Key
from trueup.mismatch.diagnosis import Diagnosis, not_enough
from trueup.mismatch.panel import Panel, absent_columns, curve_columns, panel_of, plain
from trueup.stats.bootstrap import DRAWS, Array, interval
from trueup.stats.estimate import Estimate

NAME = "checkpoint_evaluations"
QUESTION = "Did evaluations made elsewhere fall while the proxy rose?"
SPLIT = "evaluation"
METHOD = "Agresti-Caffo"


class CheckpointEvaluations(Config):
    """Thresholds of this diagnosis."""

    min_drop: float = Field(default=0.02, ge=0, lt=1)
    """A fall below this raises no alarm, however certain; a share."""
    level: float = Field(default=0.95, gt=0.5, lt=1)
    """Chance that no pair of checkpoints of no evaluation seems to fall where none does."""
    draws: int = Field(default=DRAWS, ge=100)
    """Bootstrap resamples of the proxy."""


@dataclass(frozen=True, kw_only=True)
class Shares:
    """One evaluation at its checkpoints, all [S]; NaN where it was not made."""

    value: Array
    n: Array
    """Items; NaN where nobody said, or where the value is no share."""
    side: float
    """1 higher is better, -1 lower."""


def difference(first: tuple[float, float], second: tuple[float, float], level: float) -> tuple[float, float]:
    """Limits of second minus first of two shares (Agresti & Caffo 2000).

    Args:
        first: share and number of items.
        second: the same.
        level: coverage.
    """
    adjusted = [(p * n + 1) / (n + 2) for p, n in (first, second)]
    error = np.sqrt(sum(p * (1 - p) / (n + 2) for p, (_, n) in zip(adjusted, (first, second), strict=True)))
    half = float(stats.norm.ppf((1 + level) / 2)) * float(error)
    middle = adjusted[1] - adjusted[0]
    return middle - half, middle + half


def diagnose(records: pd.DataFrame, arm: str, settings: CheckpointEvaluations, key: Key) -> Diagnosis:
    """Alarm when an evaluation fell between two checkpoints beyond what chance explains, while the proxy rose.

    Args:
        records: flat frame of sample records.
        arm: name of the arm.
        settings: thresholds.
        key: random stream.
    """
    panel = panel_of(records, arm)
    rows = records[(records["arm"] == arm) & (records["split"] == SPLIT)] if "split" in records else records[:0]
    if rows.empty:
        return not_enough("policy_evaluation", NAME, QUESTION, arm, "no evaluations of whole checkpoints were given")
    proxy = panel.column_cells("proxy_fixed") if panel else None
    if panel is None or proxy is None:
        return not_enough("policy_evaluation", NAME, QUESTION, arm, "proxy_fixed is needed beside the evaluations")
    curve, draws = proxy.mean(), proxy.resampled(panel.weights(key / "prompts", settings.draws))
    found = evaluations_at(rows, panel)
    looked = sum(_pairs(e) for e in found.values())
    fallen, worst = _falls(found, curve, draws, len(panel.prompts), looked, settings)
    series: dict[str, list[Any]] = {
        "step": panel.steps.tolist(),
        "fallen": [",".join(n for n, at in fallen.items() if s in at) for s in range(len(panel.steps))],
        **curve_columns("proxy_fixed", curve, draws, len(panel.prompts)),
    }
    for name, e in found.items():
        series |= _columns(f"evaluations.{name}", e)
    told = "; ".join(worst[n] for n in fallen) or "none"
    rest = ", ".join(n for n, e in found.items() if not np.isfinite(e.n).any()) or "none"
    return Diagnosis(
        link="policy_evaluation",
        name=NAME,
        question=QUESTION,
        arm=arm,
        verdict="alarm" if fallen else "quiet" if looked else "not enough data",
        rule=(
            f"Alarm when an evaluation got worse between two checkpoints by at least {settings.min_drop:g}, its {settings.level:.0%} "
            f"interval (divided among the {looked} pairs looked at) excludes 0, and proxy_fixed rose there with an interval above 0: "
            f"{told}. Without the number of items, so without interval and alarm: {rest}."
        ),
        estimates=tuple(_change(name, e) for name, e in found.items()),
        series=series,
    )


def evaluations_at(rows: pd.DataFrame, panel: Panel) -> dict[str, Shares]:
    """The evaluations of checkpoint rows at the panel's steps, by name; only those with a value."""
    table = rows.set_index("step").reindex(panel.steps)
    found = {}
    for column in sorted(str(c) for c in rows.columns if str(c).startswith("evaluations.") and ":" not in str(c)):
        value = table[column].to_numpy(dtype=float)
        if np.isnan(value).all():
            continue
        n = table[f"{column}:n"].to_numpy(dtype=float) if f"{column}:n" in table else np.full(len(value), np.nan)
        sides = table[f"{column}:side"].dropna() if f"{column}:side" in table else pd.Series(dtype=float)
        share = (value >= 0) & (value <= 1)
        side = float(sides.iloc[0]) if len(sides) else 1.0
        found[column.removeprefix("evaluations.")] = Shares(value=value, n=np.where(share, n, np.nan), side=side)
    return found


def _pairs(e: Shares) -> int:
    """Pairs of checkpoints that can be compared."""
    known = int((np.isfinite(e.n) & np.isfinite(e.value)).sum())
    return known * (known - 1) // 2


def _falls(
    found: Mapping[str, Shares], curve: Array, draws: Array, prompts: int, looked: int, settings: CheckpointEvaluations
) -> tuple[dict[str, set[int]], dict[str, str]]:
    """Evaluation -> checkpoints that are worse than an earlier one, and the largest such fall in words."""
    level = 1 - (1 - settings.level) / max(looked, 1)
    fallen: dict[str, set[int]] = {}
    words: dict[str, str] = {}
    for name, e in found.items():
        largest = 0.0
        known = np.flatnonzero(np.isfinite(e.n) & np.isfinite(e.value))
        for a, b in ((int(a), int(b)) for i, a in enumerate(known) for b in known[i + 1 :]):
            low, high = difference((e.value[a], e.n[a]), (e.value[b], e.n[b]), level)
            drop = float(e.side * (e.value[a] - e.value[b]))
            certain = high < 0 if e.side > 0 else low > 0
            risen = float(np.asarray(interval((draws[:, b] - draws[:, a])[:, None], prompts)[0])[0]) > 0
            if drop >= settings.min_drop and certain and risen and curve[b] > curve[a]:
                fallen.setdefault(name, set()).add(b)
                if drop > largest:
                    largest, words[name] = drop, f"{name} from {e.value[a]:.3g} to {e.value[b]:.3g}"
    return fallen, words


def _change(name: str, e: Shares) -> Estimate:
    """Last minus first value, with its own interval."""
    known = np.flatnonzero(np.isfinite(e.value))
    a, b = int(known[0]), int(known[-1])
    counted = a != b and bool(np.isfinite(e.n[[a, b]]).all())
    low, high = difference((e.value[a], e.n[a]), (e.value[b], e.n[b]), 0.95) if counted else (None, None)
    n = int(min(e.n[a], e.n[b])) if counted else len(known)
    unit = "share" if counted else ""
    return Estimate(
        name=f"change_{name}", value=float(e.value[b] - e.value[a]), low=low, high=high, n=n, unit=unit, method=METHOD if counted else ""
    )


def _columns(name: str, e: Shares) -> dict[str, list[float | None]]:
    """Values with the interval of each share (Agresti & Coull 1998: two successes and two failures more)."""
    columns = {**absent_columns(name, len(e.value)), name: plain(e.value)}
    middle = (e.value * e.n + 2) / (e.n + 4)
    half = float(stats.norm.ppf(0.975)) * np.sqrt(middle * (1 - middle) / (e.n + 4))
    columns[f"{name}_low"], columns[f"{name}_high"] = plain(np.maximum(middle - half, 0)), plain(np.minimum(middle + half, 1))
    return columns
