"""What comparisons say of the utility of checkpoints: a Bayesian Gao law with Bradley-Terry labels and covariates of the replies.

The log-odds that reply i beats reply j to the same prompt are u(c_i) - u(c_j) + w . (x_i - x_j), with c the checkpoint of a reply and x
its covariates, each centred on its checkpoint. So u(c) is the mean utility of a checkpoint's replies, w only explains away why one reply
of a checkpoint is better than another, and no covariate, the proxy included, can speak for a checkpoint. A priori u(d) = rise d - fall
d^(3/2) + a smooth rest, with d the square root of KL (after Gao, Schulman and Hilton 2022, arXiv:2210.10760), rise and fall uncertain; u
is 0 at the first checkpoint. The posterior is Laplace's approximation, found by Newton's method.

Deviations:
1. Gao's laws subtract d^2 (best of n) or d log d (RL, which cannot start at 0) for d^(3/2); here the law is a prior mean with a Gaussian
   process around it, so that enough labels overrule its shape.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from pydantic import Field
from scipy.special import xlogy

from trueup.core.config import Config
from trueup.core.rng import Key
from trueup.stats.bootstrap import Array

BEND = 1.5
"""Exponent of what is subtracted; of 2 (best of n), 3/2, and others that were tried on tuning runs, it leaves least."""


class UtilityPrior(Config):
    """What is believed of checkpoints before any label; log-odds of an annotator's comparison. Chosen on tuning runs (docs/log.md)."""

    rise: float = Field(default=0.8)
    """Mean of the slope of utility in the square root of KL, at the start."""
    rise_sd: float = Field(default=0.28, gt=0)
    """Its standard deviation."""
    fall: float = Field(default=0.44)
    """Mean of the coefficient of d^(3/2) that is subtracted."""
    fall_sd: float = Field(default=0.21, gt=0)
    """Its standard deviation."""
    correlation: float = Field(default=0.9, gt=-1, lt=1)
    """Of both: what rises fast falls fast."""
    rest_sd: float = Field(default=0.08, gt=0)
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
    bend = d**BEND
    mean[: len(d)] = settings.rise * d - settings.fall * bend
    near = np.exp(-0.5 * ((d[:, None] - d[None, :]) / settings.length) ** 2)
    grown = np.outer(np.sqrt(d), np.sqrt(d))
    both = settings.correlation * settings.rise_sd * settings.fall_sd
    law = settings.rise_sd**2 * np.outer(d, d) + settings.fall_sd**2 * np.outer(bend, bend)
    law -= both * (np.outer(d, bend) + np.outer(bend, d))
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


def informative(draws: Array, count: int) -> list[tuple[int, int]]:
    """Pairs of checkpoints whose comparison would say most about which checkpoint is the best.

    What it says is the mutual information of the answer and the best checkpoint: the entropy of the expected answer, less the expected
    entropy once the best is known (entropy search: Hennig and Schuler 2012, arXiv:1112.1217).

    Args:
        draws: [R, S] of the utilities.
        count: pairs wanted.

    Returns:
        at most ``count`` pairs, what says most first; equal ones in the order of the checkpoints.
    """
    a, b = np.triu_indices(draws.shape[1], 1)
    wins = 0.5 * (1 + np.tanh(0.5 * (draws[:, a] - draws[:, b])))
    best = draws.argmax(axis=1)
    said = _entropy(wins.mean(axis=0))
    for checkpoint in np.unique(best):
        here = best == checkpoint
        said = said - here.mean() * _entropy(wins[here].mean(axis=0))
    order = np.argsort(-np.round(said, 12), kind="stable")[:count]
    return [(int(a[i]), int(b[i])) for i in order]


def _entropy(p: Array) -> Array:
    """Of a coin, nats."""
    return np.asarray(-(xlogy(p, p) + xlogy(1 - p, 1 - p)))
