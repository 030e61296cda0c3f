"""Tests that may be looked at after every observation: betting e-processes, confidence sequences, Wald's sequential test.

An e-process is what a gambler owns who began with 1 and bets against a null hypothesis. Under it the capital is a supermartingale that is
never negative, so the chance that it ever reaches 1/alpha is at most alpha (Ville 1939), however often one looks and whenever one stops.
Bets may depend on everything seen before, never on the observation they are made on (Shafer and Vovk 2019; Waudby-Smith and Ramdas 2024,
arXiv:2010.09686; Ramdas et al. 2023, arXiv:2210.01948).

Deviations:
1. Capital is averaged over a few fixed bets (`mixed`) where the paper's portfolios tune one; an average of e-processes is an e-process
   and knows no tuning.
2. `betting_interval` looks for the interval on a grid of means; its ends are widened to the next point of the grid.

Null hypothesis of the one-sided ones: no difference has a conditional mean below 0, |difference| <= bound. Arrays are [..., n], the
newest last; NaN is an observation that was not made, and moves nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from trueup.stats.bootstrap import Array

BETS = (0.1, 0.2, 0.4, 0.6)
"""Shares of the largest possible bet 1 / bound over which capital is averaged."""


def fixed(differences: Array, bound: float, share: float = 0.5) -> Array:
    """Capital after each observation with one bet: the running product of 1 - share x difference / bound.

    Args:
        differences: [..., n] within plus and minus ``bound``.
        bound: largest absolute difference.
        share: of the largest possible bet, in [0, 1).

    Returns:
        [..., n] capital; 1 before the first observation is not among it.

    Raises:
        ValueError: a difference beyond the bound, or a share that could lose everything.
    """
    if not 0 <= share < 1:
        raise ValueError(f"a bet must be in [0, 1) of the largest possible one, got {share}")
    return np.asarray(np.cumprod(1 - share * _scaled(differences, bound), axis=-1))


def mixed(differences: Array, bound: float, shares: Sequence[float] = BETS) -> Array:
    """Capital dealt out in equal parts to several fixed bets; shapes and errors of `fixed`."""
    return np.asarray(np.mean([fixed(differences, bound, share) for share in shares], axis=0))


def plugged_in(differences: Array, bound: float, largest: float = 0.5) -> Array:
    """Capital with the bet that the observations so far would have liked: clip(-mean / mean square, 0, largest / bound); 0 at first.

    Shapes and errors of `fixed`.
    """
    x = _scaled(differences, bound)
    seen = np.cumsum(np.ones_like(x) * ~np.isnan(np.asarray(differences, dtype=float)), axis=-1)
    total, squares = np.cumsum(x, axis=-1), np.cumsum(x**2, axis=-1)
    # the variance plus the squared mean is the mean square
    wanted = np.divide(-total, squares, out=np.zeros_like(x), where=(squares > 0) & (seen > 0))
    bets = np.zeros_like(x)
    bets[..., 1:] = np.clip(wanted[..., :-1], 0, largest)
    return np.asarray(np.cumprod(1 - bets * x, axis=-1))


def averaged(capitals: Array, weights: Array | None = None) -> Array:
    """An e-process from several about one null hypothesis, which may depend on each other in any way: their weighted mean.

    Args:
        capitals: [K, ...]; one that has not begun stands at 1.
        weights: [K] not negative, chosen before the observations, at most 1 in all; equal if None.

    Raises:
        ValueError: weights that are negative or sum to more than 1.
    """
    values = np.asarray(capitals, dtype=float)
    w = np.full(len(values), 1 / len(values)) if weights is None else np.asarray(weights, dtype=float)
    if (w < 0).any() or w.sum() > 1 + 1e-12:
        raise ValueError(f"weights must not be negative nor sum to more than 1, got {w.tolist()}")
    return np.tensordot(w, values, axes=1)


def restarted(differences: Array, starts: Sequence[int], parts: int, bound: float) -> Array:
    """Capital of which one part of ``parts`` begins to bet at each of the starts, with `mixed`, and waits until then.

    It notices a change for the worse after a rise, which one capital alone would have been spent on.

    Args:
        differences: [n]
        starts: places in them, ascending, chosen without looking at what comes after; at most the first ``parts`` bet.
        parts: into which the capital is split, fixed beforehand.
        bound: of the differences.

    Returns:
        [n]
    """
    x = np.asarray(differences, dtype=float)
    place = np.arange(len(x))
    betting = [mixed(np.where(place >= start, x, np.nan), bound) for start in list(starts)[:parts]]
    idle = (parts - len(betting)) / parts
    return np.asarray(np.sum(betting, axis=0) / parts + idle) if betting else np.ones(len(x))


def crossed(capital: Array, alpha: float) -> NDArray[np.int64]:
    """[...] Observations after which capital [..., n] first reached 1 / alpha; 0 where it never did."""
    over = np.asarray(capital) >= 1 / alpha
    return np.where(over.any(axis=-1), over.argmax(axis=-1) + 1, 0)


def e_bh(values: Array, alpha: float) -> NDArray[np.bool_]:
    """Which of K null hypotheses are rejected with a false discovery rate of at most alpha, under any dependence.

    The k largest e-values are, with the largest k for which all of them are at least K / (alpha k) (Wang, Ramdas 2022, arXiv:2009.02824).
    """
    e = np.asarray(values, dtype=float)
    ordered = np.sort(e)[::-1]
    enough = np.flatnonzero(ordered * alpha * np.arange(1, len(e) + 1) >= len(e))
    return np.zeros(len(e), dtype=bool) if not len(enough) else e >= ordered[enough[-1]]


def normal_radius(n: Array | float, sigma: float, alpha: float, rho: float = 1.0) -> Array:
    """Half the width of a confidence sequence for a mean, valid at all n at once: the normal mixture (Robbins 1970).

    sigma sqrt(2 (n rho^2 + 1) / (n^2 rho^2) log(sqrt(n rho^2 + 1) / alpha)).

    Args:
        n: observations, at least 1.
        sigma: of sub-Gaussian observations: half the range where that is all one knows.
        alpha: chance that the mean is ever outside.
        rho: narrowest where n rho^2 is a few; any positive number is valid.
    """
    count = np.asarray(n, dtype=float)
    grown = count * rho**2 + 1
    return np.asarray(sigma * np.sqrt(2 * grown / (count * rho) ** 2 * np.log(np.sqrt(grown) / alpha)))


def betting_interval(values: Array, alpha: float, points: int = 400) -> tuple[float, float]:
    """Confidence sequence for the mean of values in [0, 1], at their end: the means against which no gambler has become rich.

    Args:
        values: [n] in the order they came; NaN is left out.
        alpha: chance that the true mean is ever outside.
        points: of the grid.

    Returns:
        lower and upper limit; (0, 1) without observations.
    """
    x = np.asarray(values, dtype=float)
    x = x[~np.isnan(x)]
    if ((x < 0) | (x > 1)).any():
        raise ValueError("values must lie in [0, 1]")
    grid = (np.arange(points) + 0.5) / points
    richest = np.ones(points)
    for i, m in enumerate(grid):
        # a gambler on a larger mean and one on a smaller one, each of whom can lose no more than the stake
        sides = [np.cumprod(1 + s * gain) for s in BETS for gain in ((x - m) / m, (m - x) / (1 - m))]
        richest[i] = np.max(np.mean(sides, axis=0), initial=1.0)
    kept = np.flatnonzero(richest < 1 / alpha)
    if not len(kept):
        mean = float(x.mean())
        return mean, mean
    return max(0.0, float(grid[kept[0]] - 1 / points)), min(1.0, float(grid[kept[-1]] + 1 / points))


def sprt_limits(alpha: float, beta: float) -> tuple[float, float]:
    """Wald's limits of the log-likelihood ratio: accept the null at or below the first, the alternative at or above the second."""
    return float(np.log(beta / (1 - alpha))), float(np.log((1 - beta) / alpha))


def sprt_ratio(wins: Array, p1: float, p0: float = 0.5) -> Array:
    """[..., n] Running log-likelihood ratio of win probability p1 against p0.

    Args:
        wins: [..., n] 1 a win, 0 a loss, 1/2 a tie, which counts as half of each; NaN moves nothing.
        p1: of the alternative.
        p0: of the null hypothesis.
    """
    w = np.asarray(wins, dtype=float)
    terms = w * np.log(p1 / p0) + (1 - w) * np.log((1 - p1) / (1 - p0))
    return np.asarray(np.cumsum(np.where(np.isnan(w), 0.0, terms), axis=-1))


def _scaled(differences: Array, bound: float) -> Array:
    """Differences in units of the bound, 0 where there is none."""
    x = np.asarray(differences, dtype=float) / bound
    if (np.abs(x[~np.isnan(x)]) > 1 + 1e-12).any():
        raise ValueError(f"a difference is beyond the bound {bound}")
    return np.where(np.isnan(x), 0.0, x)
