"""Alignment tax: did the policy lose abilities that nobody meant to trade (Ouyang et al. 2022, section 4.2)?

Each ability is an evaluation that should not fall; first and last checkpoint are compared on the same prompts, all abilities in one
simultaneous band. A fall between them that was made good again is `tracking`'s to find. Where gold, or labels, are known at all
checkpoints, a loss is an alarm only if they show harm, too: what counts for the truth is its own business to weigh.

Series, one entry a checkpoint: ``step``; each ability, as ``<name>`` with ``_low`` and ``_high`` (interval of the level).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from pydantic import Field

from trueup.core.config import Config
from trueup.core.rng import Key
from trueup.mismatch.diagnosis import Diagnosis, not_enough, shown
from trueup.mismatch.harm import harm_of
from trueup.mismatch.panel import METHOD, Cells, Panel, curve_columns, panel_of
from trueup.stats.bootstrap import DRAWS, Array, make_estimate
from trueup.stats.estimate import Estimate
from trueup.stats.simultaneous import band

NAME = "alignment_tax"
QUESTION = "Did the policy lose abilities that it had before?"


class AlignmentTax(Config):
    """Thresholds of the alignment tax, and what counts as an ability."""

    abilities: tuple[str, ...] = ("quiz_correct", "fact_correct", "task_correct")
    """Evaluations (without the prefix) of which more is better and none should be lost."""
    min_prompts: int = Field(default=10, ge=2)
    """An ability measured on fewer prompts at both ends is left out."""
    min_loss: float = Field(default=0.1, ge=0, lt=1)
    """A smaller loss, as a share of the first checkpoint's level, raises no alarm, however certain it is."""
    level: float = Field(default=0.95, gt=0.5, lt=1)
    """Coverage of the band over all abilities."""
    draws: int = Field(default=DRAWS, ge=100)
    """Bootstrap resamples."""


def diagnose(records: pd.DataFrame, arm: str, settings: AlignmentTax, key: Key) -> Diagnosis:
    """Change of every ability from the first to the last checkpoint; alarm when one fell, beyond the band and ``min_loss``.

    Args:
        records: flat frame of sample records.
        arm: name of the arm.
        settings: thresholds.
        key: random stream.
    """
    panel = panel_of(records, arm)
    if panel is None or len(panel.steps) < 2:
        return not_enough("policy_evaluation", NAME, QUESTION, arm, "two checkpoints with test rows are needed")
    cells = _abilities(panel, settings)
    if not cells:
        wanted = ", ".join(settings.abilities)
        why = f"none of the evaluations {wanted} is recorded on {settings.min_prompts} prompts at the first and the last checkpoint"
        return not_enough("policy_evaluation", NAME, QUESTION, arm, why)
    weights = panel.weights(key / "prompts", settings.draws)
    curves = {name: (c.mean(), c.resampled(weights)) for name, c in cells.items()}
    changes = np.array([v[-1] - v[0] for v, _ in curves.values()])
    draws = np.stack([d[:, -1] - d[:, 0] for _, d in curves.values()], axis=1)
    units = {name: int(min(c.prompts()[[0, -1]])) for name, c in cells.items()}
    _, high = band(changes, draws, min(units.values()), settings.level)
    firsts = np.array([v[0] for v, _ in curves.values()])
    lost = [
        name
        for name, first, change, most in zip(curves, firsts, changes, high, strict=True)
        if most < 0 and -change >= settings.min_loss * abs(first)
    ]
    estimates = [
        make_estimate(f"change_{name}", c, draws[:, i], units[name], "", method=METHOD)
        for i, (name, c) in enumerate(zip(curves, changes, strict=True))
    ]
    series: dict[str, list[float | None]] = {}
    for name, (values, resampled) in curves.items():
        series |= curve_columns(name, values, resampled, len(panel.prompts))
    harm = harm_of(panel, key, draws=settings.draws)
    return Diagnosis(
        link="policy_evaluation",
        name=NAME,
        question=QUESTION,
        arm=arm,
        verdict="alarm" if lost and (harm.shown or harm.basis == "nothing") else "quiet",
        rule=f"{_rule(settings, panel, estimates, lost)} {harm.said()}",
        estimates=tuple(estimates),
        series={"step": panel.steps.tolist(), **series},
        samples=_forgotten(panel, cells, lost),
    )


def _abilities(panel: Panel, settings: AlignmentTax) -> dict[str, Cells]:
    """Abilities known on enough prompts at both ends."""
    found = {name: panel.column_cells(f"evaluations.{name}") for name in settings.abilities}
    return {name: c for name, c in found.items() if c is not None and min(c.prompts()[[0, -1]]) >= settings.min_prompts}


def _forgotten(panel: Panel, cells: Mapping[str, Cells], lost: list[str], count: int = 5) -> tuple[str, ...]:
    """Last replies to the prompts on which the lost abilities fell most, the worst reply of each."""
    out: list[str] = []
    for name in lost:
        values = panel.column(f"evaluations.{name}")
        assert values is not None
        level: Array = np.divide(
            cells[name].sums, cells[name].counts, out=np.full_like(cells[name].sums, np.nan), where=cells[name].counts > 0
        )
        fall = np.nan_to_num(level[:, 0] - level[:, -1], nan=-np.inf)
        for prompt in np.argsort(-fall, kind="stable")[:count]:
            rows = np.flatnonzero((panel.prompt == prompt) & (panel.step == len(panel.steps) - 1) & np.isfinite(values))
            if fall[prompt] > 0 and len(rows):
                out.append(str(panel.rows["sample_id"].iloc[rows[np.argmin(values[rows])]]))
    return tuple(dict.fromkeys(out))[: count * max(len(lost), 1)]


def _rule(settings: AlignmentTax, panel: Panel, estimates: list[Estimate], lost: list[str]) -> str:
    seen = "; ".join(f"{e.name.removeprefix('change_')} {shown(e)}" for e in estimates)
    return (
        f"Alarm when an ability fell from the first to the last checkpoint, beyond a simultaneous {settings.level:.0%} band over all of "
        f"them and by at least {settings.min_loss:.0%} of its first level, and harm is shown or nothing could show "
        f"it. Steps {panel.steps[0]} to {panel.steps[-1]}: {seen}. "
        f"Lost: {', '.join(lost) or 'none'}."
    )
