"""Spikes of KL: did single updates carry the policy far beyond their neighbours?

A point is compared with the median of ten neighbours on either side, as logarithms; a tenth of the median KL is added first, so that KL
near 0 has no far outliers. The scale is the median absolute deviation over the whole curve.

Series: ``step``, ``kl``, ``local_median``, ``spike`` (1 where there is one, else 0).
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from trueup.core.rng import Key
from trueup.mismatch.curves_alone import table
from trueup.mismatch.curves_alone.table import CurvesAlone
from trueup.mismatch.diagnosis import Diagnosis, not_enough
from trueup.stats.bootstrap import Array
from trueup.stats.estimate import Estimate

NAME = "kl_spikes"
QUESTION = "Did the KL spike?"
SIDE = 10
_NAMED = 5


def diagnose(curves: pd.DataFrame, arm: str, settings: CurvesAlone, key: Key) -> Diagnosis:
    """Alarm when a point of KL lies far above its neighbours. Nothing is drawn at random.

    Args:
        curves: a row a step, under our names.
        arm: name of the log.
        settings: thresholds.
        key: random stream, unused.
    """
    name = table.kl_of(curves) or "update_kl_nats"
    steps, values = table.points(curves, name)
    if len(steps) < settings.min_points:
        return not_enough("reward_policy", NAME, QUESTION, arm, table.needed(settings, " or ".join((*table.KL, "update_kl_nats"))))
    near, deviations = stand_out(values)
    spiked = (deviations >= settings.spike_deviations) & (values >= settings.spike_ratio * near)
    found = np.flatnonzero(spiked)
    largest = found[np.argsort(-deviations[found], kind="stable")[:_NAMED]]
    seen = ", ".join(f"step {steps[i]} ({values[i]:.3g} beside {near[i]:.3g})" for i in sorted(largest)) or "none"
    more = f" and {len(found) - len(largest)} more" if len(found) > len(largest) else ""
    count = Estimate(name="spikes", value=len(found), low=None, high=None, n=len(values), unit="points", method="robust deviations")
    return Diagnosis(
        link="reward_policy",
        name=NAME,
        question=QUESTION,
        arm=arm,
        verdict="alarm" if len(found) else "quiet",
        rule=(
            f"Alarm when {name} lies {settings.spike_deviations:g} robust deviations above its neighbours and is at least "
            f"{settings.spike_ratio:g} times their median: {seen}{more}."
        ),
        estimates=(count,),
        series=table.columns(steps, kl=values, local_median=near, spike=spiked.astype(float)),
    )


def stand_out(values: Array) -> tuple[Array, Array]:
    """[n] Median of the neighbours, and how many robust standard deviations a point lies above it on the logarithmic scale."""
    count = len(values)
    near = np.array([np.median(np.delete(values[max(0, i - SIDE) : i + SIDE + 1], min(i, SIDE))) for i in range(count)])
    floor = 0.1 * float(np.median(values[values > 0])) if (values > 0).any() else 1.0
    apart = np.log(np.maximum(values, 0) + floor) - np.log(np.maximum(near, 0) + floor)
    scale = 1.4826 * float(np.median(np.abs(apart - np.median(apart))))
    return near, apart / max(scale, 1e-3)
