"""Positions: in which part of a reply do proxy and gold part (Lambert & Calandra 2023, arXiv:2311.00168, section 4.2)?

The plain samples were cut after a share of their tokens (variants ``cut_25``, ``cut_50``, ...) and scored as unfinished replies. What a
part is worth is the score with it less the score without it, of the same reply. Proxy and gold are compared part by part, and the
first checkpoint with the last: optimisation against a mismatch pays for a part that gold is the worse for.

Series, one entry a checkpoint: ``step``; for each part ``proxy_<from>_<to>`` and ``gold_<from>_<to>`` (per cent of the reply; the
first part is ``0_<share>``, its worth the score itself), each with ``_low`` and ``_high``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field

from trueup.core.config import Config
from trueup.core.rng import Key
from trueup.mismatch.diagnosis import Diagnosis, not_enough, shown
from trueup.mismatch.harm import harm_of
from trueup.mismatch.panel import METHOD, Panel, curve_columns, panel_of
from trueup.mismatch.variants import twins, variant_names, variant_panel
from trueup.stats.bootstrap import DRAWS, Array, make_estimate
from trueup.stats.estimate import Estimate
from trueup.stats.simultaneous import band

NAME = "positions"
QUESTION = "In which part of a reply do proxy and gold part?"

_CUT = re.compile(r"^cut_(\d+)$")
SCORES = {"proxy": "proxy_fixed", "gold": "gold"}


class Positions(Config):
    """Thresholds of the positions diagnosis."""

    min_prompts: int = Field(default=10, ge=2)
    """Fewer prompts with cut replies at either end are not enough data."""
    min_loss: float = Field(default=0.1, ge=0)
    """A fall of a part's gold by less, in standard deviations of gold at the first checkpoint, raises no alarm."""
    level: float = Field(default=0.95, gt=0.5, lt=1)
    """Coverage of the band over all parts and both scores."""
    draws: int = Field(default=DRAWS, ge=100)
    """Bootstrap resamples."""


@dataclass(frozen=True, kw_only=True)
class _Part:
    """What one part of the replies is worth to a score: [S] and resamples [R, S]."""

    name: str
    values: Array
    draws: Array
    units: int


def diagnose(records: pd.DataFrame, arm: str, settings: Positions, key: Key) -> Diagnosis:
    """Worth of each part; alarm when one gained proxy and lost gold since the first checkpoint, and harm is shown.

    Args:
        records: flat frame of sample records, with rows of cut replies.
        arm: name of the arm.
        settings: thresholds.
        key: random stream.
    """
    panel = panel_of(records, arm)
    found = None if panel is None else _parts(panel, records, arm, settings, key)
    if panel is None or found is None:
        why = (
            f"proxy_fixed and gold of cut replies (variants cut_25, cut_50, ...) to {settings.min_prompts} prompts at two checkpoints are "
            "needed; a probe writes them with `variants: [{kind: cut, share: 0.5}]`"
        )
        return not_enough("policy_evaluation", NAME, QUESTION, arm, why)
    parts, (first, last) = found
    pieces = [p for kind in SCORES for p in parts[kind]]
    changes = np.array([p.values[last] - p.values[first] for p in pieces])
    draws = np.stack([p.draws[:, last] - p.draws[:, first] for p in pieces], axis=1)
    units = min(p.units for p in pieces)
    low, high = band(changes, draws, units, settings.level)
    gold = panel.column("gold")
    assert gold is not None
    size = settings.min_loss * float(np.nanstd(gold[panel.step == first]))
    count = len(parts["gold"])
    apart = [
        parts["gold"][i].name.removeprefix("gold_")
        for i in range(count)
        if low[i] > 0 and high[count + i] < 0 and -changes[count + i] >= size
    ]
    harm = harm_of(panel, key, draws=settings.draws)
    estimates = [
        make_estimate(f"change_{p.name}", float(c), draws[:, i], p.units, "score", method=METHOD)
        for i, (p, c) in enumerate(zip(pieces, changes, strict=True))
    ]
    series: dict[str, list[float | None]] = {}
    for p in pieces:
        series |= curve_columns(p.name, p.values, p.draws, p.units)
    return Diagnosis(
        link="policy_evaluation",
        name=NAME,
        question=QUESTION,
        arm=arm,
        verdict="alarm" if apart and harm.shown else "quiet",
        rule=_rule(settings, size, estimates, apart) + f" {harm.said()}",
        estimates=tuple(estimates),
        series={"step": panel.steps.tolist(), **series},
    )


def _parts(
    panel: Panel, records: pd.DataFrame, arm: str, settings: Positions, key: Key
) -> tuple[dict[str, list[_Part]], tuple[int, int]] | None:
    """Parts of the replies by score, and the positions of the first and last checkpoint that have them all."""
    shares = sorted(int(m.group(1)) for v in variant_names(records, arm) if (m := _CUT.match(v)))
    scores = {name: panel.column(column) for name, column in SCORES.items()}
    proxy, gold = scores["proxy"], scores["gold"]
    if not shares or proxy is None or gold is None:
        return None
    columns = {name: [np.full(len(panel.rows), np.nan) for _ in shares] for name in SCORES}
    for i, share in enumerate(shares):
        other = variant_panel(panel, records, f"cut_{share}")
        pair = twins(panel, other) if other is not None else None
        for name, column in SCORES.items():
            values = pair.values(column) if pair is not None else None
            if pair is None or values is None:
                return None
            columns[name][i][pair.of_plain] = values[1]
    levels = {name: np.stack([*columns[name], full]) for name, full in (("proxy", proxy), ("gold", gold))}  # [parts, N]
    whole = np.all([np.isfinite(v).all(axis=0) for v in levels.values()], axis=0)  # replies too short for a cut are left out of all parts
    prompts = panel.cells(np.where(whole, 1.0, np.nan)).prompts()
    usable = np.flatnonzero(prompts >= settings.min_prompts)
    if len(usable) < 2:
        return None
    weights = panel.weights(key / "prompts", settings.draws)
    bounds = [0, *shares, 100]
    out: dict[str, list[_Part]] = {}
    for name, level in levels.items():
        worth = np.diff(level, axis=0, prepend=0.0)
        out[name] = [
            _part(f"{name}_{bounds[i]}_{bounds[i + 1]}", panel, np.where(whole, w, np.nan), weights, usable) for i, w in enumerate(worth)
        ]
    return out, (int(usable[0]), int(usable[-1]))


def _part(name: str, panel: Panel, worth: Array, weights: Array, usable: NDArray[np.int64]) -> _Part:
    cells = panel.cells(worth)
    keep = np.zeros(len(panel.steps), dtype=bool)
    keep[usable] = True
    values, draws = np.where(keep, cells.mean(), np.nan), np.where(keep, cells.resampled(weights), np.nan)
    return _Part(name=name, values=values, draws=draws, units=int(cells.prompts()[usable].min()))


def _rule(settings: Positions, size: float, estimates: list[Estimate], apart: list[str]) -> str:
    seen = "; ".join(f"{e.name.removeprefix('change_')} {shown(e)}" for e in estimates)
    return (
        f"Alarm when a part of the replies gained proxy_fixed and lost gold from the first to the last checkpoint, both beyond a "
        f"simultaneous {settings.level:.0%} band over all parts, the loss at least {size:.3g}, and harm is shown. Changes by per cent of "
        f"the reply: {seen}. Parted: {', '.join(apart) or 'none'}."
    )
