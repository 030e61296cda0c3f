"""The arithmetic of `studies/rewards.py`: pairing, peaks chosen on other prompts, power."""

from __future__ import annotations

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

STUDY = Path(__file__).resolve().parents[2] / "studies" / "rewards.py"


@pytest.fixture(scope="module")
def study() -> ModuleType:
    spec = spec_from_file_location("study_rewards", STUDY)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules["study_rewards"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_what_a_paired_t_test_finds(study: ModuleType) -> None:
    # sd of (1, -1, 1, -1) is sqrt(4/3) = 1.1547; t(3) has quantiles 3.1824 (0.975) and 0.9785 (0.8): 4.1609 x 1.1547 / 2 = 2.4023
    assert study.detectable(np.array([1.0, -1.0, 1.0, -1.0]), 4) == pytest.approx(2.4023, abs=1e-3)


def test_detectable_differences_are_found_in_four_of_five(study: ModuleType) -> None:
    rng, n, trials = np.random.default_rng(0), 20, 4000
    # deviation 1, shifted by what unit deviation makes detectable: t(19) quantiles 2.0930 and 0.8610, over sqrt(20)
    rows = rng.normal((2.0930 + 0.8610) / np.sqrt(n), 1, size=(trials, n))
    found = np.abs(rows.mean(1)) / (rows.std(1, ddof=1) / np.sqrt(n)) > 2.0930
    assert study.detectable(np.sqrt(19 / 20) * np.array([1.0, -1.0] * 10), n) == pytest.approx(2.9540 / np.sqrt(20), abs=1e-3)
    assert abs(found.mean() - 0.8) < 4 * np.sqrt(0.8 * 0.2 / trials)


def test_correlation_is_within_prompts(study: ModuleType) -> None:
    # centred within prompts: (-.5, .5, -.5, .5) and (-.5, .5, .5, -.5), whose product sums to 0, though the prompts' means rise together
    assert study.within(np.array([[0.0, 1.0], [10.0, 11.0]]), np.array([[0.0, 1.0], [6.0, 5.0]])) == pytest.approx(0, abs=1e-9)


def test_peaks_are_measured_on_the_prompts_that_did_not_choose(study: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("PROMPTS", 2), ("SAMPLES", 2), ("NS", (1, 2))):
        monkeypatch.setattr(study, name, value)
    parts = {"pool": slice(0, 4), "held": slice(4, 8), "train": slice(8, 12)}
    # held: chosen 3 2, rejected 1 5 by score: gaps 2 and -3; by gold 1 and -1, so both are right by gold; annotators said the first of each
    # train: the first pair's label is wrong by gold and the score follows it, the second's is right
    score = np.array([0, 1, 1, 0, 3, 2, 1, 5, 4, 4, 0, 0], dtype=float)
    gold = np.array([0, 1, 0, 3, 1, 0, 0, 1, 0, 1, 1, 0], dtype=float)
    found = study.measured(score, gold, np.arange(12.0), parts, np.array([1.0, 1.0]), True)
    assert found["clean_accuracy"] == 1
    assert found["label_accuracy"] == 0.5
    assert found["wrong_labels_followed"] == 1
    # gold of best-of-1 and best-of-2: 0.5 and 1 on the first prompt, 1.5 and 0 on the second
    assert found["gold"] == pytest.approx({"1": 1.0, "2": 0.5})
    # the first prompt chooses n = 2, where the second has 0; the second chooses n = 1, where the first has 0.5; ends are 0 and 1
    assert found["gold_peak"] == pytest.approx(0.25)
    assert found["drop"] == pytest.approx(-0.25)


def row(accuracy: float) -> dict[str, Any]:
    return {"clean_accuracy": accuracy, "gold": {"1": 0.0, "4": accuracy}, "gold_peak": 1.0}


def test_models_are_compared_on_the_same_trunks(study: ModuleType) -> None:
    found = [
        {"seed": s, "rewards": {"flipped": {"single/0": row(0.7), "single/1": row(0.9), "robust/0": row(0.7 + d), "warm": row(0.8)}}}
        for s, d in ((0, 0.02), (1, 0.04), (2, 0.03))
    ]
    robust = study.compare(found, study.Comparison("a", "flipped", "robust", "single", ()), "clean_accuracy")
    assert robust["value"] == pytest.approx(0.03)  # against single/0 alone
    assert robust["tenth_of_gain"] == pytest.approx(0.03)  # singles are right in 0.8: 0.1 x (0.8 - 0.5)
    assert robust["low"] < 0.03 < robust["high"]
    # sd 0.01: n = 4 finds 4.1609 x 0.01 / 2 = 0.0208, n = 3 finds (4.3027 + 1.0607) x 0.01 / sqrt 3 = 0.0310
    assert robust["seeds_needed"] == 4
    warm = study.compare(found, study.Comparison("a", "flipped", "warm", "single", ()), "gold@4")
    assert warm["value"] == pytest.approx(0)  # against the mean of 0.7 and 0.9
    assert warm["tenth_of_gain"] == pytest.approx(0.1)  # from gold 0 at n = 1 to 1 at the peak
