"""Tilting: sampled replies reweighted by exp(score / beta), the optimum of a KL-regularised objective without the optimisation.

The optimum of E[score] - beta KL(policy || reference) is proportional to reference x exp(score / beta). On K replies sampled from the
reference its expectations are sums with the weights softmax(score / beta). Read in two ways, such a sum is

1. without bias, the value of *soft best-of-K*: sample K replies, then draw one of them by those weights;
2. with a bias of order 1/K, the value of the optimum itself; `unbiased_mean` removes that order (jackknife over replies; Quenouille 1956).
   A tilt of many nats rests on few replies, and no K replies can show more than log K nats: look at `effective_size`.

All arrays are [..., P, K]: prompts by replies. NaN marks a reply that is not there; a prompt needs at least one.
"""

from __future__ import annotations

import numpy as np

from trueup.stats.bootstrap import Array

_LEAST, _MOST = 1e-6, 1e6
"""Betas between which one is looked for, in standard deviations of the score."""


def standardised(score: Array) -> Array:
    """Scores with mean 0 and deviation 1 over all prompts and replies of the last two axes; scores that never differ become 0."""
    mean = np.nanmean(score, axis=(-2, -1), keepdims=True)
    size = np.nanstd(score, axis=(-2, -1), keepdims=True)
    flat = size <= 1e-12 * np.maximum(np.abs(mean), 1.0)
    return np.where(np.isnan(score), np.nan, np.where(flat, 0.0, (score - mean) / np.where(flat, 1.0, size)))


def tilt(score: Array, beta: float) -> Array:
    """Softmax weights of each prompt's replies.

    Args:
        score: [..., P, K]
        beta: strength of the KL penalty, score units per nat; 0 puts all weight on the highest scores.

    Returns:
        [..., P, K] weights that sum to 1 over replies; 0 where there is no reply.
    """
    if beta < 0:
        raise ValueError(f"beta must not be negative, got {beta}")
    gap = score - np.nanmax(score, axis=-1, keepdims=True)
    raised = (gap == 0).astype(float) if beta == 0 else np.exp(np.where(np.isnan(gap), -np.inf, gap) / beta)
    found: Array = raised / raised.sum(axis=-1, keepdims=True)
    return found


def uniform(score: Array) -> Array:
    """[..., P, K] the weights of no tilt: one over the number of replies, 0 where there is none."""
    here = ~np.isnan(score)
    return np.asarray(here / here.sum(axis=-1, keepdims=True))


def tilted_mean(score: Array, value: Array, beta: float) -> Array:
    """[..., P] mean value under the tilt; `value` [..., P, K] is present wherever the score is."""
    return (tilt(score, beta) * np.nan_to_num(value)).sum(axis=-1)


def unbiased_mean(score: Array, value: Array, beta: float) -> Array:
    """[..., P] mean value under the optimum itself, the 1/K bias removed: K theta - (K - 1) mean of theta without one reply.

    NaN for prompts of fewer than two replies.
    """
    weight, gain = tilt(score, beta), np.nan_to_num(value)
    here = ~np.isnan(score)
    count = here.sum(axis=-1)
    whole = (weight * gain).sum(axis=-1)
    # leaving out the heaviest reply by subtraction would lose all digits where it holds nearly all weight
    heaviest = weight.argmax(axis=-1, keepdims=True)
    others = score.copy()
    np.put_along_axis(others, heaviest, np.nan, axis=-1)
    alone = np.isnan(others).all(axis=-1, keepdims=True)
    without_top = tilted_mean(np.where(alone, 0.0, others), gain, beta)
    rest = (whole[..., None] - weight * gain) / np.where(weight > 0.5, 1.0, 1 - weight)
    np.put_along_axis(rest, heaviest, without_top[..., None], axis=-1)
    dropped = np.where(here, rest, 0.0).sum(axis=-1) / np.maximum(count, 1)
    return np.where(count > 1, count * whole - (count - 1) * dropped, np.nan)


def kl_nats(score: Array, beta: float) -> Array:
    """[..., P] KL of the tilt from the sampled replies, nats: at most the logarithm of their number."""
    weight = tilt(score, beta)
    count = (~np.isnan(score)).sum(axis=-1, keepdims=True)
    terms = np.where(weight > 0, weight * np.log(np.where(weight > 0, weight * count, 1.0)), 0.0)
    return np.maximum(terms.sum(axis=-1), 0.0)


def effective_size(weight: Array) -> Array:
    """[..., P] replies that a weighted mean rests on: 1 / sum of squared weights."""
    return 1 / (weight**2).sum(axis=-1)


def beta_for_kl(score: Array, nats: float) -> float | None:
    """The beta at which the mean KL over prompts is ``nats``.

    Args:
        score: [P, K]
        nats: wanted.

    Returns:
        None where the replies cannot show so much: the mean logarithm of their numbers, less what ties take, is the most.
    """
    if nats <= 0:
        raise ValueError(f"the KL must be positive, got {nats}")
    if kl_nats(score, 0.0).mean() <= nats:
        return None
    size = float(np.nanstd(score)) or 1.0
    low, high = np.log(_LEAST * size), np.log(_MOST * size)
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if kl_nats(score, float(np.exp(middle))).mean() > nats else (low, middle)
    return float(np.exp((low + high) / 2))


def within_variance(score: Array) -> Array:
    """[..., P] variance of each prompt's scores, without bias; NaN for a single reply."""
    count = (~np.isnan(score)).sum(axis=-1)
    gap = score - (np.nansum(score, axis=-1) / count)[..., None]
    return np.where(count > 1, np.nansum(gap**2, axis=-1) / np.maximum(count - 1, 1), np.nan)
