"""Samples of a fixed size in which each unit is drawn with its own known probability, for sums corrected by those probabilities.

Systematic sampling in random order (Madow 1949): units lie along a line, each as long as its probability; a comb of unit spacing picks.
Sums over the sample of value / probability are then without bias for the sum over all units (Horvitz and Thompson 1952).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trueup.core.rng import Key
from trueup.stats.bootstrap import Array


def inclusion(size: Array, budget: int) -> Array:
    """[N] probabilities proportional to ``size`` [N], at most 1, that sum to ``budget`` (or to the number of units of positive size)."""
    able = size > 0
    if budget >= able.sum():
        return able.astype(float)
    certain = np.zeros(len(size), dtype=bool)
    while True:
        free = able & ~certain
        chance = np.where(certain, 1.0, np.where(free, size * (budget - certain.sum()) / size[free].sum(), 0.0))
        over = free & (chance >= 1)
        if not over.any():
            return np.asarray(chance, dtype=np.float64)
        certain |= over


def systematic(probability: Array, key: Key) -> NDArray[np.int64]:
    """Units drawn, in ascending order: each with its probability [N], and as many as these sum to, rounded by chance."""
    generator = key.generator()
    order = generator.permutation(len(probability))
    # rounding keeps sums of a whole number from ending just below it
    ends = np.round(np.cumsum(probability[order]), 9) + generator.random()
    starts = np.concatenate([[ends[0] - probability[order[0]]], ends[:-1]]) if len(ends) else ends
    return np.sort(order[np.floor(ends) > np.floor(starts)])
