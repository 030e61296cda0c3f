"""What accuracy the labels themselves allow: the best any model can do against one fresh label of a pair.

An annotator prefers the first reply of an item with chance p; d = |2 p - 1|. Two annotators agree with chance (1 + E d^2) / 2, the best
accuracy against one label is (1 + E d) / 2. Agreement alone leaves an interval: its lower end is reached where every item is unanimous
or a coin flip, its upper end where all items are equally clear. Average agreement is the *lower* end of the ceiling, not the ceiling.

Votes are +1, -1, or 0 for a tie, which counts as half a win each way.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize

from trueup.stats.bootstrap import Array

GRID = 401
"""Values of d in the linear programme."""


def power_sums(votes: ArrayLike, power: int) -> Array:
    """[N, 2] unbiased estimate of each item's d^power (power 2 or 4) and 1; both 0 where there are too few votes.

    Args:
        votes: [N, M] +1, 0, -1; NaN where an annotator gave none.
        power: of d; the mean of the products of that many different annotators' votes.
    """
    if power not in (2, 4):
        raise ValueError(f"only d^2 and d^4 are polynomials of votes, got power {power}")
    rows = []
    for row in np.asarray(votes, dtype=float):
        given = row[~np.isnan(row)]
        # coefficients of prod(1 + v t): the elementary symmetric polynomials
        products = np.poly(-given)[power] if len(given) >= power else 0.0
        rows.append([products / math.comb(len(given), power), 1.0] if len(given) >= power else [0.0, 0.0])
    return np.array(rows).reshape(-1, 2)


def lower_ceiling(second: ArrayLike) -> Array:
    """(1 + E d^2) / 2, the agreement of two annotators with ties as half: the least the ceiling can be."""
    return (1 + np.clip(np.asarray(second, dtype=float), 0, 1)) / 2


def upper_ceiling(second: ArrayLike) -> Array:
    """(1 + sqrt(E d^2)) / 2: the most the ceiling can be."""
    return (1 + np.sqrt(np.clip(np.asarray(second, dtype=float), 0, 1))) / 2


def ceiling_of_agreement(agreement: float) -> tuple[float, float]:
    """Both ends of the ceiling, from the chance that two annotators agree (no ties)."""
    second = 2 * agreement - 1
    return float(lower_ceiling(second)), float(upper_ceiling(second))


def ceiling_of_moments(second: float, fourth: float) -> tuple[float, float]:
    """Both ends of the ceiling over all distributions of d on [0, 1] with these moments, by linear programming.

    Args:
        second: E d^2.
        fourth: E d^4; moved into [second^2, second], outside of which no distribution has it.
    """
    second = min(max(second, 0.0), 1.0)
    fourth = min(max(fourth, second**2), second)
    # both moments hold exactly only on a grid that has the points of the extreme distributions
    extreme = [math.sqrt(second), math.sqrt(fourth / second) if second > 0 else 0.0]
    grid = np.unique(np.concatenate([np.linspace(0, 1, GRID), extreme]))
    equal = np.stack([np.ones_like(grid), grid**2, grid**4])
    ends = []
    for sign in (1.0, -1.0):
        found = optimize.linprog(sign * grid, A_eq=equal, b_eq=[1.0, second, fourth], bounds=(0, 1), method="highs")
        ends.append((1 + sign * found.fun) / 2 if found.success else math.nan)
    return ends[0], ends[1]


def attainable_share(accuracy: ArrayLike, ceiling: ArrayLike) -> Array:
    """Share of the signal in the labels that a model reaches: (accuracy - 1/2) / (ceiling - 1/2); NaN where labels hold none."""
    reached, signal = np.broadcast_arrays(np.asarray(accuracy, dtype=float) - 0.5, np.asarray(ceiling, dtype=float) - 0.5)
    return np.divide(reached, signal, out=np.full(reached.shape, np.nan), where=signal > 0)
