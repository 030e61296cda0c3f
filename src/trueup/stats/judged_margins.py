"""What held-out margins of preference pairs say of a reward model: accuracy, calibration, comparison, length, share of the ceiling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from trueup.core.rng import Key
from trueup.stats.bootstrap import Array, mean_estimate
from trueup.stats.calibration import ece_under_calibration, nll_nats, reliability
from trueup.stats.ceilings import attainable_share, ceiling_of_agreement
from trueup.stats.estimate import Estimate


def hits(margins: ArrayLike) -> Array:
    """[N] 1 where the margin is above 0, 1/2 where it is 0, else 0."""
    d = np.asarray(margins, dtype=float)
    return (d > 0) + 0.5 * (d == 0)


def accuracy(margins: ArrayLike, groups: Sequence[str], key: Key) -> Estimate:
    """Share of pairs ordered as labelled, ties as half; the interval resamples groups."""
    return mean_estimate(hits(margins), groups, "accuracy", "share", key)


def calibration_of(margins: Array, groups: Sequence[str], key: Key) -> dict[str, Any]:
    """``nll`` (nats), ``ece``, and ``ece_if_calibrated``: where 95 % of the ECEs lie if sigma(margin) is exactly right.

    Args:
        margins: [N] log-odds that the chosen reply wins.
        groups: [N] independent units.
        key: random stream.
    """
    won = np.ones(len(margins))
    ece = Estimate(name="ece", value=reliability(margins, won).ece, low=None, high=None, n=len(set(groups)), unit="share")
    band = np.quantile(ece_under_calibration(margins, key / "ece"), [0.025, 0.975])
    return {
        "nll": mean_estimate(nll_nats(margins, won), groups, "nll", "nats", key / "nll").to_dict(),
        "ece": ece.to_dict(),
        "ece_if_calibrated": band.tolist(),
    }


def difference(margins: ArrayLike, other: ArrayLike, groups: Sequence[str], key: Key) -> Estimate:
    """Accuracy minus another model's on the same pairs, paired; the interval resamples groups."""
    return mean_estimate(hits(margins) - hits(other), groups, "difference", "share", key)


def preference_for_length(margins: Array, longer: Array, groups: Sequence[str], key: Key) -> dict[str, Any]:
    """``longer_wins``: share of pairs whose chosen reply is the longer one; ``prefers_longer``: share whose longer reply the model prefers.

    Args:
        margins: [N] score of chosen minus rejected.
        longer: [N] length of chosen minus rejected; pairs of equal length count half.
        groups: [N]
        key: random stream.
    """
    agrees = hits(np.sign(longer) * margins)
    return {
        "longer_wins": mean_estimate(hits(longer), groups, "longer_wins", "share", key / "longer_wins").to_dict(),
        "prefers_longer": mean_estimate(agrees, groups, "prefers_longer", "share", key / "prefers_longer").to_dict(),
    }


def share_of_ceiling(reached: Estimate, agreement: float) -> dict[str, Any]:
    """``ceiling`` [low, high] from the chance that two annotators agree, and the share of the signal that an accuracy reaches there.

    Args:
        reached: the accuracy.
        agreement: above 1/2; taken as given, so that intervals are those of the accuracy.
    """
    ends = ceiling_of_agreement(agreement)

    def at(value: float | None, ceiling: float) -> float | None:
        return None if value is None else float(attainable_share(value, ceiling))

    def share(name: str, ceiling: float) -> dict[str, Any]:
        value, low, high = (at(v, ceiling) for v in (reached.value, reached.low, reached.high))
        return replace(reached, name=name, method="agreement as stated", value=value, low=low, high=high).to_dict()

    return {
        "agreement": agreement,
        "ceiling": list(ends),
        "attained_low": share("attained_low", ends[1]),
        "attained_high": share("attained_high", ends[0]),
    }
