"""Diagnoses of reward model and policy by hand: the same replies at every prompt, so that every number is known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest

from trueup.core.rng import Key
from trueup.mismatch.grids import grid, pair_hits
from trueup.mismatch.harm import harm_of
from trueup.mismatch.panel import panel_of
from trueup.mismatch.reward_policy import coverage, goodhart, over_optimisation, predicted_regret, shift_by_kl, signal, tail_mismatch
from trueup.mismatch.reward_policy.coverage import Coverage
from trueup.mismatch.reward_policy.goodhart import Goodhart
from trueup.mismatch.reward_policy.laws import degree
from trueup.mismatch.reward_policy.over_optimisation import OverOptimisation
from trueup.mismatch.reward_policy.predicted_regret import PredictedRegret
from trueup.mismatch.reward_policy.shift_by_kl import ShiftByKl
from trueup.mismatch.reward_policy.signal import Signal
from trueup.mismatch.reward_policy.tail_mismatch import TailMismatch
from trueup.mismatch.verdict import MismatchSettings
from trueup.stats.best_of_n import best_of_n, best_of_n_rows
from trueup.stats.falls import fall_to_last


def frame(steps: Sequence[dict[str, Sequence[Any]]], prompts: int = 12) -> pd.DataFrame:
    """Columns of the replies of each checkpoint (steps 0, 10 …), alike for every prompt."""
    rows = []
    for s, columns in enumerate(steps):
        for p in range(prompts):
            for k in range(len(next(iter(columns.values())))):
                own = {name: values[k] for name, values in columns.items()}
                rows.append({"arm": "a", "split": "test", "step": 10 * s, "prompt_id": f"p{p:02d}", "sample_id": f"{s}:{p:02d}:{k}", **own})
    return pd.DataFrame(rows).assign(response="words")


def test_the_surest_fall_is_from_the_highest_point_and_rising_curves_have_none() -> None:
    still = np.zeros((100, 1))
    fell = fall_to_last(np.array([0.0, 2.0, 1.0]), np.array([0.0, 2.0, 1.0]) + still, 10)
    assert fell is not None
    assert (fell.position, fell.size, fell.low, fell.shown) == (1, 1.0, 1.0, True)
    rose = fall_to_last(np.array([0.0, 1.0, 2.0]), np.array([0.0, 1.0, 2.0]) + still, 10)
    assert rose is not None
    assert (rose.position, rose.size, rose.shown) == (1, -1.0, False)
    assert fall_to_last(np.array([1.0, np.nan]), np.ones((100, 2)), 10) is None


def test_a_fall_is_held_against_all_that_could_have_been_seen() -> None:
    # 40 points above the last one by 2 of their errors: one of them alone would be shown (2 > 1.96), the highest of 40 is not
    noise = Key(0).generator().normal(0, 1, (4000, 41))
    noise[:, -1] = 0
    alone = fall_to_last(np.array([2.1, 0.0]), np.array([2.1, 0.0]) + noise[:, [0, -1]], 1000)
    many = fall_to_last(np.r_[np.full(40, 2.1), 0.0], np.r_[np.full(40, 2.1), 0.0] + noise, 1000)
    assert alone is not None
    assert many is not None
    assert (alone.shown, many.shown) == (True, False)


def test_best_of_n_of_many_prompts() -> None:
    proxy = np.array([[0.1, 0.5, 0.2, 0.9], [3.0, 1.0, 1.0, np.nan], [5.0, np.nan, np.nan, np.nan]])
    gold = np.array([[1.0, 3.0, 2.0, 0.0], [6.0, 0.0, 3.0, np.nan], [7.0, np.nan, np.nan, np.nan]])
    found = best_of_n_rows(proxy, gold, [1, 2, 3, 4])
    # first: the estimator's textbook case. Second, best of two of three: the top one in two of three pairs, else the tied mean 1.5
    assert found[0] == pytest.approx([1.5, 4 / 3, 0.75, 0.0])
    assert found[1, :3] == pytest.approx([3.0, (6 + 6 + 1.5) / 3, 6.0])
    assert np.isnan(found[1, 3])
    assert found[2, 0] == 7.0
    assert np.isnan(found[2, 1:]).all()
    assert found[0] == pytest.approx(best_of_n(proxy[0], gold[0], [1, 2, 3, 4]))


def test_grids_keep_replies_in_place_and_leave_out_what_lacks_a_column() -> None:
    records = frame([{"gold": [1.0, 2.0, 3.0], "proxy_fixed": [1.0, 1.0, 2.0]}], prompts=2)
    records.loc[records["sample_id"] == "0:01:0", "gold"] = np.nan
    panel = panel_of(records, "a")
    assert panel is not None
    gold, proxy = grid(panel, 0, [np.asarray(panel.column("gold")), np.asarray(panel.column("proxy_fixed"))])
    np.testing.assert_array_equal(gold, [[1, 2, 3], [2, 3, np.nan]])
    np.testing.assert_array_equal(proxy, [[1, 1, 2], [1, 2, np.nan]])
    hits, pairs = pair_hits(proxy, gold)
    # a tied score counts half: 1/2 + 1 + 1 of three pairs; one of one
    assert hits.tolist() == [2.5, 1.0]
    assert pairs.tolist() == [3.0, 1.0]


def test_harm_is_a_fall_that_is_shown_and_no_small_share_of_the_gain() -> None:
    def harm(*gold: float) -> Any:
        panel = panel_of(frame([{"gold": [g, g]} for g in gold]), "a")
        assert panel is not None
        return harm_of(panel, Key(0))

    found = harm(0.0, 1.0, 0.9)
    assert (found.shown, found.basis, found.since) == (True, "gold", 10)
    assert found.fall.value == pytest.approx(0.1)
    assert not harm(0.0, 1.0, 0.97).shown  # 3 % of the gain
    assert harm(0.0, -0.01).shown  # there was no gain to be a share of
    assert not harm(0.0, 1.0, 2.0).shown
    # half of the prompts lose 1.2 and half gain 1: the mean falls by 0.1, with an error of 1.1 / sqrt 12 = 0.32
    uneven = frame([{"gold": [0.0, 0.0]}, {"gold": [1.0, 1.0]}])
    later = uneven["step"] == 10
    uneven.loc[later, "gold"] = np.where(uneven.loc[later, "prompt_id"] < "p06", -1.2, 1.0)
    panel = panel_of(uneven, "a")
    assert panel is not None
    found = harm_of(panel, Key(0))
    assert (found.fall.value if found.fall else None) == pytest.approx(0.1)
    assert (found.shown, found.refuted) == (False, True)
    panel = panel_of(frame([{"proxy_fixed": [0.0, 1.0]}] * 2), "a")
    assert panel is not None
    assert (harm_of(panel, Key(0)).basis, harm_of(panel, Key(0)).shown) == ("nothing", False)


def test_harm_from_labels_against_the_first_checkpoint() -> None:
    records = frame([{"proxy_fixed": [0.0]}] * 3)
    # the second checkpoint always wins against the first, the third always loses
    won = {10: 1.0, 20: 0.0}
    records["labels"] = [
        [] if step == 0 else [{"annotator": "x", "other_sample_id": "0:" + name.split(":", 1)[1], "preference": won[step]}]
        for step, name in zip(records["step"], records["sample_id"], strict=True)
    ]
    panel = panel_of(records, "a")
    assert panel is not None
    found = harm_of(panel, Key(0))
    assert (found.basis, found.since, found.shown) == ("labels", 10, True)
    assert found.fall is not None
    assert found.fall.value == pytest.approx(1.0)


TIED = {"gold": [1.0, 2.0, 3.0, 4.0], "proxy_fixed": [1.0, 1.0, 3.0, 2.0]}


def test_the_tail_is_held_against_what_accuracy_promises() -> None:
    records = frame([TIED, TIED])
    found = tail_mismatch.diagnose(records, "a", TailMismatch(), Key(0))
    # of six pairs four are right, one ties, one is wrong: accuracy 4.5 / 6 = 3/4, so rho = sin(pi / 4) = 1 / sqrt 2
    assert found.estimate("accuracy_first").value == pytest.approx(0.75)
    # the best of four by proxy has gold 3, the mean is 2.5; by gold itself it would be 4
    assert found.estimate("gain_first_4").value == pytest.approx(0.5)
    assert found.estimate("promised_first_4").value == pytest.approx(1.5 / np.sqrt(2))
    assert found.estimate("shortfall_first").value == pytest.approx(1 - 0.5 * np.sqrt(2) / 1.5)
    # deviation sqrt(5/3); of four normal values its mean is 0.9213177 of the truth; the best of four normal ones is at 1.0293754
    assert found.estimate("promised_gaussian_first_4").value == pytest.approx(np.sqrt(5 / 3) / 0.9213177 / np.sqrt(2) * 1.0293754, abs=1e-6)
    # best of two by proxy: pairs 1 2 (tie: 1.5), 13: 3, 14: 4, 23: 3, 24: 4, 34: 3; mean 18.5/6
    assert found.estimate("gain_first_2").value == pytest.approx(18.5 / 6 - 2.5)
    # the best of four gains less than the best of two, at every prompt
    assert found.verdict == "alarm"
    assert found.samples == ()


def test_what_falls_short_alarms_only_with_harm() -> None:
    # by two 4 of 6 pairs are won by the better, and the best by proxy is the third best: gains 0, then 0.5 of a promised 1.06
    rising = {"gold": [1.0, 2.0, 3.0, 4.0], "proxy_fixed": [1.0, 1.0, 2.0, 2.0]}
    # pairs: two ties, four right: accuracy 5/6, rho sin(pi/3); best of four: mean of 3 and 4, gain 1; own 1.5
    fine = tail_mismatch.diagnose(frame([rising, rising]), "a", TailMismatch(min_shortfall=0.2), Key(0))
    short = 1 - 1 / (1.5 * np.sin(np.pi / 3))
    assert fine.estimate("shortfall_last").value == pytest.approx(short)
    assert fine.verdict == "quiet"
    fallen = {**rising, "gold": [v - 1 for v in rising["gold"]]}
    assert tail_mismatch.diagnose(frame([rising, fallen]), "a", TailMismatch(min_shortfall=0.2), Key(0)).verdict == "alarm"
    assert tail_mismatch.diagnose(frame([rising, fallen]), "a", TailMismatch(min_shortfall=0.25), Key(0)).verdict == "quiet"


def test_a_best_reply_that_is_the_worst_alarms_at_once() -> None:
    wrong = {"gold": [1.0, 3.0, 2.0, 0.0], "proxy_fixed": [0.1, 0.5, 0.2, 0.9]}
    found = tail_mismatch.diagnose(frame([wrong]), "a", TailMismatch(), Key(0))
    # three of six pairs: accuracy 1/2 promises nothing, the best of four has gold 0 where the mean is 1.5
    assert found.estimate("gain_first_4").value == pytest.approx(-1.5)
    assert found.estimate("shortfall_first").value is None
    assert found.verdict == "alarm"
    assert found.samples[0].endswith(":3")


@pytest.mark.parametrize("column", ["proxy_fixed", "gold"])
def test_what_never_differs_alarms_nowhere(column: str) -> None:
    # sums of tenths differ by rounding; no such difference is a fall, a slope or a tail
    values = {"gold": [0.1, 0.3, 0.7, 0.2], "proxy_fixed": [0.3, 0.1, 0.7, 0.9], column: [0.1] * 4}
    records = frame([values] * 4).assign(logp_policy_nats=-5000.0, logp_ref_nats=-3.0, kl_policy_ref_exact_nats=1.0)
    for module in (goodhart, tail_mismatch, predicted_regret, shift_by_kl, signal, coverage):
        found = module.diagnose(records, "a", getattr(MismatchSettings(), module.NAME), Key(0))
        assert found.verdict != "alarm", found.rule
        numbers = [v for column in found.series.values() for v in column if isinstance(v, float)]
        assert np.isfinite(numbers).all()


X = [-1.5, -0.5, 0.5, 1.5]


def test_slopes_of_gold_on_proxy_and_the_regime_they_name() -> None:
    steps = [
        {"proxy_fixed": X, "gold": [2 * x for x in X]},  # slope 2
        {"proxy_fixed": X, "gold": [5 + x for x in X]},  # slope 1: half
        {"proxy_fixed": X, "gold": [4.0, 6.0, 7.0, 5.0]},  # products 0 -1 +1.5 +1.5 about the mean 5.5 and so on: 2 over 5
    ]
    found = goodhart.diagnose(frame(steps), "a", Goodhart(bins=2), Key(0))
    assert found.series["slope"] == pytest.approx([2.0, 1.0, 0.4])
    assert found.series["slope_rescaled"] == pytest.approx([1.0, 0.5, 0.2])
    assert found.series["slope_top"] == pytest.approx([2.0, 1.0, -2.0])  # from 7 at 0.5 to 5 at 1.5
    assert found.series["regime"] == ["calibrated", "regressional", "extremal"]
    assert found.verdict == "alarm"
    assert "first one's: first at step 20" in found.rule
    assert found.samples == tuple(f"2:{p:02d}:3" for p in range(5))
    assert goodhart.diagnose(frame(steps[:2]), "a", Goodhart(bins=2), Key(0)).verdict == "quiet"
    assert goodhart.diagnose(frame(steps), "a", Goodhart(bins=2, min_reversal=1.1), Key(0)).verdict == "quiet"  # -2 is 1.0 of the first


def test_spread_doubt_and_flat_prompts() -> None:
    steps = [
        {"proxy_fixed": [-1.0, 1.0], "disagreement": [0.5, 0.5]},
        {"proxy_fixed": [0.5, 1.5], "disagreement": [0.3, 0.4]},
    ]
    records = frame(steps)
    records.loc[(records["step"] == 10) & (records["prompt_id"] < "p03"), "proxy_fixed"] = 1.0
    found = signal.diagnose(records, "a", Signal(), Key(0))
    # variances 2, and 1/2 at nine of twelve prompts: 3/8 in the mean
    assert found.series["spread"] == pytest.approx([np.sqrt(2), np.sqrt(3 / 8)])
    assert found.estimate("spread_left").value == pytest.approx(np.sqrt(3 / 16))
    assert found.series["flat_share"] == pytest.approx([0.0, 0.25])
    # squares of the disagreement: 1/4, and (0.09 + 0.16) / 2 = 1/8
    assert found.series["doubt"] == pytest.approx([np.sqrt(1 / 8), np.sqrt(1 / 3)])
    assert found.series["outlier_share"] == [None, None]  # no two scores
    assert found.verdict == "quiet"
    assert found.samples[0].startswith("1:")


def test_nothing_to_learn_from_alarms_unless_the_proxy_rises() -> None:
    same = [{"proxy_fixed": [1.0, 1.0]}, {"proxy_fixed": [1.0, 1.0]}]
    records = frame(same)
    records.loc[records["sample_id"].isin(["0:00:0", "1:00:0"]), "proxy_fixed"] = 0.0  # one prompt of twelve differs
    found = signal.diagnose(records, "a", Signal(), Key(0))
    assert found.estimate("flat_share_first").value == pytest.approx(11 / 12)
    assert found.verdict == "alarm"
    records.loc[records["step"] == 10, "proxy_fixed"] += 1
    assert signal.diagnose(records, "a", Signal(), Key(0)).verdict == "quiet"


def test_outliers_are_further_out_than_the_first_checkpoints_replies() -> None:
    first = {"proxy_fixed": [0.0, 1.0, 2.0, 3.0], "scores.a": [2.0, 1.0, -1.0, -2.0], "scores.b": [1.0, 2.0, -2.0, -1.0], "gold": [1.0] * 4}
    # the scores always parted by 1; now they part by 8 at one reply of four, and agree on 20 at another
    last = {**first, "scores.a": [2.0, 20.0, 4.0, -2.0], "scores.b": [1.0, 20.0, -4.0, -1.0]}
    found = signal.diagnose(frame([first, last]), "a", Signal(), Key(0))
    assert found.series["outlier_share"][1] == pytest.approx(0.25)
    assert found.verdict == "quiet"
    assert signal.diagnose(frame([first, {**last, "gold": [0.0] * 4}]), "a", Signal(), Key(0)).verdict == "alarm"
    one = frame([first, last]).drop(columns="scores.b").assign(**{"scores.c": lambda f: 2 * f["scores.a"] + 1})
    assert signal.diagnose(one, "a", Signal(), Key(0)).series["outlier_share"] == [None, None]  # two names for one score


def texts(first: Sequence[str], last: Sequence[str], gold: float = 1.0) -> pd.DataFrame:
    """Two checkpoints whose replies alternate over prompts, and twenty replies of the preference set."""
    records = frame([{"gold": [1.0], "logp_ref_nats": [-3.0]}, {"gold": [gold], "logp_ref_nats": [-3.0]}])
    place = records["prompt_id"].str[1:].astype(int)
    records["response"] = [(first if s == 0 else last)[p % 2] for s, p in zip(records["step"], place, strict=True)]
    records["logp_policy_nats"] = records["logp_ref_nats"] + np.where(records["step"] == 10, np.where(place % 2, np.log(4), 0.0), 0.0)
    own = [{"arm": "offline", "split": "train", "prompt_id": f"o{i}", "sample_id": f"o{i}", "response": "red apple pie"} for i in range(20)]
    return pd.concat([records, pd.DataFrame(own)], ignore_index=True)


def test_cover_is_lost_where_replies_are_like_none_of_the_set() -> None:
    known, strange = ("red apple pie", "red apple pie"), ("red apple pie", "blue sky above")
    found = coverage.diagnose(texts(known, strange), "a", Coverage(), Key(0))
    assert found.series["covered"] == pytest.approx([1.0, 0.5])
    assert found.series["similarity"] == pytest.approx([1.0, 0.5])
    assert found.estimate("covered_lost").value == pytest.approx(0.5)
    # log ratios of 0 and log 4 at every other prompt: shares of 1 and 1/4
    assert found.series["effective_share"] == pytest.approx([1.0, 0.625])
    assert found.verdict == "quiet"
    assert found.samples[0] == "1:01:0"
    strict = Coverage(max_lost=0.1)  # of twelve prompts six lost theirs: 0.5, give or take 0.3
    assert coverage.diagnose(texts(known, strange), "a", strict, Key(0)).verdict == "quiet"
    assert coverage.diagnose(texts(known, strange, gold=0.0), "a", strict, Key(0)).verdict == "alarm"
    assert coverage.diagnose(texts(known, known, gold=0.0), "a", strict, Key(0)).verdict == "quiet"


def test_replies_of_the_sets_own_prompt_do_not_say_how_near_it_is() -> None:
    # both replies of a prompt of the set are one text, and no two prompts share more than "red apple": so near is near enough
    records = texts(("red apple new", "red apple new"), ("red apple new", "blue sky above"))
    own = [
        {"arm": "offline", "split": "train", "prompt_id": f"o{i}", "sample_id": f"o{i}:{k}", "response": f"red apple kind{i}"}
        for i in range(20)
        for k in range(2)
    ]
    found = coverage.diagnose(pd.concat([records[records["arm"] == "a"], pd.DataFrame(own)], ignore_index=True), "a", Coverage(), Key(0))
    assert found.series["covered"] == pytest.approx([1.0, 0.5])


def test_replies_of_one_prompt_share_its_effective_size() -> None:
    records = texts(("x y", "x y"), ("x y", "x y"))
    twice = records[records["arm"] == "a"].assign(sample_id=lambda f: f["sample_id"] + "b", logp_policy_nats=lambda f: f["logp_ref_nats"])
    found = coverage.diagnose(pd.concat([records, twice], ignore_index=True), "a", Coverage(), Key(0))
    # even prompts: ratios 1 and 1; odd ones 4 and 1, so 1 / 2.5
    assert found.series["effective_share"][1] == pytest.approx((1 + 0.4) / 2)


def test_a_subsample_keeps_every_prompt() -> None:
    records = texts(("red apple pie", "red apple pie"), ("red apple pie", "blue sky above"))
    many = pd.concat(
        [records] + [records[records["arm"] == "a"].assign(sample_id=lambda f, i=i: f["sample_id"] + f"x{i}") for i in range(20)]
    )
    panel = panel_of(many, "a")
    assert panel is not None
    rows = coverage._drawn(panel, 1, 24, Key(0))
    assert np.bincount(panel.prompt[rows]).tolist() == [2] * 12
    found = coverage.diagnose(many.reset_index(drop=True), "a", Coverage(max_texts=100), Key(0))
    assert found.estimate("covered_last").value == pytest.approx(0.5, abs=0.01)


def test_the_tilt_of_the_first_replies_predicts_the_gain() -> None:
    # scores of deviation 1 at -1 and 1, beta 1: weight sigmoid(2) = w on the upper, whose gold is 1, against 0. Without the bias of
    # two replies: 2 w - mean of the replies alone, 2 w - 1/2; less the mean 1/2: 2 w - 1 = tanh 1
    w = 1 / (1 + np.exp(-2))
    nats = w * np.log(2 * w) + (1 - w) * np.log(2 * (1 - w))
    first = {"proxy_fixed": [-1.0, 1.0], "gold": [0.0, 1.0], "kl_policy_ref_exact_nats": [0.0, 0.0]}
    last = {"proxy_fixed": [1.0, 1.0], "gold": [0.75, 0.75], "kl_policy_ref_exact_nats": [nats, nats]}
    settings = PredictedRegret(betas=(1.0,), min_replies=2, min_effective=1.0)
    found = predicted_regret.diagnose(frame([first, last]), "a", settings, Key(0))
    assert found.estimate("gain_beta_1").value == pytest.approx(np.tanh(1))
    assert found.estimate("regret_beta_1").value == pytest.approx(0.0)  # gold itself orders the replies alike
    assert found.estimate("effective_beta_1").value == pytest.approx(1 / (w**2 + (1 - w) ** 2))
    assert found.estimate("kl_beta_1").value == pytest.approx(nats)
    assert found.series["beta"][1] == pytest.approx(1.0)
    assert found.series["predicted"] == [None, pytest.approx(np.tanh(1))]
    assert found.series["realised"] == [None, pytest.approx(0.25)]
    assert found.estimate("realised_less_predicted").value == pytest.approx(0.25 - np.tanh(1))
    assert found.verdict == "quiet"
    turned = predicted_regret.diagnose(frame([{**first, "gold": [1.0, 0.0]}, last]), "a", settings, Key(0))
    assert turned.estimate("gain_beta_1").value == pytest.approx(-np.tanh(1))
    assert turned.estimate("regret_beta_1").value == pytest.approx(2 * np.tanh(1))
    assert turned.verdict == "alarm"
    few = PredictedRegret(betas=(1.0,), min_replies=2)  # 1.27 replies carry weight
    assert predicted_regret.diagnose(frame([{**first, "gold": [1.0, 0.0]}, last]), "a", few, Key(0)).verdict == "quiet"


@pytest.mark.parametrize(("wins", "expected"), [(1.0, "quiet"), (0.0, "alarm")])
def test_comparisons_stand_for_gold(wins: float, expected: str) -> None:
    records = frame([{"proxy_fixed": [-1.0, 1.0]}], prompts=40)
    records["labels"] = [
        [{"annotator": "x", "other_sample_id": name[:-1] + "0", "preference": wins}] if name.endswith(":1") else []
        for name in records["sample_id"]
    ]
    found = predicted_regret.diagnose(records, "a", PredictedRegret(betas=(1.0,)), Key(0))
    assert found.verdict == expected, found.rule
    # counted: w - (1 - w) = tanh 1 times one half, won or lost; the utility that all prompts share shrinks it
    assert abs(found.estimate("win_gain_beta_1").value or 0) == pytest.approx(np.tanh(1) / 2, rel=1e-2)


def test_too_few_labels_are_named() -> None:
    found = predicted_regret.diagnose(frame([{"proxy_fixed": [-1.0, 1.0]}]), "a", PredictedRegret(), Key(0))
    assert found.verdict == "not enough data"
    assert "there are 0" in found.rule


def test_accuracy_fit_and_confidence_by_distance() -> None:
    near = {"proxy_fixed": [0.0, 1.0], "gold": [0.0, 2.0], "kl_policy_ref_exact_nats": [0.0, 0.0]}
    far = {"proxy_fixed": [0.0, 1.0], "gold": [2.0, 0.0], "kl_policy_ref_exact_nats": [3.0, 5.0]}
    records = frame([near, far], prompts=60)
    right = (records["step"] == 10) & (records["prompt_id"] < "p15")  # a quarter of the far pairs is ordered well
    records.loc[right, "gold"] = records.loc[right, "proxy_fixed"] * 2
    found = shift_by_kl.diagnose(records, "a", ShiftByKl(), Key(0))
    claimed = 1 / (1 + np.exp(-1))  # no temperature is best for pairs that are all right: it stays 1
    assert found.series["kl_nats"] == pytest.approx([0.0, 4.0])
    assert found.series["pairs"] == [60, 60]
    assert found.series["accuracy"] == pytest.approx([1.0, 0.25])
    assert found.series["overconfidence"] == pytest.approx([claimed - 1, claimed - 0.25])
    # differences 1 and 2, of one sign; far their mean product is 2 (1/4 - 3/4) = -1, so (-1)^2 / (1 x 4)
    assert found.series["r2"] == pytest.approx([1.0, 0.25])
    assert found.verdict == "quiet"  # gold's mean stayed
    records.loc[records["step"] == 10, "gold"] -= 1
    assert shift_by_kl.diagnose(records, "a", ShiftByKl(), Key(0)).verdict == "alarm"


def test_degree_of_over_optimisation() -> None:
    # gold d, proxy 2 d, to d = 3: the integrals over KL are 2 d^3 / 3 for both |difference| and gold
    assert float(degree(np.array(1.0), np.array(0.0), np.array(2.0), np.array(0.0), 3.0)) == pytest.approx(1.0)
    # proxy d (2 - d): the difference d (1 - d) turns at 1; upto 1 it is 2/3 - 1/2 = 1/6, upto 2 it is 16/3 - 8 = -8/3
    assert float(degree(np.array(1.0), np.array(0.0), np.array(2.0), np.array(1.0), 2.0)) == pytest.approx((1 / 6 + 17 / 6) / (16 / 3))
    assert np.isnan(degree(np.array(-1.0), np.array(0.0), np.array(2.0), np.array(0.0), 3.0))


def test_area_between_proxy_and_gold() -> None:
    # KL 0 1 2 4, proxy of deviation 1 at 0 1 2 4, gold of deviation 2 stays: the integral of d to 4 is 8, of 4 x 4 gain
    kl, rise = [0.0, 1.0, 2.0, 4.0], [0.0, 1.0, 2.0, 4.0]
    steps = [{"proxy_fixed": [r - 1, r + 1], "gold": [3.0, 7.0], "kl_policy_ref_exact_nats": [k, k]} for k, r in zip(kl, rise, strict=True)]
    found = over_optimisation.diagnose(frame(steps), "a", OverOptimisation(), Key(0))
    assert found.estimate("area").value == pytest.approx(0.5)
    for step, r in zip(steps, rise, strict=True):
        step["gold"] = [3 + 2 * r, 7 + 2 * r]  # keeps pace, in deviations
    assert over_optimisation.diagnose(frame(steps), "a", OverOptimisation(), Key(0)).estimate("area").value == pytest.approx(0.0)


@pytest.mark.parametrize(("law", "sign", "said"), [("bon", -1, "The best-of-n law fits"), ("rl", 1, "The RL law fits")])
def test_which_law_fits(law: str, sign: int, said: str) -> None:
    d = np.linspace(0, 5, 12)
    curve = d * (2 - 0.3 * d) if law == "bon" else np.r_[0.0, d[1:] * (2 - np.log(d[1:]))]
    noise = Key(1).generator().normal(0, 0.3, (40, len(d)))
    rows = [
        {"arm": "a", "split": "test", "step": s, "prompt_id": f"p{p}", "sample_id": f"{s}:{p}", "response": "w",
         "gold": curve[s] + noise[p, s], "proxy_fixed": d[s] + noise[p, s] / 2, "kl_policy_ref_exact_nats": d[s] ** 2}
        for s in range(len(d)) for p in range(40)
    ]  # fmt: skip
    found = over_optimisation.diagnose(pd.DataFrame(rows), "a", OverOptimisation(), Key(0))
    apart = found.estimate("aic_bon_minus_rl")
    assert apart.excludes(0)
    assert sign * (apart.value or 0) > 2
    assert said in found.rule
    # both laws have two coefficients: the difference of the criteria is that of the weighted squares
    assert apart.value == pytest.approx((found.estimate("aic_bon").value or 0) - (found.estimate("aic_rl").value or 0))
