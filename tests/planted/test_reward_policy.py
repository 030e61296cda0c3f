"""Diagnoses of reward model and policy: alarms where a mismatch was planted (90 % of 50 seeds), quiet where none is (at most 10 %)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from tests.planted.worlds import Plant, frame
from trueup.core.rng import Key
from trueup.mismatch.reward_policy import coverage, goodhart, predicted_regret, shift_by_kl, signal, tail_mismatch
from trueup.mismatch.verdict import MismatchSettings
from trueup.stats.falls import fall_to_last

SEEDS = 50
NONE = Plant(prompts=60, samples=6, checkpoints=5)
FALL = replace(NONE, gold_drop=0.8)
"""Gold falls, and nothing else is wrong with the score on pairs."""
SHORT, SHORT_FALL = replace(NONE, checkpoints=3), replace(FALL, checkpoints=3)
FEW, FEW_FALL = replace(SHORT, samples=2), replace(SHORT_FALL, samples=2)
DRAWS = {"draws": 300}
S = MismatchSettings.model_validate(
    dict.fromkeys(("goodhart", "tail_mismatch", "predicted_regret", "coverage", "signal", "shift_by_kl"), DRAWS)
)


def check(module, plant: Plant, planted: bool, change=lambda rows, g: rows) -> None:
    verdicts = []
    for seed in range(SEEDS):
        rows = change(frame(plant, seed), (Key(seed) / "change").generator())
        verdicts.append(module.diagnose(rows, "static", getattr(S, module.NAME), Key(seed) / "d").verdict)
    assert "not enough data" not in verdicts
    rate = verdicts.count("alarm") / SEEDS
    assert rate >= 0.9 if planted else rate <= 0.1, rate


@pytest.mark.parametrize(
    ("plant", "planted"),
    [
        (NONE, False),
        (FALL, False),  # gold falls though the proxy still orders the replies well
        (replace(NONE, agreement_end=0.0), False),  # the proxy tells nothing any more, and nothing false
        (replace(NONE, agreement_end=-0.5), True),
    ],
)
def test_goodhart(plant: Plant, planted: bool) -> None:
    check(goodhart, plant, planted)


@pytest.mark.parametrize(
    ("plant", "planted"),
    [(NONE, False), (FALL, False), (replace(NONE, agreement_end=-0.9), False), (replace(FALL, agreement_end=-0.9), True)],
)
def test_shift_by_kl(plant: Plant, planted: bool) -> None:
    check(shift_by_kl, plant, planted)


def exploited(share: float, only_last: bool = False):
    """Some replies that score far more than they should and are worth far less."""

    def change(rows: pd.DataFrame, g: np.random.Generator) -> pd.DataFrame:
        hit = (rows["arm"] == "static") & (g.random(len(rows)) < share)
        if only_last:
            hit &= rows["step"] == rows["step"].max()
        for column, by in (("proxy_fixed", 5.0), ("proxy_current", 5.0), ("gold", -4.0)):
            rows.loc[hit, column] += by
        return rows

    return change


@pytest.mark.parametrize(
    ("plant", "change", "planted"),
    [
        (replace(SHORT, samples=12), exploited(0.0), False),
        (replace(SHORT, samples=12, agreement=0.2, agreement_end=0.2), exploited(0.0), False),  # weak, as its accuracy says
        (replace(SHORT, samples=12), exploited(0.12), True),
        (replace(SHORT_FALL, samples=12), exploited(0.12, only_last=True), True),
        (replace(SHORT_FALL, samples=12), exploited(0.0), False),
    ],
)
def test_tail_mismatch(plant: Plant, change, planted: bool) -> None:
    check(tail_mismatch, plant, planted, change)


@pytest.mark.parametrize(
    ("plant", "planted"),
    [(NONE, False), (FALL, False), (replace(NONE, agreement=0.0), False), (replace(NONE, agreement=-0.5), True)],
)
def test_predicted_regret(plant: Plant, planted: bool) -> None:
    check(predicted_regret, plant, planted)


WORDS = [f"word{i}" for i in range(60)]


def written(strange_end: float):
    """Replies of five known words; by the last checkpoint a share of them of words that nobody knew."""

    def change(rows: pd.DataFrame, g: np.random.Generator) -> pd.DataFrame:
        step = rows["step"].fillna(0) / rows["step"].max()
        strange = g.random(len(rows)) < strange_end * step
        picks = g.integers(0, len(WORDS), (len(rows), 5))
        texts = [" ".join(("un" if odd else "") + WORDS[i] for i in pick) for pick, odd in zip(picks, strange, strict=True)]
        return rows.assign(response=texts)

    return change


@pytest.mark.parametrize(
    ("plant", "strange", "planted"),
    [(FEW, 0.0, False), (FEW_FALL, 0.0, False), (FEW, 0.8, False), (FEW_FALL, 0.8, True)],  # who leaves the data and gains is not blamed
)
def test_coverage(plant: Plant, strange: float, planted: bool) -> None:
    check(coverage, plant, planted, written(strange))


def second_score(apart: float):
    """Another reward model's score, near the first one at the start; ``apart`` is its mean gap to it at the last checkpoint."""

    def change(rows: pd.DataFrame, g: np.random.Generator) -> pd.DataFrame:
        step = rows["step"].fillna(0) / rows["step"].max()
        return rows.assign(**{"scores.other": rows["proxy_fixed"] + g.normal(0, 0.5, len(rows)) - apart * step})

    return change


@pytest.mark.parametrize(("plant", "apart", "planted"), [(NONE, 0.0, False), (FALL, 0.0, False), (NONE, 3.0, False), (FALL, 3.0, True)])
def test_outliers(plant: Plant, apart: float, planted: bool) -> None:
    check(signal, plant, planted, second_score(apart))


def flat(share: float):
    """Prompts whose replies all score alike."""

    def change(rows: pd.DataFrame, g: np.random.Generator) -> pd.DataFrame:
        alike = rows["prompt_id"].isin([f"p{i:04d}" for i in range(int(share * 60))])
        mean = rows.groupby(["arm", "step", "prompt_id"], dropna=False)["proxy_current"].transform("mean")
        return rows.assign(proxy_current=np.where(alike, mean, rows["proxy_current"]))

    return change


@pytest.mark.parametrize(
    ("plant", "share", "planted"),
    [(replace(NONE, proxy_gain=0.0), 0.8, True), (NONE, 0.8, False), (replace(NONE, proxy_gain=0.0), 0.2, False)],
)
def test_flat_prompts(plant: Plant, share: float, planted: bool) -> None:
    check(signal, plant, planted, flat(share))


def test_a_flat_curve_seldom_falls() -> None:
    # 12 checkpoints of the same gold over 40 prompts, which share half of their variance along training
    found = 0
    for seed in range(400):
        g = (Key(seed) / "curve").generator()
        table = g.normal(0, 1, (40, 1)) + g.normal(0, 1, (40, 12))
        weights = g.multinomial(40, np.full(40, 1 / 40), 400) / 40
        fall = fall_to_last(table.mean(axis=0), weights @ table, 40)
        found += fall is not None and fall.shown
    # claimed at 2.5 %: 10 of 400, with a deviation of 3.1
    assert found <= 10 + 3 * 3.1
