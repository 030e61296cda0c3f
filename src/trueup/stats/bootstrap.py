"""Intervals by resampling the independent units: prompts, runs, blocks of steps; never single rows.

A statistic is a function of sums over clusters. A resample is a vector of cluster weights, so a thousand of them are one matrix
product, however many rows there are. Intervals are percentiles, widened for few clusters as Hesterberg (2015, "What teachers should
know about the bootstrap", section 4.3) proposes: the tail level becomes Phi(sqrt(n/(n-1)) t_{tail, n-1}).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from trueup.core.rng import Key
from trueup.stats.estimate import Estimate

Array = NDArray[np.float64]

DRAWS = 1000
"""Resamples behind an interval, unless told otherwise."""
LEVEL = 0.95
_CHUNK = 4_000_000
"""Cluster draws held in memory at a time."""
_ENOUGH_FINITE = 0.9
"""Share of the resamples in which a statistic must exist for its interval to be given."""


def cluster_weights(clusters: int, draws: int, key: Key) -> Array:
    """How often each cluster occurs in each resample of as many clusters: [draws, clusters], each row sums to ``clusters``."""
    return _weights(clusters, draws, key.generator())


def nested_weights(parents: ArrayLike, draws: int, key: Key) -> Array:
    """Hierarchical resampling: parents (such as seeds) with replacement, then clusters (such as prompts) within each drawn parent.

    Args:
        parents: [C] the parent of each cluster.
        draws: resamples R.
        key: random stream.

    Returns:
        [R, C] weight of each cluster. A parent drawn m times contributes m independent resamples of its clusters, which together are
        one multinomial of m times as many draws.
    """
    codes, names = pd.factorize(np.asarray(parents), sort=True)
    outer = cluster_weights(len(names), draws, key / "parents")
    weights = np.zeros((draws, len(codes)))
    for parent in range(len(names)):
        members = np.flatnonzero(codes == parent)
        counts = outer[:, parent].astype(np.int64) * len(members)
        generator = (key / "members" / parent).generator()
        weights[:, members] = generator.multinomial(counts, np.full(len(members), 1 / len(members)))
    return weights


def resample_totals(rows: Array, draws: int, key: Key) -> Array:
    """Column sums of resampled clusters: [C, K] sums of each cluster -> [draws, K]."""
    clusters = len(rows)
    generator = key.generator()
    size = max(1, _CHUNK // max(1, clusters))
    parts = [_weights(clusters, min(size, draws - start), generator) @ rows for start in range(0, draws, size)]
    return np.concatenate(parts)


def block_indices(length: int, block: int, draws: int, key: Key) -> NDArray[np.int64]:
    """Moving-block bootstrap of a series (Kuensch 1989): positions to read, [draws, length].

    Args:
        length: points of the series.
        block: consecutive points kept together; 1 is the ordinary bootstrap.
        draws: resamples.
        key: random stream.
    """
    if not 1 <= block <= length:
        raise ValueError(f"a block must hold 1 to {length} points, got {block}")
    count = -(-length // block)
    starts = key.generator().integers(0, length - block + 1, size=(draws, count))
    return (starts[:, :, None] + np.arange(block)).reshape(draws, -1)[:, :length]


def interval(draws: Array, units: int, level: float = LEVEL) -> tuple[Array, Array]:
    """Percentile limits over the first axis, widened for few units.

    Args:
        draws: [R, ...] resampled statistics; NaN where one does not exist.
        units: independent units n behind them.
        level: coverage.

    Returns:
        lower and upper limits [...]; NaN with fewer than two units, or where the statistic exists in fewer than 90 % of the resamples.
    """
    shape = draws.shape[1:]
    if units < 2:
        return np.full(shape, np.nan), np.full(shape, np.nan)
    tail = float(stats.norm.cdf(np.sqrt(units / (units - 1)) * stats.t.ppf((1 - level) / 2, units - 1)))
    finite = np.isfinite(draws)
    if finite.all():
        low, high = np.quantile(draws, [tail, 1 - tail], axis=0)
        return low, high
    usable = finite.mean(axis=0) >= _ENOUGH_FINITE
    # columns without enough draws are replaced by zeros first, so that no quantile of nothing is taken
    safe = np.where(usable, np.where(finite, draws, np.nan), 0.0)
    low, high = np.nanquantile(safe, [tail, 1 - tail], axis=0)
    return np.where(usable, low, np.nan), np.where(usable, high, np.nan)


def make_estimate(
    name: str, value: float, draws: Array, units: int, unit: str, *, method: str, level: float = LEVEL, n_missing: int = 0
) -> Estimate:
    """An `Estimate` from a value and its resamples [R]; what is not finite is absent."""
    low, high = interval(draws, units, level)
    known = bool(np.isfinite(value))
    limits = known and bool(np.isfinite(low) and np.isfinite(high))
    return Estimate(
        name=name,
        value=float(value) if known else None,
        low=float(low) if limits else None,
        high=float(high) if limits else None,
        n=units,
        unit=unit,
        level=level,
        method=method,
        n_missing=n_missing,
    )


def statistic_estimate(
    rows: Array,
    statistic: Callable[[Array], Array],
    name: str,
    unit: str,
    key: Key,
    *,
    level: float = LEVEL,
    draws: int = DRAWS,
    n_missing: int = 0,
) -> Estimate:
    """Any function of column sums over clusters, with its cluster-bootstrap interval.

    Args:
        rows: [C, K] sums of each cluster.
        statistic: [..., K] totals -> [...]; may give NaN where it does not exist.
        name: of the estimate.
        unit: of the estimate.
        key: random stream.
        level: coverage.
        draws: resamples.
        n_missing: clusters without data, reported along.
    """
    if not len(rows):
        return make_estimate(name, np.nan, np.full(1, np.nan), 0, unit, method="cluster bootstrap", level=level, n_missing=n_missing)
    value, resampled = float(statistic(rows.sum(axis=0))), statistic(resample_totals(rows, draws, key))
    return make_estimate(name, value, resampled, len(rows), unit, method="cluster bootstrap", level=level, n_missing=n_missing)


def mean_estimate(
    values: ArrayLike, clusters: ArrayLike, name: str, unit: str, key: Key, *, level: float = LEVEL, draws: int = DRAWS
) -> Estimate:
    """The mean of all rows, with an interval that resamples whole clusters.

    Args:
        values: [N] NaN where missing.
        clusters: [N] what each row belongs to, such as its prompt.
        name: of the estimate.
        unit: of the estimate.
        key: random stream.
        level: coverage.
        draws: resamples.

    Returns:
        n is the number of clusters with a value, n_missing of those without any.
    """
    sums, counts = cluster_sums(values, clusters)
    kept = counts > 0
    rows = np.stack([sums[kept], counts[kept]], axis=1)
    return statistic_estimate(rows, ratio, name, unit, key, level=level, draws=draws, n_missing=int((~kept).sum()))


def paired_difference(
    first: ArrayLike,
    first_clusters: ArrayLike,
    second: ArrayLike,
    second_clusters: ArrayLike,
    name: str,
    unit: str,
    key: Key,
    *,
    level: float = LEVEL,
    draws: int = DRAWS,
) -> Estimate:
    """First minus second, paired by cluster: the mean over common clusters of the difference of their means.

    n_missing counts the clusters that only one side has.
    """
    sides = [
        pd.Series(np.asarray(v, dtype=float)).groupby(np.asarray(c)).mean().dropna()
        for v, c in ((first, first_clusters), (second, second_clusters))
    ]
    common = sides[0].index.intersection(sides[1].index).sort_values()
    differences = np.asarray(sides[0][common] - sides[1][common], dtype=float)
    rows = np.stack([differences, np.ones(len(common))], axis=1)
    alone = len(sides[0]) + len(sides[1]) - 2 * len(common)
    return statistic_estimate(rows, ratio, name, unit, key, level=level, draws=draws, n_missing=alone)


def unpaired_difference(
    first: Array,
    second: Array,
    statistic: Callable[[Array], Array],
    name: str,
    unit: str,
    key: Key,
    *,
    level: float = LEVEL,
    draws: int = DRAWS,
) -> Estimate:
    """``statistic(first) - statistic(second)`` of two independent sets of clusters, [C1, K] and [C2, K]; n is the smaller set's size."""
    units = min(len(first), len(second))
    if not units:
        return Estimate(name=name, value=None, low=None, high=None, n=0, unit=unit, level=level)
    value = float(statistic(first.sum(axis=0)) - statistic(second.sum(axis=0)))
    resampled = statistic(resample_totals(first, draws, key / "first")) - statistic(resample_totals(second, draws, key / "second"))
    return make_estimate(name, value, resampled, units, unit, method="cluster bootstrap of both sides", level=level)


