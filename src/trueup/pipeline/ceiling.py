"""What the labels of several annotators are worth: agreement, agreement beyond chance, and the accuracy that they allow any model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from trueup.core.rng import Key
from trueup.data.annotations import FIRST, TIE, Annotated
from trueup.stats import agreement as agree
from trueup.stats.bootstrap import Array, make_estimate, ratio, resample_totals, statistic_estimate
from trueup.stats.ceilings import ceiling_of_moments, lower_ceiling, power_sums, upper_ceiling
from trueup.stats.estimate import Estimate

CATEGORIES = 3
PAIRWISE_UP_TO = 6
"""Annotators up to which Cohen's kappa of every two is given."""
MOMENT_DRAWS = 200
"""Resamples behind the interval of the narrower ceiling, one pair of linear programmes each."""


@dataclass(frozen=True, kw_only=True)
class Ceiling:
    """What was found; every estimate has its interval, by resampling prompts (items where no prompt is known)."""

    items: int
    annotators: tuple[str, ...]
    labels: int
    estimates: list[Estimate] = field(default_factory=list)

    def __getitem__(self, name: str) -> Estimate:
        """The estimate of that name."""
        return next(e for e in self.estimates if e.name == name)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "items": self.items,
            "annotators": list(self.annotators),
            "labels": self.labels,
            "estimates": [e.to_dict() for e in self.estimates],
        }


def ceiling(items: Sequence[Annotated], key: Key) -> Ceiling:
    """Agreement of annotators and the ceiling of accuracy.

    Args:
        items: comparisons with at least two labels each.
        key: random stream of the bootstraps.

    Returns:
        ``agreement`` (chance that two annotators give the same of the three labels), ``fleiss_kappa``, ``krippendorff_alpha`` (nominal),
        ``tie_share``, ``agreement_ties_half``, ``ceiling_low`` and ``ceiling_high`` (best accuracy against one label, ties as half:
        between these, whatever the items are like), with four labels an item also ``ceiling_low_4`` and ``ceiling_high_4``, and
        ``cohen_kappa A/B`` for every two of few annotators.
    """
    names = tuple(sorted({name for item in items for name in item.labels}))
    codes = np.array([[item.labels.get(name, agree.ABSENT) for name in names] for item in items])
    units = np.array([item.prompt or item.id for item in items])
    counts = agree.vote_counts(codes, CATEGORIES)

    def estimate(name: str, rows: Array, statistic: Callable[[Array], Array], unit: str) -> Estimate:
        return statistic_estimate(_by_unit(rows, units), statistic, name, unit, key / name)

    signs = np.where(codes == agree.ABSENT, np.nan, np.where(codes == TIE, 0.0, np.where(codes == FIRST, 1.0, -1.0)))
    second = power_sums(signs, 2)
    ties = np.stack([counts[:, TIE], counts.sum(1)], axis=1)
    found = [
        estimate("agreement", agree.agreement_sums(counts), agree.agreement, "share"),
        estimate("fleiss_kappa", agree.fleiss_sums(counts), agree.fleiss_kappa, "kappa"),
        estimate("krippendorff_alpha", agree.coincidence_sums(counts), agree.krippendorff_alpha(agree.nominal(CATEGORIES)), "alpha"),
        estimate("tie_share", ties, ratio, "share"),
        estimate("agreement_ties_half", second, lambda t: (1 + ratio(t)) / 2, "share"),
        estimate("ceiling_low", second, lambda t: lower_ceiling(ratio(t)), "share"),
        estimate("ceiling_high", second, lambda t: upper_ceiling(ratio(t)), "share"),
        *_narrower(signs, second, units, key),
    ]
    if len(names) <= PAIRWISE_UP_TO:
        for i, j in combinations(range(len(names)), 2):
            cells = agree.confusion_sums(codes[:, i], codes[:, j], CATEGORIES)
            found.append(estimate(f"cohen_kappa {names[i]}/{names[j]}", cells, agree.cohen_kappa, "kappa"))
    return Ceiling(items=len(items), annotators=names, labels=int((codes != agree.ABSENT).sum()), estimates=found)


def _narrower(signs: Array, second: Array, units: NDArray[Any], key: Key) -> list[Estimate]:
    """Both ends of the ceiling from two moments, where items have four labels."""
    fourth = power_sums(signs, 4)
    if not fourth[:, 1].any():
        return []
    rows = _by_unit(np.concatenate([second, fourth], axis=1), units)
    found = []

    def ends(totals: Array) -> Array:
        return np.array([ceiling_of_moments(t[0] / t[1], t[2] / t[3]) if t[1] and t[3] else (np.nan, np.nan) for t in totals])

    value, draws = ends(rows.sum(0)[None])[0], ends(resample_totals(rows, MOMENT_DRAWS, key / "moments"))
    for i, name in enumerate(("ceiling_low_4", "ceiling_high_4")):
        found.append(make_estimate(name, value[i], draws[:, i], len(rows), "share", method="cluster bootstrap, linear programme"))
    return found


def _by_unit(rows: Array, units: NDArray[Any]) -> Array:
    """Sums of each independent unit's rows; units without any are left out."""
    codes, names = pd.factorize(units, sort=True)
    total = np.zeros((len(names), rows.shape[1]))
    np.add.at(total, codes, rows)
    return total[np.abs(total).sum(1) > 0]
