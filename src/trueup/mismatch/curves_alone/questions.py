"""All that is asked of curves alone, and what cannot be asked of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import pandas as pd

from trueup.core.rng import Key
from trueup.mismatch.curves_alone import clipped, evaluations, length, reward_kl, spikes, spread
from trueup.mismatch.curves_alone.table import CurvesAlone
from trueup.mismatch.diagnosis import Diagnosis

QUESTIONS: Sequence[tuple[str, Callable[[pd.DataFrame, str, CurvesAlone, Key], Diagnosis]]] = (
    (evaluations.NAME, evaluations.diagnose),
    (reward_kl.NAME, reward_kl.diagnose),
    (length.NAME, length.diagnose),
    (spikes.NAME, spikes.diagnose),
    (spread.NAME, spread.diagnose),
    (clipped.NAME, clipped.diagnose),
)


class Beyond(NamedTuple):
    """Something that curves cannot tell."""

    what: str
    why: str
    takes: str
    """What would tell it."""


BEYOND: tuple[Beyond, ...] = (
    Beyond(
        "Over-optimisation",
        "The score of what is optimised rises while it is exploited as it does while it is right.",
        "gold scores, labels or evaluations of the checkpoints' replies",
    ),
    Beyond(
        "Which checkpoint to keep",
        "A point is the mean of one batch of training prompts, others at every step; checkpoints are compared on the same prompts.",
        "records: TrueupCallback in the next run, or trueup audit --policy on the checkpoints of this one",
    ),
    Beyond(
        "Intervals over prompts",
        "The replies behind a point are gone. Intervals here resample points of the curve: would its own jitter explain it?",
        "records with prompt_id",
    ),
    Beyond(
        "Whether the reward model still orders the policy's replies",
        "Accuracy, calibration and bias of a reward model are properties of pairs.",
        "labels or gold of pairs, or trueup reward evaluate",
    ),
    Beyond("What the policy learned to write", "There is no text.", "records with response"),
    Beyond("Other seeds", "One log is one training run.", "several runs"),
)


def ask(curves: pd.DataFrame, arm: str, settings: CurvesAlone, key: Key) -> list[Diagnosis]:
    """Every question's answer about one log.

    Args:
        curves: a row a step (the index), under the names of `trueup.store.curve_names.CURVES`; NaN where nothing was logged.
        arm: name of the log.
        settings: thresholds.
        key: random stream.
    """
    return [diagnose(curves, arm, settings, key / name) for name, diagnose in QUESTIONS]
