"""Cut replies: does a growing share of the replies end at the longest length?

Series: ``step``, ``clipped_share``.
"""

from __future__ import annotations

import pandas as pd

from trueup.core.rng import Key
from trueup.mismatch.curves_alone import table
from trueup.mismatch.curves_alone.table import CurvesAlone
from trueup.mismatch.diagnosis import Diagnosis, not_enough, shown

NAME = "clipped"
QUESTION = "Are more and more replies cut at the longest length?"


def diagnose(curves: pd.DataFrame, arm: str, settings: CurvesAlone, key: Key) -> Diagnosis:
    """Alarm when the share of cut replies grew and is large at the end.

    Args:
        curves: a row a step, under our names.
        arm: name of the log.
        settings: thresholds.
        key: random stream.
    """
    steps, values = table.points(curves, "clipped_share")
    if len(steps) < settings.min_points:
        return not_enough("policy_evaluation", NAME, QUESTION, arm, table.needed(settings, "clipped_share"))
    end = table.last_mean("clipped_at_end", values, "share", settings, key / "end")
    growth = table.change("clipped_change", values, "share", settings, key / "change")
    certain = table.above(end, settings.min_clipped) and table.above(growth, 0)
    alarm = certain and growth.value is not None and growth.value >= settings.min_clipped_growth
    return Diagnosis(
        link="policy_evaluation",
        name=NAME,
        question=QUESTION,
        arm=arm,
        verdict="alarm" if alarm else "quiet",
        rule=(
            f"Alarm when the share of cut replies at the end is certainly above {settings.min_clipped:g}: {shown(end)}, and grew by at "
            f"least {settings.min_clipped_growth:g} (interval above 0): {shown(growth)}. Scores of cut replies are those of fragments."
        ),
        estimates=(end, growth),
        series=table.columns(steps, clipped_share=values),
    )
