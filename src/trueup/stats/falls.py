"""Whether a curve has come down from any of its earlier points, with one error rate for all of them.

Every earlier point is compared with the last one, by a band that holds for all differences at once (`stats.simultaneous`). No point is
chosen first and tested afterwards on the same data.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trueup.stats.bootstrap import LEVEL, Array
from trueup.stats.simultaneous import band


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


def fall_to_last(values: Array, draws: Array, units: int, level: float = LEVEL, *, least: float = 0.0) -> Fall | None:
    """The surest fall from an earlier point of a curve to its last.

    Args:
        values: [S]; NaN where unknown.
        draws: [R, S] the same of each resample.
        units: independent units behind them.
        level: joint coverage of the limits, so that a fall is claimed falsely in at most about (1 - level) / 2.
        least: differences no larger are rounding, and count as 0.

    Returns:
        None where the last point, or all others, are unknown.
    """
    size = values[:-1] - values[-1]
    if not np.isfinite(size).any():
        return None
    size = np.where(np.abs(size) <= least, 0.0, size)
    low, high = band(size, draws[:, :-1] - draws[:, -1:], units, level)
    best = int(np.nanargmax(low if np.isfinite(low).any() else size))
    limited = bool(np.isfinite(low[best]))
    return Fall(
        position=best,
        size=float(size[best]),
        low=float(low[best]) if limited else None,
        high=float(high[best]) if limited else None,
    )
