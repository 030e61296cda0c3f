"""What comparisons say of the utility of checkpoints: a Bayesian Gao law with Bradley-Terry labels and covariates of the replies.

The log-odds that reply i beats reply j to the same prompt are u(c_i) - u(c_j) + w . (x_i - x_j), with c the checkpoint of a reply and x
its covariates, each centred on its checkpoint. So u(c) is the mean utility of a checkpoint's replies, w only explains away why one reply
of a checkpoint is better than another, and no covariate, the proxy included, can speak for a checkpoint. A priori u(d) = rise d - fall
d^2 + a smooth rest, with d the square root of KL (Gao, Schulman and Hilton 2022, arXiv:2210.10760, the best-of-n law), rise and fall
uncertain; u is 0 at the first checkpoint. The posterior is Laplace's approximation, found by Newton's method.

Deviations:
1. The law is a prior mean with a Gaussian process around it, so that enough labels overrule its shape.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from trueup.core.config import Config
from trueup.core.rng import Key
from trueup.stats.bootstrap import Array


class UtilityPrior(Config):
    """What is believed of checkpoints before any label; log-odds of an annotator's comparison. Chosen on tuning runs (docs/log.md)."""

    rise: float = Field(default=0.5)
    """Mean of the slope of utility in the square root of KL, at the start."""
    rise_sd: float = Field(default=0.22, gt=0)
    """Its standard deviation."""
    fall: float = Field(default=0.17)
    """Mean of the coefficient of KL in nats that is subtracted."""
    fall_sd: float = Field(default=0.1, gt=0)
    """Its standard deviation."""
    correlation: float = Field(default=0.7, gt=-1, lt=1)
    """Of both: what rises fast falls fast."""
    rest_sd: float = Field(default=0.1, gt=0)
    """Standard deviation of what the law leaves out, one unit of the square root of KL from the start."""
    length: float = Field(default=1.0, gt=0)
    """Distance in the square root of KL over which that changes."""
    covariate_sd: float = Field(default=1.0, gt=0)
    """Of the weight of a covariate that has standard deviation 1."""


@dataclass(frozen=True, kw_only=True)
class Comparisons:
    """N labels as rows of a design: log-odds of the first reply's win = design @ theta."""

    design: Array
    """[N, S - 1 + F]"""
    won: Array
    """[N] share of wins of the first reply; 1/2 a tie."""


@dataclass(frozen=True, kw_only=True)
class Posterior:
    """Normal belief over the utilities of the checkpoints after the first, and the weights of the covariates."""

    mean: Array
    """[S - 1 + F]"""
    root: Array
    """[S - 1 + F, S - 1 + F] root @ root.T is the covariance."""
    steps: int
    """Checkpoints S."""

    def utility(self) -> Array:
        """[S] mean utility over the first checkpoint's, which is 0; log-odds."""
        return np.r_[0.0, self.mean[: self.steps - 1]]

    def draws(self, count: int, key: Key) -> Array:
        """[count, S] draws of the utilities."""
        z = key.generator().normal(size=(count, len(self.mean)))
        found = self.mean + z @ self.root.T
        return np.concatenate([np.zeros((count, 1)), found[:, : self.steps - 1]], axis=1)


def design_row(first: int, second: int, difference: Array, steps: int) -> Array:
    """[S - 1 + F] of a reply of checkpoint ``first`` against one of ``second``, with the difference [F] of their covariates."""
    row = np.zeros(steps - 1 + len(difference))
    if first:
        row[first - 1] += 1
    if second:
        row[second - 1] -= 1
    row[steps - 1 :] = difference
    return row


def prior(distance: Array, covariates: int, settings: UtilityPrior) -> tuple[Array, Array]:
    """Mean and covariance before any label.

    Args:
        distance: [S] square root of the KL of each checkpoint, the first one's subtracted, nats^(1/2).
        covariates: F.
        settings: the law and its uncertainty.
    """
    d = np.maximum(np.asarray(distance, dtype=float), 0.0)[1:]
    n = len(d) + covariates
    mean, covariance = np.zeros(n), np.zeros((n, n))
    mean[: len(d)] = settings.rise * d - settings.fall * d**2
    near = np.exp(-0.5 * ((d[:, None] - d[None, :]) / settings.length) ** 2)
    grown = np.outer(np.sqrt(d), np.sqrt(d))
    both = settings.correlation * settings.rise_sd * settings.fall_sd
    law = settings.rise_sd**2 * np.outer(d, d) + settings.fall_sd**2 * np.outer(d**2, d**2) - both * (np.outer(d, d**2) + np.outer(d**2, d))
    covariance[: len(d), : len(d)] = law + settings.rest_sd**2 * grown * near
    covariance[len(d) :, len(d) :] = settings.covariate_sd**2 * np.eye(covariates)
    return mean, covariance + 1e-6 * np.eye(n)  # checkpoints of equal KL may differ a little


def posterior(distance: Array, comparisons: Comparisons, settings: UtilityPrior, rounds: int = 50) -> Posterior:
    """Laplace's approximation after the labels.

    Args:
        distance: [S] as in `prior`.
        comparisons: the labels; none leaves the prior.
        settings: the prior.
        rounds: Newton steps at most; they stop when the mean moves by less than 1e-8.
    """
    steps = len(distance)
    mean, covariance = prior(distance, comparisons.design.shape[1] - (steps - 1), settings)
    # theta = mean + root z with z standard normal: well conditioned however near checkpoints lie to each other
    root = np.linalg.cholesky(covariance)
    x, start, won = comparisons.design @ root, comparisons.design @ mean, comparisons.won
    z, hessian = np.zeros(len(mean)), np.eye(len(mean))
    for _ in range(rounds):
        p = 0.5 * (1 + np.tanh(0.5 * (start + x @ z)))
        hessian = np.eye(len(z)) + (x * (p * (1 - p))[:, None]).T @ x
        move = np.linalg.solve(hessian, x.T @ (won - p) - z)
        # Newton's step on a concave function may overshoot far from its top: no log-odds moves by more than 5 at once
        reach = np.max(np.abs(x @ move), initial=0.0)
        z = z + move * min(1.0, 5.0 / reach if reach > 0 else 1.0)
        if np.abs(move).max() < 1e-8:
            break
    spread: Array = np.asarray(root @ np.linalg.cholesky(np.linalg.inv(hessian)), dtype=np.float64)
    return Posterior(mean=mean + root @ z, root=spread, steps=steps)


def top_two(draws: Array, key: Key) -> tuple[int, int]:
    """Two checkpoints to compare next: the best of one draw, and of the first later draw with another best (Russo 2016, arXiv:1602.08448).

    Args:
        draws: [R, S] of the utilities.
        key: random stream of their order.

    Returns:
        two different checkpoints; where all draws agree, the second is the one with the next highest mean.
    """
    best: NDArray[np.int64] = draws.argmax(axis=1)[key.permutation(len(draws))]
    other = np.flatnonzero(best != best[0])
    if len(other):
        return int(best[0]), int(best[other[0]])
    order = np.argsort(-draws.mean(axis=0), kind="stable")
    return int(best[0]), int(next(s for s in order if s != best[0]))
