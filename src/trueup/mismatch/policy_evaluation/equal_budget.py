"""Ways to use one reward at equal KL and at equal cost, each on its own path, paired by prompt.

A path is what a method offers for more and more budget: the checkpoints of an optimizer, or the settings of a decoder in rising strength.
Its value at a KL is read where its mean KL first reaches it, on the straight line between the two points around it; a path that never gets
there, or begins beyond it, has no value. Its value at a cost is read likewise, but a path that ends below the cost keeps its last value:
it could be bought, and it spends less. Resampling prompts resamples a whole path, KL and value alike, and all paths at once
(Gao et al. 2023, arXiv:2210.10760, put optimisation and best-of-n on one axis of KL). KL of different methods need not mean the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from trueup.core.rng import Key
from trueup.mismatch.panel import METHOD, Cells, Panel, panel_of
from trueup.stats.bootstrap import DRAWS, Array, cluster_weights, make_estimate
from trueup.stats.estimate import Estimate

KL, COST = "kl_nats", "core_hours"


@dataclass(frozen=True, kw_only=True)
class AtBudget:
    """One method at one budget."""

    arm: str
    axis: str
    """``kl_nats`` or ``core_hours``."""
    budget: float
    column: str
    """``gold`` or an evaluation."""
    value: Estimate
    """Absent where the path does not reach the budget."""
    difference: Estimate | None
    """From the method that all are compared with, on the same prompts; None of that method itself, absent where either is."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        rest = {"value": self.value.to_dict(), "difference": self.difference.to_dict() if self.difference else None}
        return {"arm": self.arm, "axis": self.axis, "budget": self.budget, "column": self.column, **rest}


@dataclass(frozen=True, kw_only=True)
class MethodPath:
    """One method's points, on the prompts that all methods answered."""

    arm: str
    steps: list[int]
    """Updates done, or number of the setting."""
    kl: Cells | None
    kl_is_bound: bool
    """KL is known by a bound only, as of best-of-n: in truth there is at most so much."""
    cost: Array
    """[S] core-hours up to each point; NaN where nobody measured."""
    values: dict[str, Cells]
    """By column."""

    def means(self, column: str) -> list[float | None]:
        """A column's mean at every point."""
        return [float(v) if np.isfinite(v) else None for v in self.values[column].mean()]


@dataclass(frozen=True, kw_only=True)
class Compared:
    """Methods side by side."""

    name: str
    seed: int
    against: str
    """Method that differences are taken from."""
    paths: Sequence[MethodPath]
    found: Sequence[AtBudget]
    kinds: Mapping[str, str]
    """Method -> its optimizer, or the kind of its decoder."""
    decoders: Sequence[str]
    """Methods that decode the SFT policy, whose cost is of answering; of the others it is of training."""


def paths_of(records: pd.DataFrame, arms: Sequence[str], costs: Mapping[str, Sequence[float]]) -> list[MethodPath]:
    """The methods' points; only prompts that every method answered at some point count.

    Args:
        records: flat frame of sample records; ``step`` orders the points of a path.
        arms: methods.
        costs: core-hours up to each of a method's points, in order; methods may be missing.

    Raises:
        ValueError: a method has no test rows, or as many costs as points it has not.
    """
    panels = []
    for arm in arms:
        panel = panel_of(records, arm)
        if panel is None:
            raise ValueError(f"'{arm}' has no test rows")
        panels.append(panel)
    common = set(panels[0].prompts).intersection(*(p.prompts for p in panels[1:]))
    return [_path(panel, np.array([p in common for p in panel.prompts]), costs.get(panel.arm)) for panel in panels]


