"""Isolation: of reward model, optimizer and evaluation one is varied while the other two are held fixed, and the change in the outcome
is given to the parts (the paper's section 4.1 asks for this).

An outcome is the gain of a column from the first checkpoint to the last, in standard deviations of the replies before training, read as
one evaluation reads it: which column, on which prompts, of which variant. Two attributions of a change:

- one at a time: the outcome with one part exchanged, less the baseline's; interactions are nobody's.
- Shapley (1953), where every combination of baseline and alternatives was run: a part's marginal effect, averaged over all orders in
  which the parts can be exchanged. The parts add up to the whole change.

A part's share is its effect over the sum of all effects, all without sign, each shrunk by 1 - (2 / z)^2 with z in standard errors, so
that parts that do nothing do not share in the noise. Intervals resample prompts, the same for all cells; a training run's own luck
(its seed) is not in them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, product
from math import factorial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from trueup.core.errors import UserError
from trueup.core.rng import Key
from trueup.mismatch.panel import METHOD, numbers
from trueup.stats.bootstrap import DRAWS, Array, cluster_weights, make_estimate
from trueup.stats.estimate import Estimate

FACTORS = ("reward_model", "optimizer", "evaluation")
BASELINE = "baseline"
SHOWN = 2.0
"""Standard errors below which an effect has no share."""


class Cell(NamedTuple):
    """One combination: names of alternatives, ``baseline`` where a part is not exchanged."""

    reward_model: str = BASELINE
    optimizer: str = BASELINE
    evaluation: str = BASELINE

    def exchanged(self) -> tuple[int, ...]:
        """Positions of the parts that are not the baseline's."""
        return tuple(i for i, name in enumerate(self) if name != BASELINE)

    def only(self, parts: Iterable[int]) -> Cell:
        """The same with the other parts as in the baseline."""
        kept = set(parts)
        return Cell(*(name if i in kept else BASELINE for i, name in enumerate(self)))


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How an evaluation counts."""

    column: str
    """``gold``, ``proxy_fixed`` or a column ``evaluations.<name>``."""
    prompts: str | None = None
    """Regular expression that a prompt's text must contain a match of; all prompts if None."""
    variant: str | None = None
    """Rows of that variant; plain samples if None."""


@dataclass(frozen=True, kw_only=True)
class Ends:
    """Sums and counts of one column by prompt [P], at the first and the last checkpoint."""

    first: tuple[Array, Array]
    last: tuple[Array, Array]

    def gain(self, weights: Array) -> Array:
        """[R] Mean at the last less mean at the first, under prompt weights [R, P]; NaN where a side has nothing."""
        sides = []
        for sums, counts in (self.last, self.first):
            below = weights @ counts
            sides.append(np.divide(weights @ sums, below, out=np.full(len(weights), np.nan), where=below > 0))
        return np.asarray(sides[0] - sides[1])


@dataclass(frozen=True, kw_only=True)
class Change:
    """What exchanging some parts does, and which of them does it."""

    cell: Cell
    total: Estimate
    """Outcome of the cell less the baseline's."""
    effects: dict[str, Estimate]
    """Part -> what it adds."""
    shares: dict[str, Estimate]
    """Part -> share of all that is shown; ``value`` None where nothing is."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for report.json."""
        return {
            "cell": self.cell._asdict(),
            "total": self.total.to_dict(),
            "effects": {n: e.to_dict() for n, e in self.effects.items()},
            "shares": {n: e.to_dict() for n, e in self.shares.items()},
        }


@dataclass(frozen=True, kw_only=True)
class Isolation:
    """All outcomes and attributions."""

    outcomes: dict[Cell, Estimate]
    one_at_a_time: tuple[Change, ...]
    """For every choice of one alternative a part: single exchanges only; ``total`` is their sum."""
    shapley: tuple[Change, ...]
    """The same where every combination was run; ``total`` is the outcome with all exchanged, less the baseline's."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for report.json."""
        return {
            "outcomes": [{**cell._asdict(), "outcome": e.to_dict()} for cell, e in self.outcomes.items()],
            "one_at_a_time": [c.to_dict() for c in self.one_at_a_time],
            "shapley": [c.to_dict() for c in self.shapley],
        }


