"""One number a link, in [0, 1]: 1 where its two parts agree. Defined for any scale of any score, so that runs can be set side by side.

``promise_kept`` (reward <-> policy), ``signal_used`` (reward <-> evaluation) and ``moved_along`` (policy <-> evaluation) are files of
``headlines/``. What stands for the truth is the number's basis: numbers of different bases answer different questions and are not
compared. A number is absent where its parts are not shown to exist, and says what is missing.
"""

from __future__ import annotations

import pandas as pd

from trueup.core.rng import Key
from trueup.mismatch.headlines.moved_along import moved_along
from trueup.mismatch.headlines.number import NAMES, Headline, HeadlineSettings, absent
from trueup.mismatch.headlines.promise_kept import promise_kept
from trueup.mismatch.headlines.signal_used import signal_used
from trueup.mismatch.panel import panel_of
from trueup.mismatch.policy_evaluation.tracking import Tracking


def headlines(records: pd.DataFrame, arm: str, settings: HeadlineSettings, sides: Tracking, key: Key) -> list[Headline]:
    """The three numbers of an arm: reward <-> policy, reward <-> evaluation, policy <-> evaluation.

    Args:
        records: flat frame of sample records, offline rows included.
        arm: name of the arm.
        settings: basis and thresholds.
        sides: which side of an evaluation is better.
        key: random stream of halves and bootstrap.
    """
    panel = panel_of(records, arm)
    if panel is None:
        return [absent(link, arm, "the arm has no test rows") for link in NAMES]
    if len(panel.prompts) < settings.min_prompts:
        return [absent(link, arm, f"{len(panel.prompts)} prompts, at least {settings.min_prompts} are needed") for link in NAMES]
    if panel.column("proxy_fixed") is None:
        return [absent(link, arm, "proxy_fixed was not recorded") for link in NAMES]
    return [
        promise_kept(records, panel, settings, key / "promise_kept"),
        signal_used(records, panel, settings, sides, key / "signal_used"),
        moved_along(panel, settings, sides, key / "moved_along"),
    ]
