"""What is known at each checkpoint of one arm: the table that report.json's ``checkpoints`` and every figure along training show."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from trueup.core.rng import Key
from trueup.mismatch.panel import Panel, curve_estimates, panel_of
from trueup.stats.bootstrap import DRAWS, Array
from trueup.stats.estimate import Estimate


@dataclass(frozen=True, kw_only=True)
class CheckpointRow:
    """One checkpoint; a column that was never recorded is None, never 0."""

    step: int
    kl_nats: Estimate | None = None
    """KL(policy || reference) of whole replies; exact where recorded, else the mean log-ratio of the sampled replies."""
    proxy_fixed: Estimate | None = None
    proxy_current: Estimate | None = None
    gold: Estimate | None = None
    n_tokens: Estimate | None = None
    finished: Estimate | None = None
    """Share of replies that the policy ended itself."""
    evaluations: dict[str, Estimate] = field(default_factory=dict)
    """Only those with a value at this step."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for report.json."""
        named = {name: getattr(self, name) for name in _COLUMNS}
        values = {name: e.to_dict() if e is not None else None for name, e in named.items()}
        return {"step": self.step, **values, "evaluations": {name: e.to_dict() for name, e in self.evaluations.items()}}


_COLUMNS = {
    "kl_nats": "nats",
    "proxy_fixed": "score",
    "proxy_current": "score",
    "gold": "score",
    "n_tokens": "tokens",
    "finished": "share",
}


def checkpoint_table(records: pd.DataFrame, arm: str, key: Key, *, draws: int = DRAWS) -> list[CheckpointRow]:
    """Every checkpoint of an arm, by ascending step, from its test rows.

    Args:
        records: flat frame of sample records.
        arm: name of the arm.
        key: random stream of the bootstrap.
        draws: resamples behind each interval.

    Returns:
        one row a step; empty where the arm has no test rows. Intervals resample prompts.
    """
    panel = panel_of(records, arm)
    if panel is None:
        return []
    weights = panel.weights(key / "prompts", draws)
    columns = {name: _curve(panel, name, name, unit, weights) for name, unit in _COLUMNS.items()}
    battery = {name: _curve(panel, f"evaluations.{name}", name, "", weights) for name in panel.evaluations()}
    return [
        CheckpointRow(
            step=int(step),
            **{name: curve[s] for name, curve in columns.items()},
            evaluations={name: e for name, curve in battery.items() if (e := curve[s]) is not None},
        )
        for s, step in enumerate(panel.steps)
    ]


def _curve(panel: Panel, column: str, name: str, unit: str, weights: Array) -> list[Estimate | None]:
    cells = panel.column_cells(column)
    if cells is None:
        return [None] * len(panel.steps)
    return [e if e.value is not None else None for e in curve_estimates(cells, weights, name, unit)]
