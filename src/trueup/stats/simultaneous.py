"""Intervals that hold for several quantities at once, so that looking at all of them does not find noise.

The band is the value plus and minus one multiple of each quantity's own standard error: the quantile, over resamples, of the largest
studentised deviation (Efron & Tibshirani 1993, "An Introduction to the Bootstrap", section 12.5; Romano & Wolf 2005 for the maximum).

Deviations:

1. The multiple is widened for few units by the ratio of Student's to the normal quantile.
2. A resample in which a quantity does not exist counts as no deviation of it; one that exists in fewer than 90 % has no limits.
"""

from __future__ import annotations

import numpy as np
from scipy import stats

from trueup.stats.bootstrap import LEVEL, Array

_ENOUGH = 0.9
_NOTHING = 1e-12


def band(values: Array, draws: Array, units: int, level: float = LEVEL) -> tuple[Array, Array]:
    """Limits of K quantities that all hold together with chance ``level``.

    Args:
        values: [K]; NaN where one does not exist.
        draws: [R, K] resamples of them, drawn together.
        units: independent units behind them.
        level: joint coverage.

    Returns:
        lower and upper limits [K]; NaN where there are none: with fewer than two units, or without the quantity.
    """
    finite = np.isfinite(draws)
    usable = np.isfinite(values) & (finite.mean(axis=0) >= _ENOUGH) & (units >= 2)
    if not usable.any():
        return np.full(len(values), np.nan), np.full(len(values), np.nan)
    deviation = np.where(finite & usable, draws - np.where(usable, values, 0.0), 0.0)
    error = np.sqrt((deviation**2).sum(axis=0) / np.maximum((finite & usable).sum(axis=0), 1))
    largest = np.abs(deviation / np.where(error > _NOTHING, error, np.inf)).max(axis=1)
    tail = (1 + level) / 2
    wider = float(stats.t.ppf(tail, units - 1) / stats.norm.ppf(tail))
    half = wider * float(np.quantile(largest, level)) * error
    return np.where(usable, values - half, np.nan), np.where(usable, values + half, np.nan)
