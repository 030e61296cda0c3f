"""Over-optimisation laws of Gao, Schulman and Hilton (2022): gold gain R against d = sqrt(KL from the start).

    best-of-n  R = d (alpha - beta d)            peak d* = alpha / (2 beta)          R* = alpha^2 / (4 beta)
    RL         R = d (alpha - beta log d)        peak d* = exp(alpha / beta - 1)     R* = beta d*
    log1p      R = d (alpha - beta log(1 + d))   one of the forms they tried and rejected, kept for comparison

All are linear in (alpha, beta): least squares on d times (1, -g(d)). The RL law has infinite slope at 0 and is not meant near it, so
its small d are left out of a fit. Gains are relative to the start: R(0) = 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize

from trueup.stats.bootstrap import Array


@dataclass(frozen=True, kw_only=True)
class Law:
    """R = d (alpha - beta bend(d))."""

    name: str
    bend: Callable[[Array], Array]
    min_d: float
    """Points nearer to the start are left out of its fit; sqrt of nats."""

    def gain(self, d: ArrayLike, alpha: ArrayLike, beta: ArrayLike) -> Array:
        """R at d; broadcasts."""
        x = np.asarray(d, dtype=float)
        safe = np.where(x > 0, x, 1.0)  # bend may be log d: 0 log 0 is 0
        return np.where(x > 0, safe * (np.asarray(alpha) - np.asarray(beta) * self.bend(safe)), 0.0)


BEST_OF_N = Law(name="bon", bend=lambda d: d, min_d=0.0)
RL = Law(name="rl", bend=np.log, min_d=0.3)
LOG1P = Law(name="log1p", bend=np.log1p, min_d=0.0)


@dataclass(frozen=True, kw_only=True)
class Fit:
    """One fitted law."""

    law: Law
    alpha: float
    beta: float
    n: int
    """Points fitted."""
    chi2: float
    """Weighted sum of squared residuals."""
    aic: float
    """Akaike's criterion up to a constant that all laws share on the same points and weights; lower is better."""


def fit(law: Law, d: ArrayLike, gain: ArrayLike, standard_error: ArrayLike | None = None, *, min_d: float | None = None) -> Fit | None:
    """Weighted least squares of a law.

    Args:
        law: which.
        d: [S] square root of KL, nats^(1/2).
        gain: [S] gold minus gold at the start.
        standard_error: [S] of the gains, for weights 1/SE^2; equal weights without. A zero error gets the smallest non-zero one.
        min_d: points below are left out; the law's own threshold if None.

    Returns:
        None with fewer than three usable points (two coefficients need a third to be checked).
    """
    x, y, precision = _usable(d, gain, standard_error, law.min_d if min_d is None else min_d)
    if len(x) < 3:
        return None
    alpha, beta = coefficients(law, x, y, precision)
    if not np.isfinite(alpha):
        return None
    chi2 = float((precision * (y - law.gain(x, alpha, beta)) ** 2).sum())
    # known errors: -2 log L = chi2 + constant; unknown ones are estimated, which gives n log(chi2 / n)
    fidelity = chi2 if standard_error is not None else len(x) * float(np.log(max(chi2, 1e-300) / len(x)))
    return Fit(law=law, alpha=float(alpha), beta=float(beta), n=len(x), chi2=chi2, aic=fidelity + 4)


def coefficients(law: Law, d: ArrayLike, gain: ArrayLike, precision: ArrayLike) -> tuple[Array, Array]:
    """Least-squares alpha and beta over the last axis, for many curves at once.

    Args:
        law: which.
        d: [..., S] square root of KL; points with d <= 0 carry no information and are ignored.
        gain: [..., S]; NaN is ignored.
        precision: [S] or [..., S] weights.

    Returns:
        alpha [...], beta [...]; NaN where the points do not determine them.
    """
    x, y, w = np.broadcast_arrays(np.asarray(d, dtype=float), np.asarray(gain, dtype=float), np.asarray(precision, dtype=float))
    valid = (x > 0) & np.isfinite(x) & np.isfinite(y) & (w > 0)
    x, y, w = np.where(valid, x, 1.0), np.where(valid, y, 0.0), np.where(valid, w, 0.0)
    first, second = x, -x * law.bend(x)
    aa, ab, bb = ((w * p * q).sum(axis=-1) for p, q in ((first, first), (first, second), (second, second)))
    ay, by = (w * first * y).sum(axis=-1), (w * second * y).sum(axis=-1)
    determinant = aa * bb - ab**2
    solvable = determinant > 1e-12 * aa * bb
    nothing = np.full(np.shape(determinant), np.nan)
    alpha = np.divide(bb * ay - ab * by, determinant, out=nothing.copy(), where=solvable)
    beta = np.divide(aa * by - ab * ay, determinant, out=nothing.copy(), where=solvable)
    return alpha, beta


def peak(law: Law, alpha: float, beta: float) -> tuple[float, float] | None:
    """(d*, R*) where a law turns over, in closed form for the two laws of the paper; None where it never does (beta <= 0, say)."""
    if not (beta > 0 and np.isfinite(alpha)) or (alpha <= 0 and law is not RL):
        return None
    if law is BEST_OF_N:
        return alpha / (2 * beta), alpha**2 / (4 * beta)
    if law is RL:
        exponent = alpha / beta - 1
        if exponent > 700:  # beyond the largest float: nothing one could observe
            return None
        return float(np.exp(exponent)), float(beta * np.exp(exponent))
    # d R / d d = alpha - beta (log(1+d) + d/(1+d)) falls from alpha without bound, so it has one root
    if alpha / beta > 700:
        return None
    where = float(optimize.brentq(lambda d: alpha - beta * (np.log1p(d) + d / (1 + d)), 0.0, float(np.expm1(alpha / beta)) + 1e-9))
    return where, float(law.gain(where, alpha, beta))


def zero(law: Law, alpha: float, beta: float) -> float | None:
    """The d > 0 at which all gain is lost: alpha/beta, exp(alpha/beta), exp(alpha/beta) - 1; None where there is none."""
    if not beta > 0 or alpha / beta > 700 or (alpha <= 0 and law is not RL):
        return None
    ratio = alpha / beta
    return {"bon": ratio, "rl": float(np.exp(ratio)), "log1p": float(np.expm1(ratio))}[law.name]


def _usable(d: ArrayLike, gain: ArrayLike, standard_error: ArrayLike | None, min_d: float) -> tuple[Array, Array, Array]:
    x, y = np.asarray(d, dtype=float), np.asarray(gain, dtype=float)
    kept = np.isfinite(x) & np.isfinite(y) & (x >= min_d) & (x > 0)
    return x[kept], y[kept], precision_of(standard_error, x.shape)[kept]


def precision_of(standard_error: ArrayLike | None, shape: tuple[int, ...]) -> Array:
    """Weights 1/SE^2; ones without errors. A missing error gets weight 0, a zero one that of the smallest non-zero error."""
    if standard_error is None:
        return np.ones(shape)
    error = np.asarray(standard_error, dtype=float)
    known = np.isfinite(error)
    positive = error[known & (error > 0)]
    if not len(positive):
        return np.where(known, 1.0, 0.0)
    floor = float(positive.min())
    return np.where(known, 1.0 / np.maximum(np.where(known, error, 1.0), floor) ** 2, 0.0)
