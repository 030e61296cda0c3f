"""Logistic regression on differences, without intercept, with standard errors that allow for clusters.

A pair (a, b) enters once, as the difference a - b with the outcome "a won"; swapping its sides negates both and leaves the likelihood
as it is, which is why there is no intercept. The covariance is the cluster sandwich of Liang and Zeger (1986) times C / (C - 1).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats

from trueup.stats.bootstrap import Array
from trueup.stats.estimate import Estimate


@dataclass(frozen=True, kw_only=True)
class Fit:
    """Coefficients and how well they are known."""

    coefficient: Array
    """[K]"""
    covariance: Array
    """[K, K]"""
    influence: Array
    """[C, K] what each cluster moved the coefficients by, to first order; the covariance of two fits is a product of theirs."""
    clusters: int
    """Independent units C."""


def logistic(x: Array, outcome: Array, clusters: ArrayLike, weight: Array | None = None, steps: int = 50) -> Fit | None:
    """Maximum likelihood of P(outcome) = sigmoid(x beta).

    Args:
        x: [N, K] differences.
        outcome: [N] 1 the first won, 0 it lost, 1/2 a tie.
        clusters: [N] what each row belongs to, such as its prompt.
        weight: [N] weights; 1 if left out.
        steps: Newton steps at most.

    Returns:
        None where the likelihood has no maximum (outcomes that x separates, columns that are combinations of others) or there are
        no more clusters than columns.
    """
    weight = np.ones(len(x)) if weight is None else weight
    codes, names = pd.factorize(np.asarray(clusters), sort=True)
    if len(names) <= x.shape[1]:
        return None
    beta: Array = np.zeros(x.shape[1])
    for _ in range(steps):
        p = special.expit(x @ beta)
        information = (x * (weight * p * (1 - p))[:, None]).T @ x
        if np.linalg.cond(information) > 1e10:
            return None
        step = np.linalg.solve(information, x.T @ (weight * (outcome - p)))
        # where the likelihood is flat a full step would go far past its maximum
        beta = beta + step * min(1.0, 5.0 / max(float(np.abs(step).max()), 1e-300))
        if np.abs(step).max() < 1e-10:
            return _fit(beta, x, weight * (outcome - special.expit(x @ beta)), information, codes, len(names))
    return None


def least_squares(x: Array, y: Array, clusters: ArrayLike, weight: Array | None = None) -> Fit | None:
    """Weighted least squares of y [N] on x [N, K], without intercept; None where columns are combinations of others."""
    weight = np.ones(len(x)) if weight is None else weight
    codes, names = pd.factorize(np.asarray(clusters), sort=True)
    information = (x * weight[:, None]).T @ x
    if len(names) <= x.shape[1] or np.linalg.cond(information) > 1e10:
        return None
    beta = np.asarray(np.linalg.solve(information, x.T @ (weight * y)), dtype=np.float64)
    return _fit(beta, x, weight * (y - x @ beta), information, codes, len(names))


def wald(name: str, value: float, gradient: Array, fit: Fit, unit: str, level: float, units: int | None = None) -> Estimate:
    """A smooth function of the coefficients with its delta-method interval.

    Args:
        name: of the estimate.
        value: of the function at the coefficients.
        gradient: [K] of the function there.
        fit: the coefficients.
        unit: of the estimate.
        level: coverage; limits are those of Student's t with as many degrees of freedom as units less one.
        units: independent units behind it; the fit's clusters if left out.
    """
    units = fit.clusters if units is None else units
    half = float(stats.t.ppf((1 + level) / 2, units - 1) * np.sqrt(gradient @ fit.covariance @ gradient))
    return Estimate(
        name=name,
        value=float(value),
        low=float(value - half),
        high=float(value + half),
        n=units,
        unit=unit,
        level=level,
        method="cluster sandwich",
    )


def joined(first: Fit, second: Fit) -> Fit:
    """Two fits to the same clusters as one: coefficients [K1 + K2] with their joint covariance."""
    if first.clusters != second.clusters:
        raise ValueError(f"the fits have {first.clusters} and {second.clusters} clusters")
    influence = np.concatenate([first.influence, second.influence], axis=1)
    return Fit(
        coefficient=np.concatenate([first.coefficient, second.coefficient]),
        covariance=_covariance(influence),
        influence=influence,
        clusters=first.clusters,
    )


def _fit(beta: Array, x: Array, residual: Array, information: Array, codes: NDArray[np.int64], clusters: int) -> Fit:
    scores = np.zeros((clusters, x.shape[1]))
    np.add.at(scores, codes, x * residual[:, None])
    influence = scores @ np.linalg.inv(information)
    return Fit(coefficient=beta, covariance=_covariance(influence), influence=influence, clusters=clusters)


def _covariance(influence: Array) -> Array:
    found: Array = influence.T @ influence * (len(influence) / (len(influence) - 1))
    return found
