"""What curves alone tell, on curves whose answers are seen at a glance."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from trueup.core.rng import Key
from trueup.mismatch.curves_alone import clipped, evaluations, length, reward_kl, spikes, spread, table
from trueup.mismatch.curves_alone.questions import BEYOND, QUESTIONS, ask
from trueup.mismatch.curves_alone.table import CurvesAlone
from trueup.mismatch.diagnosis import Diagnosis

SETTINGS = CurvesAlone(draws=200)
STEPS = pd.Index(np.arange(1, 41), name="step")
T = np.arange(40.0)


def curves(**columns: object) -> pd.DataFrame:
    return pd.DataFrame({k.replace("__", "."): v for k, v in columns.items()}, index=STEPS)


def value(diagnosis: Diagnosis, name: str) -> float:
    found = diagnosis.estimate(name).value
    assert found is not None
    return found


def test_ends_are_the_means_of_the_first_and_last_fifth() -> None:
    # of 0..39 a fifth are 8 points: means 3.5 and 35.5; blocks of ceil(8^(1/3)) = 2, so 4 of them
    means, draws, blocks = table.ends(T, SETTINGS, Key(0))
    assert means.tolist() == [3.5, 35.5]
    assert draws.shape == (200, 2)
    assert blocks == 4
    assert (draws[:, 0] <= 7).all()
    assert (draws[:, 1] >= 32).all()
    assert table.change("c", T, "", SETTINGS, Key(0)).value == 32.0
    assert table.ratio("c", T, SETTINGS, Key(0)).value == pytest.approx(35.5 / 3.5)
    # a share of nothing is absent
    assert table.ratio("c", np.zeros(40), SETTINGS, Key(0)).value is None


def test_reward_rises_with_the_root_of_kl_and_never_alarms() -> None:
    # proxy = 2 sqrt(KL): slope 2 everywhere
    rising = reward_kl.diagnose(curves(proxy=2 * T, kl_token_nats=T**2), "a", SETTINGS, Key(0))
    assert value(rising, "slope_first_half") == pytest.approx(2.0)
    assert value(rising, "slope_second_half") == pytest.approx(2.0)
    assert rising.verdict == "quiet"
    assert rising.series["sqrt_kl"] == T.tolist()
    # it stops rising at the middle: KL goes on, the score does not. Bad, and still no alarm
    stuck = reward_kl.diagnose(curves(proxy=np.minimum(2 * T, 40), kl_token_nats=T**2), "a", SETTINGS, Key(0))
    assert value(stuck, "slope_second_half") == pytest.approx(0.0)
    assert stuck.verdict == "no difference shown"
    assert "Neither answer says whether the score is still worth anything" in stuck.rule
    # negative estimates of KL count as 0 under the root
    below = reward_kl.diagnose(curves(proxy=T, kl_reply_nats=T - 10), "a", SETTINGS, Key(0))
    assert below.series["sqrt_kl"][:11] == [0.0] * 11
    assert below.series["sqrt_kl"][14] == 2.0


def test_length_alarms_only_where_both_move_together() -> None:
    wave = np.where(np.arange(40) % 3 == 0, 6.0, -3.0)
    # grows from 103.5 (mean of 100 + t over the first 8, waves aside) by a third; the score rises and waves along
    longer = 100 + T + wave
    same = length.diagnose(curves(length_tokens=longer, proxy=0.5 * T + wave), "a", SETTINGS, Key(0))
    # over 8 points the wave 6, -3, -3, 6, -3, -3, 6, -3 sums to 3; over the last 8 (t = 32..39: -3, 6, -3, -3, 6, -3, -3, 6) to 3
    assert value(same, "length_ratio") == pytest.approx((135.5 + 3 / 8) / (103.5 + 3 / 8))
    assert same.verdict == "alarm"
    apart = length.diagnose(curves(length_tokens=longer, proxy=0.5 * T - wave), "a", SETTINGS, Key(0))
    assert apart.verdict == "quiet"
    assert value(apart, "spearman_differences") < 0
    barely = length.diagnose(curves(length_tokens=1000 + T + wave, proxy=0.5 * T + wave), "a", SETTINGS, Key(0))
    assert barely.verdict == "quiet"


def test_clipped_needs_a_large_share_that_grew() -> None:
    def verdict(shares: np.ndarray) -> str:
        return clipped.diagnose(curves(clipped_share=shares), "a", SETTINGS, Key(0)).verdict

    assert verdict(T / 40) == "alarm"
    assert verdict(T / 400) == "quiet"  # grew, to a tenth
    assert verdict(np.full(40, 0.6)) == "quiet"  # always was large
    assert verdict(np.linspace(0.5, 0.53, 40)) == "quiet"  # grew by less than 0.05


def test_spread_collapses_by_either_sign() -> None:
    # from 1 to 0.9^39: mean of the last 8 over that of the first 8 is 0.9^32 = 0.034
    fading = spread.diagnose(curves(proxy_std=0.9**T), "a", SETTINGS, Key(0))
    assert value(fading, "spread_left") == pytest.approx(0.9**32)
    assert fading.verdict == "alarm"
    assert spread.diagnose(curves(proxy_std=np.ones(40)), "a", SETTINGS, Key(0)).verdict == "quiet"
    assert spread.diagnose(curves(zero_spread_share=np.full(40, 0.75)), "a", SETTINGS, Key(0)).verdict == "alarm"
    assert spread.diagnose(curves(zero_spread_share=np.full(40, 0.25)), "a", SETTINGS, Key(0)).verdict == "quiet"
    assert fading.series["zero_spread_share"] == [None] * 40


def test_a_spike_stands_out_of_its_neighbours() -> None:
    kl = np.where(np.arange(40) % 2 == 0, 1.0, 1.1)
    kl[17] = 5.0
    found = spikes.diagnose(curves(kl_token_nats=kl), "a", SETTINGS, Key(0))
    assert found.verdict == "alarm"
    assert value(found, "spikes") == 1.0
    # ten neighbours of 1 and ten of 1.1
    assert "step 18 (5 beside 1.05)" in found.rule
    assert found.series["spike"] == [float(i == 17) for i in range(40)]
    # neighbours of 0: of 0, 1, 2, ... a window of ten on the right, 1..10, has median 5.5
    near, deviations = spikes.stand_out(T)
    assert near[0] == 5.5
    # an even rise stands out nowhere: in the middle a point is the median of its neighbours
    assert near[20] == 20.0
    assert deviations[20] == pytest.approx(0.0)
    # twice in a row, five times its neighbours, but they jump as far: no spike
    rough = np.where(np.arange(40) % 2 == 0, 1.0, 5.0)
    assert spikes.diagnose(curves(kl_token_nats=rough), "a", SETTINGS, Key(0)).verdict == "quiet"


def test_the_largest_fall_of_a_moving_average() -> None:
    # windows of two: 0.5, 2, 4, 3, 1.5, 2; the largest fall between windows that do not overlap: 4 (points 2, 3) to 1.5 (points 4, 5)
    size, first, second = evaluations.falls(np.array([0.0, 1.0, 3.0, 5.0, 1.0, 2.0, 2.0]), 2)
    assert (float(size), int(first), int(second)) == (2.5, 3, 4)
    # never falls: the least bad pair, one negative number
    assert float(evaluations.falls(np.arange(6.0), 1)[0]) == -1.0
    many = evaluations.falls(np.array([[1.0, 0.0, 0.0], [0.0, 1.0, -1.0]]), 1)
    assert many[0].tolist() == [1.0, 2.0]
    assert many[1].tolist() == [0, 1]
    assert many[2].tolist() == [1, 2]


def test_a_fall_is_measured_in_its_own_jitter() -> None:
    # bends of 0, 1, 0, 1, ... are all +-1: with rho = 0 their variance is 1.5 of the jitter's, whose deviation is sqrt(2/3)
    zigzag = np.array([0.0, 1.0] * 10)
    still = evaluations.largest_fall(zigzag, CurvesAlone(jitter_correlation=0.0), Key(0))
    assert still.p_value > 0.5
    assert still.size == pytest.approx(1 / 3)  # windows of three: means 1/3 and 2/3
    fallen = evaluations.largest_fall(np.where(np.arange(20) < 10, 20 + zigzag, zigzag), CurvesAlone(jitter_correlation=0.0), Key(0))
    assert fallen.p_value < 0.01
    assert fallen.size == pytest.approx(20 + 1 / 3)
    # the smallest p-value there is: 1 / (draws + 1)
    assert fallen.p_value >= 1 / 1001


def test_the_score_between_evaluations() -> None:
    proxy = pd.Series([1.0, 2.0, 3.0, 4.0, 5.0], index=[1, 2, 3, 4, 5])
    # up to step 2: 1, 2; then 3, 4; none after step 5 up to 7 but 5
    assert evaluations.since_last(proxy, np.array([2, 4, 7])).tolist() == [1.5, 3.5, 5.0]
    assert np.isnan(evaluations.since_last(proxy, np.array([5, 9]))[1])


def test_which_side_is_better() -> None:
    def side(name: str, settings: CurvesAlone = SETTINGS) -> int:
        return evaluations.side(f"evaluations.{name}", settings)

    assert side("math/acc") == side("pass@1") == side("win_rate") == 1
    assert side("toxicity") == side("over_refusal") == -1
    assert side("accuracy_error") == -1  # an error is one, whatever of
    assert side("placcid") == side("n_words") == 0
    assert side("n_words", CurvesAlone(lower_is_better=("n_words",))) == -1
    assert side("toxicity", CurvesAlone(higher_is_better=("toxicity",))) == 1  # said of the whole name


def falling(**more: object) -> pd.DataFrame:
    """Evaluated every second step: up for ten evaluations, then down by eight of its jitters."""
    jitter = 0.1 * np.cos(17 * T)
    quiz = np.where(T < 20, 0.1 * T, 4 - 0.1 * T) + jitter
    return curves(evaluations__quiz=np.where(np.arange(40) % 2 == 1, quiz, np.nan), **more)


def test_an_evaluation_that_falls_alarms_unless_the_score_fell_too() -> None:
    settings = CurvesAlone(draws=500, higher_is_better=("quiz",))
    noise = 0.05 * np.sin(13 * T)
    rose = evaluations.diagnose(falling(proxy=T + noise), "a", settings, Key(0))
    assert rose.verdict == "alarm"
    assert rose.series["step"] == list(range(2, 41, 2))
    # on levels the trends of the first half are undone by the second; the score's differences are constant but for noise
    assert rose.estimate("score_rise_evaluations.quiz").low is not None
    fell = evaluations.diagnose(falling(proxy=np.where(T < 20, T, 40 - T) + noise), "a", settings, Key(0))
    assert fell.verdict == "quiet"
    unjudged = evaluations.diagnose(falling(proxy=T + noise), "a", SETTINGS, Key(0))
    assert unjudged.verdict == "not enough data"
    assert "nobody said which side is better: evaluations.quiz" in unjudged.rule


def test_what_is_missing_is_named() -> None:
    answers = ask(curves(proxy=T), "a", SETTINGS, Key(0))
    assert [d.name for d in answers] == [name for name, _ in QUESTIONS]
    assert {d.verdict for d in answers} == {"not enough data"}
    rules = {d.name: d.rule for d in answers}
    assert "kl_reply_nats or kl_token_nats" in rules["reward_kl"]
    assert "length_tokens" in rules["length_growth"]
    assert "at 20 logged steps" in rules["spread"]
    short = ask(curves(proxy=T, kl_token_nats=T).iloc[:10], "a", SETTINGS, Key(0))
    assert {d.verdict for d in short} == {"not enough data"}
    assert "Over-optimisation" in [b.what for b in BEYOND]
    assert not any(d.verdict == "alarm" and d.name == "reward_kl" for d in answers)


def test_gaps_are_no_points() -> None:
    """Curves that were logged at other steps meet where both were."""
    some = curves(proxy=np.where(T % 2 == 0, T, np.nan), length_tokens=T)
    steps, (proxy, tokens) = table.together(some, "proxy", "length_tokens")
    assert steps.tolist() == list(range(1, 41, 2))
    assert proxy.tolist() == tokens.tolist()
    assert table.points(some, "gold")[0].size == 0
    assert math.isclose(float(table.block_of(27)), 3.0)
