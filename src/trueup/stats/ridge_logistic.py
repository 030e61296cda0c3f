"""Logistic regression with Gaussian priors, whose widths the data choose.

Columns come in groups; coefficients of group g are N(0, 1 / penalty_g). The penalties maximise the evidence in Laplace's approximation by
MacKay's fixed point (1992, "Bayesian interpolation", section 3): penalty_g = gamma_g / sum of squared coefficients, with gamma_g =
size_g - penalty_g trace(C_gg) the number of coefficients the data determine and C the posterior covariance. A group that says nothing is
switched off by a growing penalty, so that groups may be offered freely.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from trueup.stats.bootstrap import Array

_LEAST, _MOST = 1e-2, 1e5
"""Limits of the penalties: a prior deviation of 10 log-odds, and one of 0.003."""


@dataclass(frozen=True, kw_only=True)
class RidgeFit:
    """Posterior of the coefficients in Laplace's approximation."""

    coefficient: Array
    """[D] mode."""
    covariance: Array
    """[D, D] inverse of the penalised information."""
    penalty: Array
    """[G] of each group."""


def ridge_logistic(x: Array, outcome: Array, penalty: Array, start: Array | None = None, steps: int = 50) -> tuple[Array, Array]:
    """Mode and covariance for given penalties.

    Args:
        x: [N, D] differences of the two sides of each comparison.
        outcome: [N] 1 the first won, 0 it lost, 1/2 a tie.
        penalty: [D] positive.
        start: [D] where to begin.
        steps: Newton steps at most.
    """
    beta = np.zeros(x.shape[1]) if start is None else start
    for _ in range(steps):
        chance = special.expit(x @ beta)
        step = np.linalg.solve(_information(x, chance, penalty), x.T @ (outcome - chance) - penalty * beta)
        beta = beta + step * min(1.0, 5.0 / max(float(np.abs(step).max(initial=0.0)), 1e-300))
        if np.abs(step).max(initial=0.0) < 1e-9:
            break
    return beta, np.asarray(np.linalg.inv(_information(x, special.expit(x @ beta), penalty)), dtype=np.float64)


def fit_by_evidence(x: Array, outcome: Array, group: NDArray[np.int64], rounds: int = 100) -> RidgeFit:
    """Coefficients with penalties that maximise the evidence.

    Args:
        x: [N, D] differences.
        outcome: [N]
        group: [D] number of each column's group, 0 to G - 1.
        rounds: of the fixed point at most.
    """
    groups = int(group.max()) + 1
    penalty, beta = np.ones(groups), None
    for _ in range(rounds):
        beta, covariance = ridge_logistic(x, outcome, penalty[group], beta)
        known = np.bincount(group, minlength=groups) - penalty * np.bincount(group, weights=np.diag(covariance), minlength=groups)
        size = np.bincount(group, weights=beta**2, minlength=groups)
        updated = np.clip(known / np.maximum(size, 1e-300), _LEAST, _MOST)
        settled = np.abs(np.log(updated / penalty)).max() < 1e-3
        penalty = updated
        if settled:
            break
    beta, covariance = ridge_logistic(x, outcome, penalty[group], beta)
    return RidgeFit(coefficient=beta, covariance=covariance, penalty=penalty)


def _information(x: Array, chance: Array, penalty: Array) -> Array:
    found: Array = (x * (chance * (1 - chance))[:, None]).T @ x + np.diag(penalty)
    return found