def cluster_sums(values: ArrayLike, clusters: ArrayLike) -> tuple[Array, Array]:
    """Sum and count of the present values of each cluster, clusters sorted by name: [C], [C]."""
    x = np.asarray(values, dtype=float)
    codes, names = pd.factorize(_labels(clusters), sort=True)
    if len(codes) != len(x):
        raise ValueError(f"{len(x)} values but {len(codes)} cluster labels")
    present = ~np.isnan(x)
    sums = np.bincount(codes[present], weights=x[present], minlength=len(names))
    return sums.astype(float), np.bincount(codes[present], minlength=len(names)).astype(float)


def ratio(totals: Array) -> Array:
    """First column over second, NaN where the second is 0: [..., 2] -> [...]."""
    below = totals[..., 1]
    return np.divide(totals[..., 0], below, out=np.full(below.shape, np.nan), where=below != 0)


def _weights(clusters: int, draws: int, generator: np.random.Generator) -> Array:
    picks = generator.integers(0, clusters, size=(draws, clusters))
    picks += np.arange(draws)[:, None] * clusters
    return np.bincount(picks.ravel(), minlength=draws * clusters).reshape(draws, clusters).astype(float)


def _labels(clusters: ArrayLike) -> NDArray[Any]:
    return np.asarray(clusters)
