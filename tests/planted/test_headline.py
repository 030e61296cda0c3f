"""The numbers of the three links are 1 in sound runs and fall with what is planted; their intervals hold what is true."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from tests.planted.worlds import Plant, frame
from trueup.core.rng import Key
from trueup.mismatch.headline import headlines
from trueup.mismatch.headlines.number import Headline, HeadlineSettings
from trueup.mismatch.policy_evaluation.tracking import Tracking

SEEDS = 50
SOUND = Plant(checkpoints=5, agreement=0.7, proxy_gain=2.0, gold_gain=1.4)
"""Gold is linear in the proxy with slope 0.7 within prompts, so a rise of 2 promises 1.4."""


def numbers(plant: Plant, place: int, seeds: int = SEEDS) -> list[Headline]:
    found = []
    for seed in range(seeds):
        rows = frame(plant, seed)
        # beside the planted evaluation one that rises with the proxy, from 0.3 by 0.4
        share = 0.3 + 0.4 * rows["step"].fillna(0) / (10 * (plant.checkpoints - 1))
        rows["evaluations.quiz_correct"] = ((Key(seed) / "quiz").generator().random(len(rows)) < share).astype(float)
        found.append(headlines(rows, "static", HeadlineSettings(draws=200), Tracking(), Key(seed) / "h")[place])
    return found


def mean(found: list[Headline]) -> float:
    assert all(h.estimate.value is not None for h in found)
    return float(np.mean([h.estimate.value for h in found]))


@pytest.mark.parametrize(
    ("place", "worse"),
    [
        (0, [replace(SOUND, gold_drop=d) for d in (0.3, 0.7, 1.4)]),
        (1, [replace(SOUND, length_bias=b) for b in (0.5, 1.0, 2.0)]),
        (1, [replace(SOUND, agreement=a) for a in (0.5, 0.3)]),
        (2, [replace(SOUND, flips=f) for f in (0.15, 0.3, 0.5)]),
    ],
)
def test_falls_with_what_is_planted(place: int, worse: list[Plant]) -> None:
    means = [mean(numbers(plant, place, 12)) for plant in (SOUND, *worse)]
    assert all(a > b + 0.02 for a, b in pairwise(means)), means


def test_sound_runs_are_near_1() -> None:
    kept, moved = numbers(SOUND, 0, 20), numbers(SOUND, 2, 20)
    assert mean(kept) > 0.95
    assert mean(moved) > 0.95
    # a proxy that orders as gold does uses all of the signal
    assert mean(numbers(replace(SOUND, agreement=1.0, gold_gain=2.0), 1, 5)) > 0.99


def test_the_interval_holds_the_truth() -> None:
    # gold ends at 1.4 - 0.7 of the 1.4 that were promised: one half. At 95 % some 47.5 of 50 intervals hold it; under 43 would be a
    # chance of 1 %
    found = [h.estimate for h in numbers(replace(SOUND, gold_drop=0.7), 0)]
    assert sum(e.low is not None and e.high is not None and e.low <= 0.5 <= e.high for e in found) >= 43
