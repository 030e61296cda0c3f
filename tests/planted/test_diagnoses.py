"""Each diagnosis alarms where its mismatch was planted (at least 90 % of seeds), and is quiet where none is (at most 10 % alarms)."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import pytest

from tests.planted.worlds import Plant, alarm_rate, frame
from trueup.core.rng import Key
from trueup.mismatch.decision import decide
from trueup.mismatch.policy_evaluation import tracking
from trueup.mismatch.reward_evaluation import length
from trueup.mismatch.reward_policy import calibration, distribution_shift, over_optimisation, realignment
from trueup.mismatch.verdict import MismatchSettings

SEEDS = 30
NONE = Plant(checkpoints=8)
SHORT = replace(NONE, checkpoints=3)
"""Enough for the diagnoses that look at the last checkpoint."""
S = MismatchSettings.model_validate(
    {
        "over_optimisation": {"draws": 400},
        "distribution_shift": {"draws": 400},
        "calibration": {"draws": 400, "band_draws": 200},
        "length": {"draws": 400},
        "tracking": {"draws": 400},
        "realignment": {"draws": 400},
        "verdict": {"draws": 400},
    }
)


def check(diagnose, settings, plant: Plant, planted: bool, seeds: int = SEEDS) -> None:
    rate = alarm_rate(diagnose, settings, plant, seeds)
    assert rate >= 0.9 if planted else rate <= 0.1, rate


@pytest.mark.parametrize(
    ("plant", "planted"),
    [
        (NONE, False),
        (replace(NONE, gold_gain=0.0), False),  # gold never moves while the proxy rises: nothing fell
        (replace(NONE, gold_drop=0.6, proxy_gain=-1.0), False),  # gold and proxy fall together: a collapse, not over-optimisation
        (replace(NONE, gold_drop=0.5), True),
    ],
)
def test_over_optimisation(plant: Plant, planted: bool) -> None:
    check(over_optimisation.diagnose, S.over_optimisation, plant, planted)


@pytest.mark.parametrize(
    ("plant", "planted"),
    [
        (SHORT, False),
        (replace(SHORT, spread_end=0.4), False),  # the policy's replies come closer: harder pairs, same reward model
        (replace(SHORT, agreement_end=0.3), False),  # the easy gains are made, and gold rose
        (replace(SHORT, agreement_end=0.3, gold_drop=0.6), True),
        (replace(SHORT, labelled=True, prompts=150), False),
        (replace(SHORT, labelled=True, prompts=150, agreement=0.8, agreement_end=0.1, gold_drop=0.6), True),
    ],
)
def test_distribution_shift(plant: Plant, planted: bool) -> None:
    check(distribution_shift.diagnose, S.distribution_shift, plant, planted, seeds=30 if plant.labelled else 60)


@pytest.mark.parametrize(
    ("plant", "planted"),
    [
        (SHORT, False),
        (replace(SHORT, overconfidence_end=4.0), False),  # too sure, and gold rose
        (replace(SHORT, agreement_end=0.1, gold_drop=0.6), True),
        (replace(SHORT, overconfidence_end=4.0, gold_drop=0.6), True),
        (replace(SHORT, labelled=True), False),
    ],
)
def test_calibration(plant: Plant, planted: bool) -> None:
    check(calibration.diagnose, S.calibration, plant, planted)


@pytest.mark.parametrize(
    ("plant", "planted"),
    [
        (NONE, False),
        (replace(NONE, gold_likes_length=0.5, length_growth=20.0), False),  # long because long is good
        (replace(NONE, gold_likes_length=-0.5), False),  # a noisy score of a gold that dislikes length
        (replace(NONE, length_bias=0.4), False),  # it costs nothing
        (replace(NONE, length_bias=0.4, gold_drop=0.8), True),
    ],
)
def test_length(plant: Plant, planted: bool) -> None:
    check(length.diagnose, S.length, plant, planted)


@pytest.mark.parametrize(("plant", "planted"), [(NONE, False), (replace(NONE, length_bias=1.0, length_growth=20.0), True)])
def test_length_without_gold(plant: Plant, planted: bool) -> None:
    def diagnose(records: pd.DataFrame, *rest):
        return length.diagnose(records.drop(columns="gold"), *rest)

    check(diagnose, S.length, plant, planted)


@pytest.mark.parametrize(
    ("plant", "planted"),
    [
        (NONE, False),
        (replace(NONE, gold_gain=0.0), False),
        (replace(NONE, gold_drop=0.7), True),
        (replace(NONE, flips=0.35), False),  # shown, but gold rose all the while
        (replace(NONE, flips=0.35, gold_drop=0.5), True),
    ],
)
def test_tracking(plant: Plant, planted: bool) -> None:
    check(tracking.diagnose, S.tracking, plant, planted)


@pytest.mark.parametrize(("plant", "planted"), [(NONE, False), (replace(NONE, flips=0.35), True)])
def test_tracking_without_gold(plant: Plant, planted: bool) -> None:
    def diagnose(records: pd.DataFrame, *rest):
        return tracking.diagnose(records.drop(columns="gold"), *rest)

    check(diagnose, S.tracking, plant, planted)


@pytest.mark.parametrize(("better", "expected"), [(0.0, "no difference shown"), (0.6, "quiet"), (-0.6, "alarm")])
def test_realignment(better: float, expected: str) -> None:
    verdicts = []
    for seed in range(SEEDS):
        arm, other = replace(NONE, gold_gain=1.0 + better, refit_at=3), NONE
        # the same prompts in both arms: their effects are part of the pairing only by name, so draw them alike
        both = pd.concat([frame(arm, seed, "frft"), frame(other, seed, "random")]).drop_duplicates("sample_id")
        verdicts.append(realignment.compare(both, "frft", "random", S.realignment, Key(seed)).verdict)
    assert verdicts.count(expected) / SEEDS >= 0.9, verdicts


def test_the_kept_checkpoint_is_near_the_peak_and_stops_only_then() -> None:
    # gold peaks in the middle (position 3.5 of 0..7) and then falls, or rises to the end
    kept, stops = [], []
    for seed in range(SEEDS):
        for plant in (replace(NONE, gold_drop=0.8), NONE):
            decision = decide(frame(plant, seed), "static", [], S.verdict, S.tracking, Key(seed))
            assert decision.basis == "gold"
            kept.append(decision.keep_step)
            stops.append(decision.stop)
    assert sum(20 <= k <= 50 for k in kept[0::2]) / SEEDS >= 0.9
    assert sum(k >= 50 for k in kept[1::2]) / SEEDS >= 0.9
    assert sum(stops[0::2]) / SEEDS >= 0.9
    assert sum(stops[1::2]) / SEEDS <= 0.1


def test_nothing_gained_keeps_the_first_checkpoint() -> None:
    flat = replace(NONE, gold_gain=0.0)
    kept = [decide(frame(flat, seed), "static", [], S.verdict, S.tracking, Key(seed)).keep_step for seed in range(SEEDS)]
    # seven checkpoints each pass a one-sided 5 % limit by chance now and then
    assert kept.count(0) / SEEDS >= 0.7
