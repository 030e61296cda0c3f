"""Reward against KL: does the score still rise with the KL that is spent on it?

The curve is drawn over the square root of KL, as Gao et al. (2022) draw it. Without a truth beside it, it cannot tell gain from
over-optimisation: a proxy that is being exploited rises most evenly of all. This question therefore never raises an alarm.

Series: ``step``, ``proxy``, ``kl`` (nats a reply or a token, as logged), ``sqrt_kl``.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from trueup.core.rng import Key
from trueup.mismatch.curves_alone import table
from trueup.mismatch.curves_alone.table import METHOD, CurvesAlone
from trueup.mismatch.diagnosis import Diagnosis, not_enough, shown
from trueup.stats.bootstrap import Array, block_indices, make_estimate

NAME = "reward_kl"
QUESTION = "Does the score still rise with the KL that is spent on it?"


def diagnose(curves: pd.DataFrame, arm: str, settings: CurvesAlone, key: Key) -> Diagnosis:
    """Slopes of the score on sqrt(KL) in both halves of the run; quiet when the later one is above 0, never an alarm.

    Args:
        curves: a row a step, under our names.
        arm: name of the log.
        settings: thresholds.
        key: random stream.
    """
    kl = table.kl_of(curves)
    steps, (proxy, spent) = table.together(curves, "proxy", kl or table.KL[0])
    if len(steps) < settings.min_points:
        return not_enough("reward_policy", NAME, QUESTION, arm, table.needed(settings, "proxy", " or ".join(table.KL)))
    d, half = np.sqrt(np.maximum(spent, 0)), len(steps) // 2
    estimates = [
        table.change("proxy_change", proxy, "score", settings, key / "proxy"),
        table.change("kl_change", spent, "nats", settings, key / "kl"),
    ]
    for name, part in (("slope_first_half", slice(0, half)), ("slope_second_half", slice(half, None))):
        size = len(d[part])
        places = block_indices(size, table.block_of(size), settings.draws, key / name)
        draws, blocks = slope(d[part][places], proxy[part][places]), max(2, -(-size // table.block_of(size)))
        value = float(slope(d[part], proxy[part]))
        estimates.append(make_estimate(name, value, draws, blocks, "score / sqrt(nats)", method=METHOD, level=settings.level))
    rises = table.above(estimates[-1], 0)
    return Diagnosis(
        link="reward_policy",
        name=NAME,
        question=QUESTION,
        arm=arm,
        verdict="quiet" if rises else "no difference shown",
        rule=(
            f"Quiet when the slope of the score on sqrt(KL) in the second half of the run is above 0: {shown(estimates[-1])}, "
            f"after {shown(estimates[-2])} in the first half. Score {shown(estimates[0])}, KL {shown(estimates[1])} since the start. "
            "Neither answer says whether the score is still worth anything: that takes gold, labels or evaluations."
        ),
        estimates=tuple(estimates),
        series=table.columns(steps, proxy=proxy, kl=spent, sqrt_kl=d),
    )


def slope(x: Array, y: Array) -> Array:
    """Least-squares slope of y on x along the last axis; NaN where x does not vary."""
    a, b = x - x.mean(axis=-1, keepdims=True), y - y.mean(axis=-1, keepdims=True)
    below = (a * a).sum(axis=-1)
    return np.divide((a * b).sum(axis=-1), below, out=np.full(np.shape(below), np.nan), where=below > 1e-12)
