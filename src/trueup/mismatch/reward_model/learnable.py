"""What of a score a policy can follow: the part that the words of a reply explain, alike for all prompts.

A score of K sampled replies a prompt varies for reasons that all prompts have in common (length, flattery, the form of a fact) and for
others that are a prompt's own, or noise. A tilt of the samples pays for both. A policy that is trained for some hundred steps can follow
only the first, since what it learns at one prompt must serve at others, at prompts it never saw certainly. A prediction of what
optimising will do therefore reads the tilt on the first part alone: a ridge regression of the score on counts of words, within prompts,
its penalty by generalised cross-validation (Golub, Heath and Wahba 1979).

That a policy follows just what is linear in words is an approximation; `studies/teaching.py` measures what it is worth.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from trueup.stats.bootstrap import Array

LEAST = 20
"""Replies that a word must stand in."""
MOST = 1000
"""Words at most, the commonest."""
PENALTIES = tuple(float(x) for x in 10.0 ** np.arange(-1.0, 5.1, 0.5))
"""Tried ones, in replies; columns have deviation 1."""


def word_counts(texts: Sequence[str], least: int = LEAST, most: int = MOST) -> Array:
    """How often each word stands in each text, and in the last column how many words it has: [N, D].

    Args:
        texts: split at blanks, lower case.
        least: texts that a word must stand in.
        most: words at most, the commonest.
    """
    split = [text.lower().split() for text in texts]
    known = Counter(word for words in split for word in set(words))
    kept = sorted((w for w, n in known.items() if n >= least), key=lambda w: (-known[w], w))[:most]
    place = {w: i for i, w in enumerate(kept)}
    found = np.zeros((len(texts), len(kept) + 1))
    for row, words in enumerate(split):
        for word in words:
            if word in place:
                found[row, place[word]] += 1
        found[row, -1] = len(words)
    return found


def learnable(score: Array, counts: Array) -> Array:
    """The part of scores that words explain within prompts, in the scores' units: [M, P, K] -> [M, P, K].

    Args:
        score: of M models; NaN where there is no reply.
        counts: [P, K, D] from `word_counts`; what stands where there is no reply does not matter.

    Returns:
        deviations from the prompt's mean; NaN where there is no reply. 0 where words explain nothing.
    """
    here = ~np.isnan(score[0])
    x, y = _within(np.moveaxis(counts, 2, 0), here), _within(score, here)
    spread = np.sqrt((x**2).mean(axis=1))
    x = x[spread > 1e-12] / spread[spread > 1e-12, None]
    values, turned = np.linalg.eigh(x @ x.T) if len(x) else (np.zeros(0), np.zeros((0, 0)))
    values = np.maximum(values, 0.0)
    parts = turned.T @ (x @ y.T)  # [D, M]
    free = float(y.shape[1] - here.any(axis=1).sum())
    penalty = min(PENALTIES, key=lambda p: _cross_validated(p, values, parts, (y**2).sum(axis=1), free))
    fitted = (turned @ (parts / (values[:, None] + penalty))).T @ x
    found = np.full(score.shape, np.nan)
    found[:, here] = fitted
    return found


def _within(columns: Array, here: NDArray[np.bool_]) -> Array:
    """[C, P, K] -> [C, n] deviations from the mean of each prompt's replies."""
    filled = np.where(here, columns, 0.0)
    mean = filled.sum(axis=2, keepdims=True) / np.maximum(here.sum(axis=1), 1)[:, None]
    return np.asarray((filled - mean)[:, here])


def _cross_validated(penalty: float, values: Array, parts: Array, square: Array, free: float) -> float:
    """Generalised cross-validation, summed over models; ``free`` numbers are left when prompts have their means.

    Args:
        penalty: of the ridge.
        values: [D] eigenvalues.
        parts: [D, M] products of eigenvectors, columns and scores.
        square: [M] sum of squares of each score.
        free: observations less prompts.
    """
    kept = values + penalty
    left = square - (parts**2 * ((2 * kept - values) / kept**2)[:, None]).sum(axis=0)
    used = float((values / kept).sum())
    return float(left.sum() / max(free - used, 1e-9) ** 2)
