"""One arm's checkpoints as prompts x steps: what the diagnoses along training work on.

Resampling prompts resamples whole rows of this table, the same prompts at every step, so that differences between checkpoints are
paired and a whole curve is resampled at once. Sorting a million rows takes seconds, so `keeping` lets all diagnoses of one frame share it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from trueup.core.rng import Key
from trueup.stats.bootstrap import DRAWS, Array, cluster_weights, interval, make_estimate
from trueup.stats.estimate import Estimate

METHOD = "prompt bootstrap"
T = TypeVar("T")
_KEPT: ContextVar[tuple[pd.DataFrame, dict[Hashable, Any]] | None] = ContextVar("kept", default=None)


@contextmanager
def keeping(records: pd.DataFrame) -> Iterator[None]:
    """Inside, what is made of this frame by `kept` is made once. Nobody may change the frame meanwhile."""
    before = _KEPT.get()
    if before is not None and before[0] is records:
        yield
        return
    token = _KEPT.set((records, {}))
    try:
        yield
    finally:
        _KEPT.reset(token)


def kept(records: pd.DataFrame, name: Hashable, make: Callable[[], T]) -> T:
    """What ``make`` gives; inside `keeping` of the very same frame it is asked once a name."""
    found = _KEPT.get()
    if found is None or found[0] is not records:
        return make()
    if name not in found[1]:
        found[1][name] = make()
    value: T = found[1][name]
    return value


@dataclass(frozen=True, kw_only=True)
class Cells:
    """Sums and counts of one column in each prompt and step, both [P, S]."""

    sums: Array
    counts: Array

    def mean(self, rows: NDArray[np.bool_] | slice = slice(None)) -> Array:
        """[S] Mean of each step over the prompts in ``rows``; NaN where there is nothing."""
        return _divide(self.sums[rows].sum(axis=0), self.counts[rows].sum(axis=0))

    def resampled(self, weights: Array) -> Array:
        """[R, S] Means of each step under prompt weights [R, P]."""
        return _divide(weights @ self.sums, weights @ self.counts)

    def prompts(self) -> NDArray[np.int64]:
        """[S] Prompts with a value, by step."""
        return (self.counts > 0).sum(axis=0)


@dataclass(frozen=True, kw_only=True)
class Panel:
    """The test rows of one arm with their place in the prompts x steps table."""

    arm: str
    rows: pd.DataFrame
    prompts: NDArray[np.object_]
    """[P] sorted."""
    steps: NDArray[np.int64]
    """[S] ascending."""
    prompt: NDArray[np.int64]
    """[N] Position of each row's prompt."""
    step: NDArray[np.int64]
    """[N] Position of each row's step."""
    memory: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)
    """What was made of this panel, by name; see `trueup.mismatch.pairs.policy_pairs`."""

    def column(self, name: str) -> Array | None:
        """[N] A numeric column, NaN where missing; None where the column is absent or wholly empty."""
        if name == "kl_nats":
            return self._kl()
        if name not in self.rows:
            return None
        return numbers(self.rows[name])

    def cells(self, values: Array) -> Cells:
        """Sums and counts of row values [N] in each prompt and step."""
        present = ~np.isnan(values)
        place = (self.prompt * len(self.steps) + self.step)[present]
        shape = (len(self.prompts), len(self.steps))
        size = shape[0] * shape[1]
        sums = np.bincount(place, weights=values[present], minlength=size).reshape(shape).astype(float)
        return Cells(sums=sums, counts=np.bincount(place, minlength=size).reshape(shape).astype(float))

    def column_cells(self, name: str) -> Cells | None:
        """`cells` of a column, None where it is absent."""
        values = self.column(name)
        return None if values is None else self.cells(values)

    def evaluations(self) -> list[str]:
        """Names of the evaluations that have any value, sorted."""
        names = sorted(str(c).removeprefix("evaluations.") for c in self.rows.columns if str(c).startswith("evaluations."))
        return [n for n in names if self.column(f"evaluations.{n}") is not None]

    def weights(self, key: Key, draws: int = DRAWS) -> Array:
        """[R, P] Prompt weights of the resamples; the same for every column, so that columns stay paired."""
        return cluster_weights(len(self.prompts), draws, key)

    def halves(self, key: Key) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Two disjoint random halves of the prompts as masks [P]."""
        first = np.zeros(len(self.prompts), dtype=bool)
        first[key.permutation(len(self.prompts))[: len(self.prompts) // 2]] = True
        return first, ~first

    def _kl(self) -> Array | None:
        exact = self.column("kl_policy_ref_exact_nats")
        if exact is not None:
            return exact
        policy, reference = self.column("logp_policy_nats"), self.column("logp_ref_nats")
        if policy is None or reference is None:
            return None
        difference = policy - reference
        return None if np.isnan(difference).all() else difference


def numbers(column: pd.Series) -> Array | None:
    """A numeric column as floats, NaN where missing; None where it is wholly empty."""
    values: Array = pd.to_numeric(column).to_numpy(dtype=float, na_value=np.nan)
    return None if np.isnan(values).all() else values


def panel_of(records: pd.DataFrame, arm: str, split: str = "test") -> Panel | None:
    """The checkpoint rows of an arm, plain samples only, sorted so that order in the file does not matter; None where there are none."""
    return kept(records, ("panel", arm, split), lambda: _panel(records, arm, split))


def _panel(records: pd.DataFrame, arm: str, split: str) -> Panel | None:
    here = (records["arm"] == arm) & (records["split"] == split) & records["step"].notna()
    if "variant" in records:
        here &= records["variant"].isna()
    place = np.flatnonzero(here.to_numpy(dtype=bool))
    if not len(place):
        return None
    step, steps = pd.factorize(records["step"].to_numpy(dtype=float)[place].astype(np.int64), sort=True)
    prompt, prompts = _sorted_codes(records["prompt_id"].iloc[place])
    order = np.lexsort((prompt, step))
    ids = records["sample_id"].iloc[place[order]]
    if _descends(ids, prompt[order] + len(prompts) * step[order]):
        rank = np.empty(len(place), dtype=np.int64)
        rank[records["sample_id"].iloc[place].argsort(kind="stable")] = np.arange(len(place))
        order = np.lexsort((rank, prompt, step))
    return Panel(
        arm=arm,
        rows=records.iloc[place[order]].reset_index(drop=True),
        prompts=prompts,
        steps=np.asarray(steps, dtype=np.int64),
        prompt=prompt[order],
        step=step[order],
    )


def _sorted_codes(names: pd.Series) -> tuple[NDArray[np.int64], NDArray[np.object_]]:
    """Place of each name among the distinct ones, which are sorted; only the distinct ones are sorted."""
    codes, found = pd.factorize(names)
    distinct = np.asarray(found, dtype=object)
    order = np.argsort(distinct, kind="stable")
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    return rank[codes], distinct[order]


def _descends(ids: pd.Series, cell: NDArray[np.int64]) -> bool:
    """Whether, inside any cell, a sample stands before one whose name comes first."""
    before, after = ids.iloc[:-1].reset_index(drop=True), ids.iloc[1:].reset_index(drop=True)
    return bool((np.asarray(before > after, dtype=bool) & (cell[1:] == cell[:-1])).any())


def curve_estimates(cells: Cells, weights: Array, name: str, unit: str) -> list[Estimate]:
    """One estimate a step with its prompt-bootstrap interval."""
    values, draws, prompts = cells.mean(), cells.resampled(weights), cells.prompts()
    return [
        make_estimate(name, values[s], draws[:, s], int(prompts[s]), unit, method=METHOD, n_missing=len(cells.counts) - int(prompts[s]))
        for s in range(len(values))
    ]


def curve_columns(name: str, values: Array, draws: Array, units: int) -> dict[str, list[float | None]]:
    """Figure columns ``name``, ``name_low``, ``name_high`` of a curve [S] and its resamples [R, S]; None where absent."""
    low, high = interval(draws, units)
    return {name: plain(values), f"{name}_low": plain(low), f"{name}_high": plain(high)}


def absent_columns(name: str, length: int) -> dict[str, list[float | None]]:
    """The columns of `curve_columns` for a curve that was never recorded."""
    return {f"{name}{end}": [None] * length for end in ("", "_low", "_high")}


def plain(values: Array) -> list[float | None]:
    """Numbers for JSON: None where not finite."""
    return [float(v) if np.isfinite(v) else None for v in values]


def _divide(above: Array, below: Array) -> Array:
    return np.divide(above, below, out=np.full(np.shape(below), np.nan), where=below > 0)
