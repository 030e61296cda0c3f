"""Whether a curve has come down from any of its earlier points, with one error rate for all of them.

Every earlier point is compared with the last one. The resamples say how far the largest studentised difference strays by chance, and
each difference is held against that (max-t; Romano and Wolf 2005). No point is chosen first and tested afterwards on the same data.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trueup.stats.bootstrap import LEVEL, Array, interval


@dataclass(frozen=True, kw_only=True)
class Fall:
    """From the point that the last one is most surely below."""

    position: int
    """Of that point."""
    size: float
    """Its value less the last one; negative where the curve only rose."""
    low: float | None
    """Simultaneous limits; None with fewer than two units."""
    high: float | None

    @property
    def shown(self) -> bool:
        """Whether the curve has come down, for certain at the level."""
        return self.low is not None and self.low > 0


def fall_to_last(values: Array, draws: Array, units: int, level: float = LEVEL) -> Fall | None:
    """The surest fall from an earlier point of a curve to its last.

    Args:
        values: [S]; NaN where unknown.
        draws: [R, S] the same of each resample.
        units: independent units behind them.
        level: simultaneous coverage of the two-sided limits, so that a fall is claimed falsely in at most (1 - level) / 2.

    Returns:
        None where the last point, or all others, are unknown.
    """
    size, resampled = values[:-1] - values[-1], draws[:, :-1] - draws[:, -1:]
    known = np.flatnonzero(np.isfinite(size) & np.isfinite(resampled).all(axis=0))
    if not len(known):
        return None
    size, reach = size[known], simultaneous_reach(size[known], resampled[:, known], units, level)
    best = int((size - np.nan_to_num(reach)).argmax())
    value, far = float(size[best]), float(reach[best])
    limited = bool(np.isfinite(far))
    return Fall(position=int(known[best]), size=value, low=value - far if limited else None, high=value + far if limited else None)


def simultaneous_reach(values: Array, draws: Array, units: int, level: float = LEVEL) -> Array:
    """[S] How far above each of several values all true ones lie together with probability (1 + level) / 2; by symmetry, how far below.

    Args:
        values: [S]
        draws: [R, S] the same of each resample.
        units: independent units behind them.
        level: coverage of the two-sided limits.

    Returns:
        NaN with fewer than two units; 0 for a value that no resample changes.
    """
    error = draws.std(axis=0)
    strays = np.divide(draws - values, error, out=np.zeros_like(draws), where=error > 0)
    _, bound = interval(strays.max(axis=1), units, level)
    return np.asarray(bound * error)
