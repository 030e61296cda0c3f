"""Intervals of a correlation along a series whose neighbours resemble each other, such as the checkpoints of one run.

Two series of n points carry as much about their correlation as n' = n (1 - a b) / (1 + a b) independent pairs, if both are AR(1) with
lag-1 autocorrelations a and b (Bartlett 1935, Biometrika 22: the variance of r is proportional to the sum over lags of the products of
both autocorrelations). The interval is Fisher's, atanh r +- z sqrt(c / (n' - m)), with c = 1, m = 3 for Pearson, c = 1.06, m = 3 for
Spearman and c = 0.437, m = 4 for Kendall (Fieller, Hartley & Pearson 1957).

Deviations:

1. Autocorrelations are those of the sample, of ranks for rank correlations, without a correction for short series: simulation covers
   better so (`studies/tracking_coverage.py`). n' is never above n.
2. Where n' - m is below 1 there is no interval: so few independent points say nothing.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from trueup.stats.bootstrap import LEVEL, Array

Kind = Literal["pearson", "spearman", "kendall"]
_SPREAD: dict[Kind, tuple[float, int]] = {"pearson": (1.0, 3), "spearman": (1.06, 3), "kendall": (0.437, 4)}


def autocorrelation(x: ArrayLike) -> Array:
    """Lag-1 autocorrelation over the last axis, [..., S] -> [...]; 0 for a constant series."""
    a = np.asarray(x, dtype=float)
    a = a - a.mean(axis=-1, keepdims=True)
    below = (a**2).sum(axis=-1)
    return np.divide((a[..., 1:] * a[..., :-1]).sum(axis=-1), below, out=np.zeros(np.shape(below)), where=below > 0)


def independent_points(x: ArrayLike, y: ArrayLike) -> Array:
    """How many independent pairs two series are worth for their correlation: [..., S], [..., S] -> [...], at most S."""
    n = np.shape(x)[-1]
    both = np.clip(autocorrelation(x) * autocorrelation(y), -0.99, 0.99)
    return np.minimum(n * (1 - both) / (1 + both), float(n))


def correlation_interval(value: ArrayLike, x: ArrayLike, y: ArrayLike, kind: Kind, level: float = LEVEL) -> tuple[Array, Array]:
    """Limits of a correlation of two series.

    Args:
        value: [...] the sample's correlation.
        x: [..., S] one series.
        y: [..., S] the other.
        kind: which correlation it is.
        level: coverage.

    Returns:
        lower and upper limits [...], inside [-1, 1]; NaN where the series are worth too few points, or the correlation is absent.
    """
    r = np.asarray(value, dtype=float)
    ranked = (x, y) if kind == "pearson" else (stats.rankdata(x, axis=-1), stats.rankdata(y, axis=-1))
    spread, lost = _SPREAD[kind]
    left = independent_points(*ranked) - lost
    usable = (left >= 1) & np.isfinite(r)
    half = stats.norm.ppf((1 + level) / 2) * np.sqrt(spread / np.where(usable, left, 1.0))
    centre = np.arctanh(np.clip(np.where(usable, r, 0.0), -1 + 1e-9, 1 - 1e-9))
    low, high = np.minimum(np.tanh(centre - half), r), np.maximum(np.tanh(centre + half), r)  # a correlation of 1 is inside, too
    return np.where(usable, low, np.nan), np.where(usable, high, np.nan)
