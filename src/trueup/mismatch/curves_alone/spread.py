"""Spread of the score: is there still a difference between replies from which a policy could learn?

Series: ``step``, ``proxy_std``, ``zero_spread_share``; None where one was not logged.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from trueup.core.rng import Key
from trueup.mismatch.curves_alone import table
from trueup.mismatch.curves_alone.table import CurvesAlone
from trueup.mismatch.diagnosis import Diagnosis, not_enough, shown
from trueup.mismatch.panel import plain

NAME = "spread"
QUESTION = "Has the spread of the score collapsed?"


def diagnose(curves: pd.DataFrame, arm: str, settings: CurvesAlone, key: Key) -> Diagnosis:
    """Alarm when little of the spread is left, or when most prompts have replies that all score alike.

    Args:
        curves: a row a step, under our names.
        arm: name of the log.
        settings: thresholds.
        key: random stream.
    """
    spread, zero = (table.points(curves, name)[1] for name in ("proxy_std", "zero_spread_share"))
    estimates, seen, alarm = [], [], False
    if len(spread) >= settings.min_points:
        left = table.ratio("spread_left", spread, settings, key / "spread")
        alarm |= left.high is not None and left.high < settings.max_spread_left
        seen.append(f"spread left below {settings.max_spread_left:.0%} of the start's: {shown(left)}")
        estimates.append(left)
    if len(zero) >= settings.min_points:
        end = table.last_mean("zero_spread_at_end", zero, "share", settings, key / "zero")
        alarm |= table.above(end, settings.max_zero_spread)
        seen.append(f"prompts whose replies all score alike above {settings.max_zero_spread:.0%}: {shown(end)}")
        estimates.append(end)
    if not estimates:
        return not_enough("reward_policy", NAME, QUESTION, arm, table.needed(settings, "proxy_std or zero_spread_share"))
    names = [name for name in ("proxy_std", "zero_spread_share") if name in curves]
    both = curves[names].dropna(how="all").reindex(columns=["proxy_std", "zero_spread_share"])
    return Diagnosis(
        link="reward_policy",
        name=NAME,
        question=QUESTION,
        arm=arm,
        verdict="alarm" if alarm else "quiet",
        rule=f"Alarm when certainly one of these holds: {'; '.join(seen)}. Where replies score alike, no gradient tells them apart.",
        estimates=tuple(estimates),
        series={"step": both.index.tolist(), **{name: plain(both[name].to_numpy(dtype=float, na_value=np.nan)) for name in both}},
    )
