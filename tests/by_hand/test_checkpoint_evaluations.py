"""Evaluations of whole checkpoints: the interval by hand, planted falls, honest ones, and what is not judged."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from trueup.core.rng import Key
from trueup.mismatch.policy_evaluation.checkpoint_evaluations import CheckpointEvaluations, diagnose, difference

STEPS = 6


def frame(seed: int, values: np.ndarray, n: float | None = 300, side: float = 1.0, rise: float = 1.0) -> pd.DataFrame:
    """Samples whose proxy rises by ``rise`` deviations, and one evaluation with these values at the checkpoints."""
    g = (Key(seed) / "world").generator()
    step, prompt = (a.ravel() for a in np.indices((STEPS, 60)))
    samples = pd.DataFrame(
        {
            "arm": "a", "split": "test", "step": 10 * step, "prompt_id": [f"p{p:02d}" for p in prompt],
            "sample_id": [f"{s}:{p:02d}" for s, p in zip(step, prompt, strict=True)],
            "proxy_fixed": rise * step / (STEPS - 1) + 0.3 * g.normal(size=len(step)),
        }
    )  # fmt: skip
    made = pd.DataFrame(
        {
            "arm": "a", "split": "evaluation", "step": 10 * np.arange(STEPS), "prompt_id": "evaluation",
            "sample_id": [f"e{s}" for s in range(STEPS)], "evaluations.quiz": values, "evaluations.quiz:side": side,
            "evaluations.quiz:n": np.nan if n is None else n,
        }
    )  # fmt: skip
    return pd.concat([samples, made], ignore_index=True)


def verdict(records: pd.DataFrame, seed: int = 0) -> str:
    return diagnose(records, "a", CheckpointEvaluations(draws=200), Key(seed)).verdict


def test_the_interval_by_hand() -> None:
    # 80 and 60 of 100: (81/102, 61/102) = (0.79412, 0.59804); variances 0.0016029 and 0.0023567, error 0.062926;
    # middle -0.196078, half width 1.959964 * 0.062926 = 0.123333
    low, high = difference((0.8, 100), (0.6, 100), 0.95)
    assert (low, high) == pytest.approx((-0.319411, -0.072745), abs=1e-5)
    # nothing seen is not certain: 0 of 10 twice is (1/12, 1/12), error sqrt(2 * (1/12 * 11/12) / 12) = 0.112836
    assert difference((0.0, 10), (0.0, 10), 0.95) == pytest.approx((-0.221155, 0.221155), abs=1e-5)


def test_change_and_fall_are_told() -> None:
    records = frame(0, np.array([0.7, 0.8, 0.8, 0.75, 0.7, 0.6]), n=400)
    found = diagnose(records, "a", CheckpointEvaluations(draws=200), Key(0))
    assert found.verdict == "alarm"
    assert "quiz from 0.8 to 0.6" in found.rule
    assert found.estimate("change_quiz").value == pytest.approx(-0.1)
    assert found.estimate("change_quiz").n == 400
    # 0.8 to 0.7 is 0.1 with an error near sqrt(0.16/400 + 0.21/400) = 0.030, and 15 pairs ask for 3.1 of them: steps 40 and 50 fell
    assert found.series["fallen"] == ["", "", "", "", "quiz", "quiz"]
    assert {len(column) for column in found.series.values()} == {STEPS}


def test_planted_falls_alarm_and_honest_ones_do_not() -> None:
    seeds = range(50)

    def drawn(seed: int, truth: np.ndarray) -> np.ndarray:
        return (Key(seed) / "items").generator().binomial(300, truth) / 300

    planted = [verdict(frame(s, drawn(s, np.linspace(0.8, 0.6, STEPS))), s) == "alarm" for s in seeds]
    honest = [verdict(frame(s, drawn(s, np.full(STEPS, 0.7))), s) == "alarm" for s in seeds]
    better = [verdict(frame(s, drawn(s, np.linspace(0.2, 0.4, STEPS)), side=-1.0), s) == "alarm" for s in seeds]
    assert np.mean(planted) >= 0.9
    assert np.mean(honest) <= 0.1
    assert np.mean(better) >= 0.9  # a harm that grows is a fall


def test_what_is_not_judged() -> None:
    falling = np.linspace(0.9, 0.3, STEPS)
    assert verdict(frame(0, falling, n=None)) == "not enough data"
    assert verdict(frame(0, falling * 100)) == "not enough data"  # no share: nothing is known of its error
    assert verdict(frame(0, falling, rise=-1.0)) == "quiet"  # the proxy fell likewise
    assert verdict(frame(0, 0.7 - 0.01 * np.arange(STEPS) / (STEPS - 1), n=1e7)) == "quiet"  # certain, and below min_drop
    records = frame(0, falling)
    none = diagnose(records[records["split"] == "test"], "a", CheckpointEvaluations(), Key(0))
    assert "no evaluations of whole checkpoints" in none.rule
    bare = diagnose(records.drop(columns="proxy_fixed"), "a", CheckpointEvaluations(), Key(0))
    assert "proxy_fixed" in bare.rule