def ends_of(rows: pd.DataFrame, arm: str, reading: Reading, prompts: Sequence[str]) -> Ends:
    """What one evaluation reads of one arm.

    Args:
        rows: flat frame of sample records.
        arm: name of the arm.
        reading: column, prompts, variant.
        prompts: prompt ids [P], the order of the result.

    Raises:
        UserError: the records hold no such column, variant or prompt at the first or the last checkpoint.
    """
    here = rows[(rows["arm"] == arm) & (rows["split"] == "test") & rows["step"].notna()]
    variant = here["variant"] if "variant" in here else pd.Series(None, index=here.index, dtype=object)
    found = here[variant.isna() if reading.variant is None else variant == reading.variant]
    if reading.prompts is not None:
        found = found[found["prompt"].astype(str).map(lambda text: re.search(reading.prompts or "", text) is not None)]
    values = numbers(found[reading.column]) if reading.column in found and len(found) else None
    steps = here["step"]
    ends = [] if values is None else [(found["step"] == s).to_numpy() & np.isfinite(values) for s in (steps.max(), steps.min())]
    if values is None or not all(e.any() for e in ends):
        what = f"column '{reading.column}'" + (f" of variant '{reading.variant}'" if reading.variant else "")
        on = f" on prompts that match '{reading.prompts}'" if reading.prompts is not None else ""
        raise UserError(f"has no value of {what}{on} at the first and at the last checkpoint. Name what the probes record.", where=arm)
    place = pd.Index(prompts).get_indexer(found["prompt_id"])
    sides = []
    for end in ends:
        kept = end & (place >= 0)
        size = len(prompts)
        sums = np.bincount(place[kept], values[kept], size).astype(float)
        sides.append((sums, np.bincount(place[kept], minlength=size).astype(float)))
    return Ends(last=sides[0], first=sides[1])


def isolate(outcomes: Mapping[Cell, Ends], scales: Mapping[str, float], key: Key, draws: int = DRAWS) -> Isolation:
    """Outcomes of all cells, and which part changes them.

    Args:
        outcomes: what was run; the cell of baselines and single exchanges among them.
        scales: evaluation -> standard deviation of its column over the baseline's replies before training.
        key: random stream.
        draws: resamples of the prompts.
    """
    size = len(next(iter(outcomes.values())).first[0])
    weights = np.vstack([np.ones((1, size)), cluster_weights(size, draws, key)])
    curves = {cell: ends.gain(weights) / scales[cell.evaluation] for cell, ends in outcomes.items()}
    n = {cell: int(min((side[1] > 0).sum() for side in (e.first, e.last))) for cell, e in outcomes.items()}
    base = Cell()
    levels = [list(dict.fromkeys(cell[i] for cell in outcomes if cell[i] != BASELINE)) for i in range(len(FACTORS))]
    singles, grids = [], []
    for choice in product(*(names or [BASELINE] for names in levels)):
        target = Cell(*choice)
        parts = target.exchanged()
        if not parts:
            continue
        count = min(n[target.only([i])] for i in parts)
        alone = {FACTORS[i]: curves[target.only([i])] - curves[base] for i in parts}
        singles.append(_change(target, alone, np.sum(list(alone.values()), axis=0), min(count, n[base])))
        every = [target.only(s) for k in range(len(parts) + 1) for s in combinations(parts, k)]
        if len(parts) > 1 and all(cell in curves for cell in every):
            by_part = shapley_values(parts, lambda s, target=target: curves[target.only(s)])  # type: ignore[misc]
            grids.append(_change(target, {FACTORS[i]: v for i, v in by_part.items()}, curves[target] - curves[base], min(count, n[base])))
    found = {cell: _estimate("outcome", c, n[cell]) for cell, c in curves.items()}
    return Isolation(outcomes=found, one_at_a_time=tuple(singles), shapley=tuple(grids))


def shapley_values(parts: Sequence[int], value: Callable[[tuple[int, ...]], Array]) -> dict[int, Array]:
    """Each part's marginal effect averaged over all orders of exchange.

    Args:
        parts: the players.
        value: outcome of a coalition, in any shape.
    """
    n, found = len(parts), {}
    for part in parts:
        others = [p for p in parts if p != part]
        terms = [
            factorial(k) * factorial(n - k - 1) / factorial(n) * (value((*s, part)) - value(s))
            for k in range(n)
            for s in combinations(others, k)
        ]
        found[part] = np.asarray(np.sum(terms, axis=0))
    return found


def _change(cell: Cell, effects: Mapping[str, Array], total: Array, n: int) -> Change:
    """Effects [1 + R] of each part, the value first."""
    sizes = {name: _shrunk(e) for name, e in effects.items()}
    whole = np.sum(list(sizes.values()), axis=0)
    shares = {name: np.divide(s, whole, out=np.full(len(s), np.nan), where=whole > 0) for name, s in sizes.items()}
    return Change(
        cell=cell,
        total=_estimate("change", total, n),
        effects={name: _estimate(name, e, n) for name, e in effects.items()},
        shares={name: replace(_estimate(name, s, n), unit="share") for name, s in shares.items()},
    )


def _shrunk(effect: Array) -> Array:
    """Sizes [1 + R], shrunk to nothing at two standard errors and hardly at many."""
    size, least = np.abs(effect), SHOWN * float(np.nanstd(effect[1:]))
    return size if not least > 0 else np.asarray(size * (1 - (least / np.maximum(size, least)) ** 2))


def _estimate(name: str, curve: Array, n: int) -> Estimate:
    return make_estimate(name, float(curve[0]), curve[1:], n, "SD of replies", method=METHOD)
