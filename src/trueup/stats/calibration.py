"""Is sigma(score difference) the probability that the first reply wins?

Every pair counts in both orders, (delta, y) and (-delta, 1 - y), so that nothing depends on which reply was listed first and the
reliability diagram is symmetric about (1/2, 1/2). Sources: Murphy 1973 (decomposition), Broecker & Smith 2007 (consistency bars),
Guo et al. 2017 (temperature); the remainder term of the decomposition follows Stephenson et al. 2008.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, special

from trueup.core.rng import Key
from trueup.stats.bootstrap import Array

Edges = Literal["width", "mass"]
"""Bins of equal width on [0, 1], or of equal numbers of forecasts."""

BINS = 15
_CHUNK = 4_000_000


@dataclass(frozen=True, kw_only=True)
class Reliability:
    """A reliability diagram; empty bins are left out."""

    confidence: Array
    """[B] Mean forecast probability."""
    frequency: Array
    """[B] Mean outcome."""
    count: Array
    """[B] Forecasts (each pair gives two)."""

    @property
    def ece(self) -> float:
        """Expected calibration error: the mean |frequency - confidence|. Biased up: perfect calibration gives O(n^-1/2), not 0."""
        return float((self.count * np.abs(self.frequency - self.confidence)).sum() / self.count.sum())


@dataclass(frozen=True, kw_only=True)
class Murphy:
    """Brier score = reliability - resolution + uncertainty + within_bins, exactly."""

    brier: float
    reliability: float
    resolution: float
    uncertainty: float
    within_bins: float
    """What binning hides; 0 where all forecasts of a bin are equal."""


def both_orders(delta: ArrayLike, outcome: ArrayLike) -> tuple[Array, Array]:
    """Each pair in both orders: [N], [N] -> [2N], [2N].

    Args:
        delta: score of the first reply minus that of the second, in log-odds.
        outcome: 1 the first won, 0 it lost, 1/2 a tie.
    """
    d, y = np.asarray(delta, dtype=float), np.asarray(outcome, dtype=float)
    return np.concatenate([d, -d]), np.concatenate([y, 1 - y])


def reliability(delta: ArrayLike, outcome: ArrayLike, bins: int = BINS, edges: Edges = "width") -> Reliability:
    """Reliability diagram of sigma(delta), both orders."""
    d, y = both_orders(delta, outcome)
    p = special.expit(d)
    place = bin_of(p, bins, edges)
    count = np.bincount(place, minlength=bins).astype(float)
    full = count > 0
    sums = [np.bincount(place, weights=v, minlength=bins)[full] / count[full] for v in (p, y)]
    return Reliability(confidence=sums[0], frequency=sums[1], count=count[full])


def bin_of(probability: Array, bins: int, edges: Edges) -> NDArray[np.int64]:
    """[N] The bin of each forecast. Equal forecasts share one, and one on an edge goes to the side of 1/2, as its mirror image does."""
    half = np.arange(1, bins // 2 + 1)
    if edges == "width":
        lower = half / bins
    else:
        order = np.sort(probability)
        place = np.clip(half * len(order) // bins, 1, max(1, len(order) - 1))
        lower = np.minimum((order[place - 1] + order[np.minimum(place, len(order) - 1)]) / 2, 0.5)
    inner = np.unique(np.concatenate([lower, 1 - lower]))
    up, down = (np.searchsorted(inner, probability, side=side) for side in ("right", "left"))
    return np.where(probability <= 0.5, up, down).astype(np.int64)


def ece_under_calibration(delta: ArrayLike, key: Key, *, bins: int = BINS, edges: Edges = "width", draws: int = 500) -> Array:
    """What ECE would be, were sigma(delta) exactly right: outcomes drawn from it, [draws].

    An ECE is evidence of miscalibration only above the upper quantiles of this consistency band.

    Args:
        delta: [N] log-odds.
        key: random stream.
        bins: as in `reliability`.
        edges: as in `reliability`.
        draws: simulations.
    """
    d = np.asarray(delta, dtype=float)
    place = bin_of(special.expit(np.concatenate([d, -d])), bins, edges)
    own, mirrored = place[: len(d)], place[len(d) :]
    # pairs of one bin and one mirror image stand together, so that only sums of runs are drawn
    code = own * (bins + 1) + mirrored
    order = np.argsort(code, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(code[order]) > 0])
    p = special.expit(d)[order]
    expected = np.add.reduceat(p, starts)
    # what one order of a pair has too much of, the other has too little of
    sides = np.zeros((len(starts), bins + 1))
    for run, first in enumerate(order[starts]):
        sides[run, own[first]] += 1
        sides[run, mirrored[first]] -= 1
    generator = key.generator()
    size = max(1, _CHUNK // max(1, len(place)))
    parts = []
    for start in range(0, draws, size):
        won = (generator.random((min(size, draws - start), len(p))) < p).astype(float)
        parts.append(np.abs((np.add.reduceat(won, starts, axis=1) - expected) @ sides).sum(axis=1) / len(place))
    return np.concatenate(parts)


def brier(delta: ArrayLike, outcome: ArrayLike) -> Array:
    """[N] (sigma(delta) - outcome)^2 of each pair; the same in both orders. 1/4 for delta = 0."""
    return (special.expit(np.asarray(delta, dtype=float)) - np.asarray(outcome, dtype=float)) ** 2


def nll_nats(delta: ArrayLike, outcome: ArrayLike) -> Array:
    """[N] -y log sigma(delta) - (1-y) log sigma(-delta) of each pair, nats; log 2 for delta = 0."""
    d, y = np.asarray(delta, dtype=float), np.asarray(outcome, dtype=float)
    return y * np.logaddexp(0, -d) + (1 - y) * np.logaddexp(0, d)


def murphy(delta: ArrayLike, outcome: ArrayLike, bins: int = BINS, edges: Edges = "width") -> Murphy:
    """Murphy's decomposition of the Brier score over bins, both orders (so uncertainty is 1/4 without ties)."""
    table = reliability(delta, outcome, bins, edges)
    _, y = both_orders(delta, outcome)
    share = table.count / table.count.sum()
    base = float(y.mean())
    score = float(brier(delta, outcome).mean())
    rel = float((share * (table.confidence - table.frequency) ** 2).sum())
    res = float((share * (table.frequency - base) ** 2).sum())
    # E y^2 - base^2 is base (1 - base) for outcomes of 0 and 1, and stays exact with ties of 1/2
    unc = float((y**2).mean() - base**2)
    return Murphy(brier=score, reliability=rel, resolution=res, uncertainty=unc, within_bins=score - (rel - res + unc))


def fit_temperature(delta: ArrayLike, outcome: ArrayLike) -> float | None:
    """The T > 0 that minimises the NLL of sigma(delta / T); T > 1 means over-confident.

    Convex in 1/T. None where no finite T is best: the order is always right (T -> 0), or no better than chance (T -> infinity).
    """
    d, y = np.asarray(delta, dtype=float), np.asarray(outcome, dtype=float)

    def slope(log_inverse: float) -> float:
        return float((d * (special.expit(np.exp(log_inverse) * d) - y)).mean())

    scale = float(np.abs(d).max()) if len(d) else 0.0
    if scale == 0.0:
        return None
    low, high = np.log(1e-6 / scale), np.log(1e6 / scale)
    if slope(low) >= 0 or slope(high) <= 0:
        return None
    return float(np.exp(-optimize.brentq(slope, low, high, xtol=1e-12)))