def at_budgets(
    paths: Sequence[MethodPath], budgets: Mapping[str, Sequence[float]], against: str, key: Key, draws: int = DRAWS
) -> list[AtBudget]:
    """Every method at every budget, in every column that all paths have.

    Args:
        paths: from `paths_of`.
        budgets: of ``kl_nats`` and ``core_hours``.
        against: the method that differences are taken from.
        key: random stream of the bootstrap.
        draws: resamples.
    """
    base = next(p for p in paths if p.arm == against)
    prompts = len(base.values["gold"].counts) if "gold" in base.values else len(next(iter(base.values.values())).counts)
    weights = cluster_weights(prompts, draws, key)
    columns = [c for c in base.values if all(c in p.values for p in paths)]
    found = []
    for axis, wanted in budgets.items():
        for budget in wanted:
            for column in columns:
                read = {p.arm: _read(p, axis, budget, column, weights) for p in paths}
                found += [_cell(arm, axis, budget, column, read, against, prompts) for arm in read]
    return found


def at_budget(x: Array, y: Array, budget: float, *, keeps: bool = False) -> Array:
    """Value of paths where they first reach a budget: [R, S] and [R, S] -> [R]; NaN where they begin beyond it or do not get there.

    Args:
        x: budget spent at each point.
        y: value at each point.
        budget: what is to be spent.
        keeps: a path that does not get there keeps its last value.
    """
    there = x >= budget
    place = there.argmax(axis=1)
    rows = np.arange(len(x))
    after, before = x[rows, place], x[rows, np.maximum(place - 1, 0)]
    gap = np.where(after > before, after - before, 1.0)
    part = np.where(place > 0, (budget - before) / gap, 1.0)
    value = y[rows, place] * part + y[rows, np.maximum(place - 1, 0)] * (1 - part)
    never = np.where(np.isnan(x).all(axis=1) | (not keeps), np.nan, y[:, -1])
    begun = x[:, 0] <= budget
    return np.where(there.any(axis=1), np.where(begun, value, np.nan), never)


def _path(panel: Panel, kept: Any, cost: Sequence[float] | None) -> MethodPath:
    steps = [int(s) for s in panel.steps]
    if cost is not None and len(cost) != len(steps):
        raise ValueError(f"'{panel.arm}' has {len(steps)} points and {len(cost)} costs")
    kl, bound = panel.column_cells(KL), False
    if kl is None:
        kl, bound = panel.column_cells("kl_bound_nats"), True
    named = {"gold": "gold", **{name: f"evaluations.{name}" for name in panel.evaluations()}}
    cells = {name: panel.column_cells(column) for name, column in named.items()}
    return MethodPath(
        arm=panel.arm,
        steps=steps,
        kl=None if kl is None else _only(kl, kept),
        kl_is_bound=bound and kl is not None,
        cost=np.full(len(steps), np.nan) if cost is None else np.asarray(cost, dtype=float),
        values={name: _only(c, kept) for name, c in cells.items() if c is not None},
    )


def _only(cells: Cells, kept: Any) -> Cells:
    return Cells(sums=cells.sums[kept], counts=cells.counts[kept])


def _read(path: MethodPath, axis: str, budget: float, column: str, weights: Array) -> tuple[float, Array]:
    """Value at the budget, and [R] the same of the resamples."""
    cells = path.values[column]
    y = np.concatenate([cells.mean()[None], cells.resampled(weights)])
    if axis == COST:
        x = np.broadcast_to(np.maximum.accumulate(path.cost), y.shape)
    elif path.kl is None:
        x = np.full(y.shape, np.nan)
    else:
        x = np.concatenate([path.kl.mean()[None], path.kl.resampled(weights)])
    found = at_budget(x, y, budget, keeps=axis == COST)
    return float(found[0]), found[1:]


def _cell(arm: str, axis: str, budget: float, column: str, read: Mapping[str, tuple[float, Array]], against: str, prompts: int) -> AtBudget:
    (value, draws), (base, base_draws) = read[arm], read[against]
    difference, unit = None, "score" if column == "gold" else ""
    if arm != against:
        difference = make_estimate(f"{arm} - {against}", value - base, draws - base_draws, prompts, unit, method=METHOD)
    estimate = make_estimate(arm, value, draws, prompts, unit, method=METHOD)
    return AtBudget(arm=arm, axis=axis, budget=budget, column=column, value=estimate, difference=difference)
