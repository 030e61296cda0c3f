"""Correlations of short series, many resamples at a time: Pearson, Spearman, Kendall tau-b; on levels, on differences, with a lag.

All read the last axis, so a bootstrap of R resampled curves is one call on [R, S]. A series without variation has no correlation: NaN.
Increments are the honest reading of two trends: two series that both rise correlate in levels even when their steps are unrelated.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from trueup.stats.bootstrap import Array

Correlation = Callable[[ArrayLike, ArrayLike], Array]

_NOTHING = 1e-12
"""Variation below this share of a series' size is rounding, not variation."""


def pearson(x: ArrayLike, y: ArrayLike) -> Array:
    """Pearson's r over the last axis: [..., S], [..., S] -> [...]."""
    a, b = np.broadcast_arrays(np.asarray(x, dtype=float), np.asarray(y, dtype=float))
    da, db = a - a.mean(axis=-1, keepdims=True), b - b.mean(axis=-1, keepdims=True)
    va, vb = (da**2).sum(axis=-1), (db**2).sum(axis=-1)
    varies = _varies(a, va) & _varies(b, vb)
    r = np.divide((da * db).sum(axis=-1), np.sqrt(va * vb), out=np.full(varies.shape, np.nan), where=varies)
    return np.clip(r, -1.0, 1.0)


def spearman(x: ArrayLike, y: ArrayLike) -> Array:
    """Spearman's rho, ties at their average rank: [..., S], [..., S] -> [...]."""
    return pearson(stats.rankdata(x, axis=-1), stats.rankdata(y, axis=-1))


def kendall(x: ArrayLike, y: ArrayLike) -> Array:
    """Kendall's tau-b: [..., S], [..., S] -> [...]. Takes S passes over the data, so it is meant for short series."""
    a, b = np.broadcast_arrays(np.asarray(x, dtype=float), np.asarray(y, dtype=float))
    concordance, x_pairs, y_pairs = np.zeros(a.shape[:-1]), np.zeros(a.shape[:-1]), np.zeros(a.shape[:-1])
    for lag in range(1, a.shape[-1]):
        sa, sb = np.sign(a[..., lag:] - a[..., :-lag]), np.sign(b[..., lag:] - b[..., :-lag])
        concordance += (sa * sb).sum(axis=-1)
        x_pairs += np.abs(sa).sum(axis=-1)
        y_pairs += np.abs(sb).sum(axis=-1)
    untied = x_pairs * y_pairs
    return np.divide(concordance, np.sqrt(untied), out=np.full(untied.shape, np.nan), where=untied > 0)


def of_differences(correlation: Correlation, x: ArrayLike, y: ArrayLike) -> Array:
    """A correlation of first differences along the last axis."""
    return correlation(np.diff(np.asarray(x, dtype=float), axis=-1), np.diff(np.asarray(y, dtype=float), axis=-1))


def lagged(correlation: Correlation, x: ArrayLike, y: ArrayLike, lag: int) -> Array:
    """Correlation of ``x[t]`` with ``y[t + lag]``; a positive lag asks whether x leads y."""
    a, b = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    if abs(lag) >= a.shape[-1]:
        raise ValueError(f"a lag of {lag} leaves nothing of {a.shape[-1]} points")
    if lag < 0:
        return lagged(correlation, b, a, -lag)
    return correlation(a[..., : a.shape[-1] - lag], b[..., lag:])


def _varies(x: Array, sum_of_squares: Array) -> NDArray[np.bool_]:
    size = np.abs(x).max(axis=-1) if x.shape[-1] else np.zeros(x.shape[:-1])
    return np.asarray(sum_of_squares > (_NOTHING * size) ** 2 * x.shape[-1])
