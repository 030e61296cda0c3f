"""Bayesian last layer of a reward model: a normal posterior over the weights of a linear head on frozen features (Laplace's approximation;
MacKay 1992; for reward models Yang et al. 2024, arXiv:2402.13210).

A preference fixes differences of rewards only, so uncertainty is of differences too: that of one reply against another, or against a
reference reply, never of a score alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import linalg, optimize, special

from trueup.stats.bootstrap import Array


@dataclass(frozen=True, kw_only=True)
class LastLayer:
    """The posterior N(mean, inverse of precision)."""

    mean: Array
    """[D] the best weights under the prior."""
    precision: Array
    """[D, D] prior_precision I + sum of p (1 - p) phi phi^T."""
    prior_precision: float
    log_evidence: float
    """Log marginal likelihood of the labels under Laplace's approximation; compare it over prior precisions."""

    def difference(self, phi: ArrayLike) -> tuple[Array, Array]:
        """Mean and variance of the reward difference of feature differences: [N, D] -> [N], [N]."""
        x = np.atleast_2d(np.asarray(phi, dtype=float))
        half = linalg.solve_triangular(linalg.cholesky(self.precision, lower=True), x.T, lower=True)
        return x @ self.mean, (half**2).sum(0)

    def probability(self, phi: ArrayLike) -> Array:
        """Chance that the first reply wins, sigmoid(mean / sqrt(1 + pi variance / 8)): [N, D] -> [N]."""
        mean, variance = self.difference(phi)
        return np.asarray(special.expit(mean / np.sqrt(1 + np.pi * variance / 8)))

    def lower(self, phi: ArrayLike, deviations: float) -> Array:
        """Pessimistic difference, mean - deviations * standard deviation: [N, D] -> [N]."""
        mean, variance = self.difference(phi)
        return np.asarray(mean - deviations * np.sqrt(variance))


def fit_last_layer(phi: ArrayLike, prior_precision: float) -> LastLayer:
    """The posterior of the weights given preferences.

    Args:
        phi: [N, D] features of the chosen minus the rejected reply.
        prior_precision: of each weight, above 0.
    """
    if not prior_precision > 0:
        raise ValueError(f"the prior precision must be above 0, got {prior_precision}")
    x = np.asarray(phi, dtype=float)

    def loss(w: Array) -> float:
        return float(np.logaddexp(0, -(x @ w)).sum() + prior_precision / 2 * w @ w)

    def slope(w: Array) -> Array:
        return np.asarray(-special.expit(-(x @ w)) @ x + prior_precision * w)

    def curvature(w: Array) -> Array:
        p = special.expit(x @ w)
        return np.asarray((x * (p * (1 - p))[:, None]).T @ x + prior_precision * np.eye(x.shape[1]))

    found = optimize.minimize(
        loss, np.zeros(x.shape[1]), jac=slope, hess=curvature, method="trust-exact", options={"gtol": 1e-9, "maxiter": 500}
    )
    mean = np.asarray(found.x, dtype=float)
    precision = curvature(mean)
    # log p(labels) = -loss(best) + D/2 log prior - 1/2 log det precision
    evidence = -loss(mean) + x.shape[1] / 2 * np.log(prior_precision) - 0.5 * np.linalg.slogdet(precision)[1]
    return LastLayer(mean=mean, precision=precision, prior_precision=prior_precision, log_evidence=float(evidence))


def best_last_layer(phi: ArrayLike, prior_precisions: ArrayLike = (0.01, 0.1, 1.0, 10.0, 100.0)) -> LastLayer:
    """The posterior under the prior precision with the largest evidence."""
    return max((fit_last_layer(phi, float(p)) for p in np.asarray(prior_precisions)), key=lambda found: found.log_evidence)
