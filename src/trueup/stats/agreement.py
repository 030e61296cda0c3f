"""How far annotators agree, and beyond chance: every statistic is a function of sums over items, so one bootstrap serves all.

Sources: Cohen 1960; Fleiss 1971; Krippendorff 2004, "Content Analysis", chapter 11.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from trueup.stats.bootstrap import Array, ratio

ABSENT = -1
"""Code of an item that an annotator did not label."""


def vote_counts(codes: ArrayLike, categories: int) -> Array:
    """[N, C] how many annotators put each item in each category, from [N, M] codes; `ABSENT` is not counted."""
    labels = np.asarray(codes)
    return np.stack([(labels == c).sum(1) for c in range(categories)], axis=1).astype(float)


def agreement_sums(counts: Array) -> Array:
    """[N, 2] agreeing annotator pairs of each item, and pairs: [N, C] -> for `ratio`, the chance that two annotators agree."""
    total = counts.sum(1)
    return np.stack([(counts * (counts - 1)).sum(1), total * (total - 1)], axis=1)


def agreement(totals: Array) -> Array:
    """Chance that two different annotators of a random pair of labels agree: totals of `agreement_sums`, [..., 2] -> [...]."""
    return ratio(totals)


def confusion_sums(first: ArrayLike, second: ArrayLike, categories: int) -> Array:
    """[N, C * C] the cell of each item that both labelled: [N], [N] codes -> for `cohen_kappa`."""
    a, b = np.asarray(first), np.asarray(second)
    cells = np.zeros((len(a), categories * categories))
    both = (a != ABSENT) & (b != ABSENT)
    cells[np.flatnonzero(both), a[both] * categories + b[both]] = 1
    return cells


def cohen_kappa(totals: Array) -> Array:
    """Agreement of two annotators beyond that of their margins: sums of `confusion_sums`, [..., C * C] -> [...]."""
    size = round(totals.shape[-1] ** 0.5)
    table = totals.reshape(*totals.shape[:-1], size, size)
    n = table.sum((-1, -2))
    observed = np.trace(table, axis1=-2, axis2=-1)
    expected = (table.sum(-1) * table.sum(-2)).sum(-1)
    return beyond_chance(_over(observed, n), _over(expected, n**2))


def fleiss_sums(counts: Array) -> Array:
    """[N, 2 + C] agreement of each item, 1, and its share of each category; items with one label are left out (all zero)."""
    total = counts.sum(1)
    usable = total >= 2
    safe = np.where(usable, total, 2.0)
    within = ((counts**2).sum(1) - total) / (safe * (safe - 1))
    rows = np.concatenate([np.stack([within, np.ones(len(counts))], axis=1), counts / safe[:, None]], axis=1)
    return np.where(usable[:, None], rows, 0.0)


def fleiss_kappa(totals: Array) -> Array:
    """Agreement of several annotators beyond that of the pooled margins: sums of `fleiss_sums`, [..., 2 + C] -> [...]."""
    items = totals[..., 1]
    shares = _over(totals[..., 2:], items[..., None])
    return beyond_chance(_over(totals[..., 0], items), (shares**2).sum(-1))


def coincidence_sums(counts: Array) -> Array:
    """[N, C * C] Krippendorff's coincidences of each item, weighted by 1 / (labels - 1); items with one label have none."""
    total = counts.sum(1)
    weight = np.where(total >= 2, 1.0 / np.maximum(total - 1, 1.0), 0.0)
    pairs = counts[:, :, None] * counts[:, None, :]
    diagonal = np.arange(counts.shape[1])
    pairs[:, diagonal, diagonal] -= counts
    return (pairs * weight[:, None, None]).reshape(len(counts), -1)


def krippendorff_alpha(distance: ArrayLike) -> Callable[[Array], Array]:
    """Agreement where labels may be missing: 1 - observed over expected distance.

    Args:
        distance: [C, C] squared distance of categories: `nominal`, or squared differences of numbers.

    Returns:
        a function of the sums of `coincidence_sums`, [..., C * C] -> [...].
    """
    far = np.asarray(distance, dtype=float)

    def alpha(totals: Array) -> Array:
        table = totals.reshape(*totals.shape[:-1], *far.shape)
        margin = table.sum(-1)
        n = margin.sum(-1)
        expected = margin[..., :, None] * margin[..., None, :]
        diagonal = np.arange(len(far))
        expected[..., diagonal, diagonal] -= margin
        return 1 - _over((table * far).sum((-1, -2)) * (n - 1), (expected * far).sum((-1, -2)))

    return alpha


def nominal(categories: int) -> Array:
    """[C, C] distances of categories without an order: 0 to itself, 1 to any other."""
    return 1.0 - np.eye(categories)


def beyond_chance(observed: Array, expected: Array) -> Array:
    """(observed - expected) / (1 - expected), NaN where chance alone agrees always."""
    return _over(observed - expected, 1 - expected)


def _over(above: Array, below: Array) -> Array:
    above, below = np.broadcast_arrays(above, below)
    return np.divide(above, below, out=np.full(np.shape(above), np.nan), where=np.abs(below) > 1e-12)
