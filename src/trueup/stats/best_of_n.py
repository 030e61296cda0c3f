"""Best-of-n sampling: its KL, the unbiased estimate of what it gains, and what Gaussian scores would make of it.

Sources: WebGPT (Nakano et al. 2021, appendix I) for the estimator; Beirami et al. 2024 for the KL of scores with ties; Gao et al. 2022,
appendix A, for the Gaussian case.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import ArrayLike
from scipy import integrate, special, stats

from trueup.stats.bootstrap import Array


def kl_nats(n: ArrayLike) -> Array:
    """KL(best-of-n || base) = log n - (n-1)/n for scores without ties; an upper bound with ties. Any shape -> same shape, nats."""
    count = np.asarray(n, dtype=float)
    return np.log(count) - (count - 1) / count


def exact_kl_nats(probability: ArrayLike, score: ArrayLike, n: int) -> float:
    """KL(best-of-n || base) over a finite set of replies.

    Args:
        probability: [N] base probability of each reply.
        score: [N] score of each; among equal scores the winner is drawn by base probability.
        n: samples.
    """
    p = np.asarray(probability, dtype=float)
    _, group = np.unique(np.asarray(score, dtype=float), return_inverse=True)
    mass = np.bincount(group, weights=p)
    upto = np.cumsum(mass)
    won = upto**n - np.concatenate([[0.0], upto[:-1]]) ** n
    kept = won > 0
    return float((won[kept] * np.log(won[kept] / mass[kept])).sum())


def kl_of_best(n: ArrayLike, probability: ArrayLike) -> Array:
    """KL(best-of-n || base) where the best reply of all has this base probability and the scores of all others do not tie; nats.

    The mean over winners of their own base probabilities estimates the KL where replies are few and `kl_nats` is far above it: a winner is
    taken for the best reply there is. Derivation: that reply wins with chance w = 1 - (1 - p)^n, which adds w log(w / p); the others have
    the density n F^(n - 1) on [0, 1 - p], which adds the integral of n F^(n - 1) log(n F^(n - 1)).

    Args:
        n: samples; any shape.
        probability: in (0, 1]; broadcast against ``n``.
    """
    count, p = np.asarray(n, dtype=float), np.asarray(probability, dtype=float)
    # log of one minus p, and the chance to win without cancellation; at p = 1 nothing is left for the others
    rest = np.log1p(-np.where(p < 1, p, 0.0))
    lost = np.where(p < 1, np.exp(count * rest), 0.0)
    won = -np.expm1(np.where(p < 1, count * rest, -np.inf))
    others = lost * (np.log(count) + (count - 1) * np.where(p < 1, rest, 0.0) - (count - 1) / count)
    return np.asarray(won * np.log(won / p) + others)


def win_rate(n: ArrayLike) -> Array:
    """Chance that best-of-n scores above one independent base sample: n / (n+1), for scores without ties."""
    count = np.asarray(n, dtype=float)
    return count / (count + 1)


def rank_weights(samples: int, n: int) -> Array:
    """[N] Chance that the i-th lowest of N samples is the best of n drawn without replacement: C(i-1, n-1) / C(N, n)."""
    if not 1 <= n <= samples:
        raise ValueError(f"best-of-{n} needs 1 <= n <= {samples} samples")
    rank = np.arange(1, samples + 1, dtype=float)
    weights = np.zeros(samples)
    able = rank >= n
    weights[able] = np.exp(_log_choose(rank[able] - 1, n - 1) - _log_choose(samples, n))
    return weights


def best_of_n(proxy: ArrayLike, value: ArrayLike, ns: Sequence[int]) -> Array:
    """Unbiased estimate of the mean value of the best of n by proxy, from N >= n samples of one prompt.

    Args:
        proxy: [N] the score that chooses.
        value: [N] what is averaged, such as gold or the proxy itself; replies of equal proxy share their mean value.
        ns: the n to evaluate.

    Returns:
        [len(ns)]
    """
    chooses, gains = np.asarray(proxy, dtype=float), np.asarray(value, dtype=float)
    _, group = np.unique(chooses, return_inverse=True)
    shared = np.bincount(group, weights=gains) / np.bincount(group)
    ordered = np.sort(group)
    return np.array([rank_weights(len(chooses), n) @ shared[ordered] for n in ns])


def best_of_n_rows(proxy: Array, value: Array, ns: Sequence[int]) -> Array:
    """`best_of_n` of many prompts at once.

    Args:
        proxy: [P, K] the score that chooses; NaN where there is no reply.
        value: [P, K] what is averaged, present wherever the proxy is.
        ns: the n to evaluate.

    Returns:
        [P, len(ns)] NaN where a prompt has fewer than n replies.
    """
    found = np.full((len(proxy), len(ns)), np.nan)
    counts = np.isfinite(proxy).sum(axis=1)
    for count in np.unique(counts[counts > 0]).tolist():
        rows = np.flatnonzero(counts == count)
        order = np.argsort(proxy[rows], axis=1, kind="stable")[:, :count]  # what is not there comes last
        chooses, gains = (np.take_along_axis(table[rows], order, axis=1) for table in (proxy, value))
        new = np.ones(chooses.shape, dtype=bool)
        new[:, 1:] = chooses[:, 1:] != chooses[:, :-1]
        group = np.cumsum(new.ravel()) - 1
        shared = (np.bincount(group, weights=gains.ravel()) / np.bincount(group))[group].reshape(gains.shape)
        for i, n in enumerate(ns):
            if n <= count:
                found[rows, i] = shared @ rank_weights(count, n)
    return found


@cache
def expected_maximum(n: int) -> float:
    """E[max of n independent N(0, 1)], by quadrature of x times the density of the maximum."""

    def integrand(x: float) -> float:
        return x * float(np.exp(np.log(n) + stats.norm.logpdf(x) + (n - 1) * special.log_ndtr(x)))

    # the density of the maximum is negligible outside these limits for every n up to 1e15; it peaks near the 1/n upper quantile
    value, _ = integrate.quad(integrand, -9.0, 13.0, points=[0.0, 4.0, 8.0], limit=200, epsabs=1e-12, epsrel=1e-12)
    return float(value)


def gaussian_gold(n: int, correlation: float, gold_std: float) -> float:
    """Mean gold of best-of-n by a proxy of that within-prompt correlation, jointly normal: rho sigma E[max of n]. It never turns over."""
    return correlation * gold_std * expected_maximum(n)


def accuracy_from_correlation(correlation: ArrayLike) -> Array:
    """Pair accuracy of a proxy of that within-prompt correlation, jointly normal: 1/2 + arcsin(rho) / pi."""
    return 0.5 + np.arcsin(np.asarray(correlation, dtype=float)) / np.pi


def correlation_from_accuracy(accuracy: ArrayLike) -> Array:
    """The inverse of `accuracy_from_correlation`."""
    return np.sin(np.pi * (np.asarray(accuracy, dtype=float) - 0.5))


def _log_choose(above: ArrayLike, below: ArrayLike) -> Array:
    a, b = np.asarray(above, dtype=float), np.asarray(below, dtype=float)
    return special.gammaln(a + 1) - special.gammaln(b + 1) - special.gammaln(a - b + 1)
