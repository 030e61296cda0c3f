"""Tilts, priors that the data choose, and samples with known probabilities: numbers worked out on paper."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special

from trueup.core.rng import Key
from trueup.stats import tilting
from trueup.stats.ridge_logistic import fit_by_evidence, ridge_logistic
from trueup.stats.unequal_sampling import inclusion, systematic

LN2, LN3, LN5 = math.log(2), math.log(3), math.log(5)
NAN = float("nan")


def test_a_tilt_of_two_replies() -> None:
    # exp(0), exp(ln 2) -> 1/3, 2/3
    score = np.array([[0.0, LN2]])
    assert tilting.tilt(score, 1.0)[0] == pytest.approx([1 / 3, 2 / 3])
    # KL from (1/2, 1/2): 1/3 ln(2/3) + 2/3 ln(4/3) = 5/3 ln 2 - ln 3
    assert tilting.kl_nats(score, 1.0) == pytest.approx([5 / 3 * LN2 - LN3])
    assert tilting.effective_size(tilting.tilt(score, 1.0)) == pytest.approx([9 / 5])  # 1 / (1/9 + 4/9)
    assert tilting.tilted_mean(score, np.array([[3.0, 0.0]]), 1.0) == pytest.approx([1.0])
    # at beta 1/2 the scores count twice: 1/5, 4/5
    assert tilting.tilt(score, 0.5)[0] == pytest.approx([0.2, 0.8])


def test_a_reply_that_is_not_there_has_no_weight() -> None:
    score = np.array([[0.0, NAN, LN2], [1.0, NAN, NAN]])
    assert tilting.tilt(score, 1.0) == pytest.approx(np.array([[1 / 3, 0, 2 / 3], [1, 0, 0]]))
    assert tilting.uniform(score) == pytest.approx(np.array([[1 / 2, 0, 1 / 2], [1, 0, 0]]))
    assert tilting.kl_nats(score, 1.0) == pytest.approx([5 / 3 * LN2 - LN3, 0])
    assert tilting.tilted_mean(score, np.array([[3.0, NAN, 0.0], [7.0, NAN, NAN]]), 1.0) == pytest.approx([1.0, 7.0])
    # variances of (0, ln 2) and of one number
    assert tilting.within_variance(score)[0] == pytest.approx(LN2**2 / 2)
    assert np.isnan(tilting.within_variance(score)[1])


def test_beta_0_takes_the_best_and_shares_it_among_equals() -> None:
    assert tilting.tilt(np.array([[1.0, 3.0, 3.0]]), 0.0)[0].tolist() == [0, 0.5, 0.5]
    assert tilting.kl_nats(np.array([[1.0, 3.0, 3.0]]), 0.0) == pytest.approx([LN3 - LN2])


def test_the_bias_of_a_ratio_is_removed() -> None:
    # weights 1/3, 2/3 of values 3, 0: 1. Without the first 0, without the second 3. 2 * 1 - 1 * 3/2
    assert tilting.unbiased_mean(np.array([[0.0, LN2]]), np.array([[3.0, 0.0]]), 1.0) == pytest.approx([0.5])
    # weights 1, 2, 5 of 8; values 8, 4, 0: 2. Without one: 8/7, 8/6, 16/3, mean 164/63. 3 * 2 - 2 * 164/63 = 50/63
    assert tilting.unbiased_mean(np.array([[0.0, LN2, LN5]]), np.array([[8.0, 4.0, 0.0]]), 1.0) == pytest.approx([50 / 63])
    # the same with a place where there is no reply
    assert tilting.unbiased_mean(np.array([[0.0, NAN, LN2]]), np.array([[3.0, NAN, 0.0]]), 1.0) == pytest.approx([0.5])
    # one reply has no bias that could be seen
    assert np.isnan(tilting.unbiased_mean(np.array([[1.0]]), np.array([[1.0]]), 1.0)).all()


def test_leaving_out_a_reply_of_all_weight_loses_no_digits() -> None:
    # by hand: the heaviest has all weight, so theta = 5; without it 1 (the second of (0, 40) beats the first), without another 5:
    # 3 * 5 - 2 * (1 + 5 + 5) / 3 = 23/3
    found = tilting.unbiased_mean(np.array([[0.0, 40.0, 100.0]]), np.array([[2.0, 1.0, 5.0]]), 1.0)
    assert found == pytest.approx([23 / 3])


def test_the_bias_removed_is_of_order_one_over_k() -> None:
    # replies of score N(0, 1) and value = score: the optimum at beta has mean 1 / beta = 1, its plug-in falls short of it
    drawn = (Key(1) / "scores").generator().standard_normal((20000, 12))
    plain, better = tilting.tilted_mean(drawn, drawn, 1.0), tilting.unbiased_mean(drawn, drawn, 1.0)
    assert plain.mean() < 0.9
    assert abs(better.mean() - 1) < abs(plain.mean() - 1) / 2


def test_the_beta_of_a_kl() -> None:
    assert tilting.beta_for_kl(np.array([[0.0, LN2]]), 5 / 3 * LN2 - LN3) == pytest.approx(1.0)
    # two replies show at most ln 2
    assert tilting.beta_for_kl(np.array([[0.0, LN2]]), 0.7) is None
    assert tilting.beta_for_kl(np.array([[1.0, 1.0]]), 0.1) is None
    with pytest.raises(ValueError, match="positive"):
        tilting.beta_for_kl(np.array([[0.0, 1.0]]), 0.0)


def test_standard_scores() -> None:
    # mean 2, deviation sqrt((1 + 1 + 0) / 3)
    found = tilting.standardised(np.array([[1.0, 3.0], [2.0, NAN]]))
    assert found[:, 0] == pytest.approx([-math.sqrt(1.5), 0])
    assert np.isnan(found[1, 1])
    assert tilting.standardised(np.full((2, 2), 7.0)).tolist() == [[0, 0], [0, 0]]


@given(st.lists(st.floats(-50, 50), min_size=2, max_size=8), st.floats(0.05, 20), st.floats(-100, 100), st.floats(0.1, 10))
def test_what_must_not_matter(scores: list[float], beta: float, shift: float, scale: float) -> None:
    score = np.array([scores])
    weight = tilting.tilt(score, beta)
    assert weight.sum() == pytest.approx(1)
    assert tilting.tilt(score + shift, beta) == pytest.approx(weight, abs=1e-6)
    assert tilting.tilt(score * scale, beta * scale) == pytest.approx(weight, abs=1e-6)
    assert 0 <= tilting.kl_nats(score, beta)[0] <= math.log(len(scores)) + 1e-9
    # a stronger tilt has no lower mean score
    assert tilting.tilted_mean(score, score, beta / 2)[0] >= tilting.tilted_mean(score, score, beta)[0] - 1e-9


def test_one_comparison_under_a_prior() -> None:
    # the mode solves penalty b = 1 - sigmoid(b); at b = ln 3 the right side is 1/4, so penalty = 1 / (4 ln 3)
    penalty = 1 / (4 * LN3)
    mode, covariance = ridge_logistic(np.array([[1.0]]), np.array([1.0]), np.array([penalty]))
    assert mode == pytest.approx([LN3])
    assert covariance[0, 0] == pytest.approx(1 / (3 / 16 + penalty))  # sigmoid (1 - sigmoid) = 3/4 * 1/4
    # a tie pulls nowhere
    assert ridge_logistic(np.array([[1.0]]), np.array([0.5]), np.array([penalty]))[0] == pytest.approx([0.0])


def test_the_data_choose_the_priors() -> None:
    generator = (Key(2) / "comparisons").generator()
    x = generator.standard_normal((2000, 7))
    outcome = (generator.random(2000) < special.expit(x[:, 0] * 1.5 - x[:, 1])).astype(float)
    group = np.array([0, 0, 1, 1, 1, 1, 1])
    fit = fit_by_evidence(x, outcome, group)
    # deviations of 1.5 and 1: a penalty of 2 / (1.5^2 + 1), within what two coefficients can say; the other group is switched off
    assert 0.2 < fit.penalty[0] < 1.5
    assert fit.penalty[1] > 20 * fit.penalty[0]
    assert abs(fit.coefficient[0] - 1.5) < 4 * math.sqrt(fit.covariance[0, 0])
    assert np.abs(fit.coefficient[2:]).max() < 0.1
    # the fixed point: penalty times squares is the number of coefficients that are determined
    known = 2 - fit.penalty[0] * np.trace(fit.covariance[:2, :2])
    assert fit.penalty[0] * (fit.coefficient[:2] ** 2).sum() == pytest.approx(known, rel=5e-3)


def test_probabilities_proportional_to_size_and_at_most_1() -> None:
    # two of sizes 1, 1, 2, 4: 2 * 4 / 8 = 1, the last is certain; one more of 1, 1, 2: 1/4, 1/4, 1/2
    assert inclusion(np.array([1.0, 1.0, 2.0, 4.0]), 2).tolist() == [0.25, 0.25, 0.5, 1.0]
    # 10 is certain at once; of what is left, 1 * 3 / 4 < 1
    assert inclusion(np.array([10.0, 3.0, 1.0]), 2).tolist() == [1.0, 0.75, 0.25]
    # no more than there are, and none of size 0
    assert inclusion(np.array([0.0, 1.0, 5.0]), 9).tolist() == [0.0, 1.0, 1.0]


def test_units_are_drawn_with_their_probabilities() -> None:
    probability = np.array([0.25, 0.25, 0.5, 1.0, 0.0])
    drawn = [systematic(probability, Key(3) / n) for n in range(4000)]
    assert {len(d) for d in drawn} == {2}
    share = np.bincount(np.concatenate(drawn), minlength=5) / 4000
    # four standard errors of a share of 1/2 in 4000 draws are 0.032
    assert np.abs(share - probability).max() < 0.032
    assert len(systematic(np.zeros(0), Key(3))) == 0
