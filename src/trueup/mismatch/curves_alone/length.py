"""Length: do replies grow because length is what scores?

Series: ``step``, ``length_tokens``, ``proxy``.
"""

from __future__ import annotations

import pandas as pd

from trueup.core.rng import Key
from trueup.mismatch.curves_alone import table
from trueup.mismatch.curves_alone.table import CurvesAlone
from trueup.mismatch.diagnosis import Diagnosis, not_enough, shown

NAME = "length_growth"
QUESTION = "Do replies grow longer with the score?"


def diagnose(curves: pd.DataFrame, arm: str, settings: CurvesAlone, key: Key) -> Diagnosis:
    """Alarm when replies grew, the score rose, and both move at the same steps.

    Args:
        curves: a row a step, under our names.
        arm: name of the log.
        settings: thresholds.
        key: random stream.
    """
    steps, (length, proxy) = table.together(curves, "length_tokens", "proxy")
    if len(steps) < settings.min_points:
        return not_enough("reward_evaluation", NAME, QUESTION, arm, table.needed(settings, "length_tokens", "proxy"))
    left = table.ratio("length_ratio", length, settings, key / "length")
    rise = table.change("proxy_change", proxy, "score", settings, key / "proxy")
    same = table.moves_together("spearman_differences", length, proxy, settings, key / "differences")
    grew = table.above(left, 1) and left.value is not None and left.value >= 1 + settings.min_length_growth
    alarm = grew and table.above(rise, 0) and table.above(same, 0)
    return Diagnosis(
        link="reward_evaluation",
        name=NAME,
        question=QUESTION,
        arm=arm,
        verdict="alarm" if alarm else "quiet",
        rule=(
            f"Alarm when replies grew by at least {settings.min_length_growth:.0%} (interval above 1): {shown(left)} times as long; the "
            f"score rose: {shown(rise)}; and both move at the same steps (correlation of first differences above 0): {shown(same)}."
        ),
        estimates=(left, rise, same),
        series=table.columns(steps, length_tokens=length, proxy=proxy),
    )
