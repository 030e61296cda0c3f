"""Tests that may be looked at after every observation, by hand, and that looking does them no harm."""

from __future__ import annotations

import numpy as np
import pytest

from trueup.core.rng import Key
from trueup.stats.eprocess import (
    averaged,
    betting_interval,
    crossed,
    e_bh,
    fixed,
    mixed,
    normal_radius,
    plugged_in,
    sprt_limits,
    sprt_ratio,
)


def test_a_fixed_bet_by_hand() -> None:
    # half the largest bet: a loss of the whole bound multiplies by 1.5, a win by .5, nothing by 1
    assert fixed(np.array([-2.0, 2.0, 0.0]), 2.0).tolist() == pytest.approx([1.5, 0.75, 0.75])
    # 1.5^7 = 17.09, 1.5^8 = 25.63: 20 = 1 / .05 is reached at the eighth
    assert crossed(fixed(np.full(20, -3.0), 3.0), 0.05) == 8
    assert fixed(np.zeros(5), 1.0).tolist() == [1.0] * 5
    assert crossed(fixed(np.zeros(5), 1.0), 0.05) == 0
    with pytest.raises(ValueError, match="beyond the bound"):
        fixed(np.array([1.2]), 1.0)
    with pytest.raises(ValueError, match="bet"):
        fixed(np.array([0.2]), 1.0, share=1.0)


def test_an_observation_that_was_not_made_moves_nothing() -> None:
    with_gaps = np.array([[-1.0, np.nan, -1.0], [np.nan, np.nan, 1.0]])
    assert fixed(with_gaps, 1.0).tolist() == [[1.5, 1.5, 2.25], [1.0, 1.0, 0.5]]
    # plugged in: no bet first; after one loss the wish is 1, cut to a half
    assert plugged_in(np.array([-1.0, np.nan, -1.0, -1.0]), 1.0).tolist() == pytest.approx([1.0, 1.0, 1.5, 2.25])
    # after -1 and 1 the mean is 0 and so is the bet
    assert plugged_in(np.array([-1.0, 1.0, -1.0]), 1.0).tolist() == pytest.approx([1.0, 0.5, 0.5])


def test_capital_is_averaged() -> None:
    # bets of .2 and .6: after one loss 1.2 and 1.6, after two 1.44 and 2.56
    assert mixed(np.array([-1.0, -1.0]), 1.0, (0.2, 0.6)).tolist() == pytest.approx([1.4, 2.0])
    assert averaged(np.array([[1.0, 4.0], [3.0, 0.0]])).tolist() == [2.0, 2.0]
    assert averaged(np.array([8.0, 2.0]), np.array([0.25, 0.5])) == pytest.approx(3.0)
    with pytest.raises(ValueError, match="weights"):
        averaged(np.ones(2), np.array([0.6, 0.5]))


def test_false_discoveries_by_hand() -> None:
    # K = 4, alpha = .1: limits 40, 20, 13.3, 10 for the first to fourth largest. The third largest, 14, is above 13.3: three are rejected
    assert e_bh(np.array([14.0, 3.0, 15.0, 16.0]), 0.1).tolist() == [True, False, True, True]
    # 39 < 40, 19 < 20, 13 < 13.3, 9 < 10
    assert not e_bh(np.array([39.0, 19.0, 13.0, 9.0]), 0.1).any()


def test_the_normal_mixture_by_hand() -> None:
    # n = 100, sigma = rho = 1: sqrt(2 x 101 / 10000 x ln(sqrt(101) / .05)) = sqrt(.0202 x 5.303) = .3273
    assert [float(normal_radius(n, 1.0, 0.05)) for n in (10, 100, 1000)] == pytest.approx([0.9606, 0.3273, 0.1136], abs=5e-5)
    assert float(normal_radius(100, 0.5, 0.05)) == pytest.approx(0.3273 / 2, abs=5e-5)


def test_wald_by_hand() -> None:
    # ln(.1 / .95) and ln(.9 / .05)
    assert sprt_limits(0.05, 0.1) == pytest.approx((-2.2512918, 2.8903718), abs=1e-6)
    # .75 against .5: a win adds ln 1.5 = .405, a loss ln .5 = -.693, a tie half of both
    assert sprt_ratio(np.array([1.0, 0.0, np.nan, 0.5]), 0.75).tolist() == pytest.approx([0.4055, -0.2877, -0.2877, -0.4315], abs=1e-4)


def test_a_betting_interval_by_hand() -> None:
    # forty ones: the lower end is the m at which the mean over bets s of (1 + s (1 - m) / m)^40 / 2 (the losing side adds about nothing)
    # is 20; the bet .6 alone: (1 + .6 (1 - m) / m)^40 = 160 gives (1 - m) / m = .2253, m = .816; the other bets move it by less than .01
    low, high = betting_interval(np.ones(40), 0.05)
    assert low == pytest.approx(0.816, abs=0.01)
    assert high == 1.0
    assert betting_interval(np.array([np.nan]), 0.05) == (0.0, 1.0)
    flipped = betting_interval(np.zeros(40), 0.05)
    assert flipped == pytest.approx((0.0, 1 - low), abs=1e-9)
    with pytest.raises(ValueError, match="0, 1"):
        betting_interval(np.array([1.5]), 0.05)


def test_looking_always_does_no_harm() -> None:
    """2,000 streams at the border of the null hypothesis, looked at after each of 400 observations: alpha .1, standard error .0067."""
    streams = np.where(Key(1).generator().random((2000, 400)) < 0.5, -1.0, 1.0)
    for capital in (fixed(streams, 1.0), mixed(streams, 1.0), plugged_in(streams, 1.0)):
        assert (crossed(capital, 0.1) > 0).mean() <= 0.1 + 3 * 0.0067
    # and the naive test, looked at as often, stops in more than half of them
    n = np.arange(1, 401)
    naive = (np.cumsum(streams, axis=1) / np.sqrt(n) < -1.2816)[:, 10:].any(axis=1)
    assert naive.mean() > 0.3


def test_losses_are_noticed() -> None:
    """Seven of ten comparisons lost: in nearly every stream within 200."""
    streams = np.where(Key(2).generator().random((500, 200)) < 0.7, -1.0, 1.0)
    stopped = crossed(mixed(streams, 1.0), 0.05)
    assert (stopped > 0).mean() > 0.97
    assert np.median(stopped[stopped > 0]) < 60


def test_the_interval_holds_the_mean_at_all_times() -> None:
    """200 streams of coins with mean .3, their intervals after 50: outside in at most 10 %, standard error .021."""
    coins = Key(3).generator().random((200, 50)) < 0.3
    outside = [not low <= 0.3 <= high for low, high in (betting_interval(c.astype(float), 0.1, points=60) for c in coins)]
    assert np.mean(outside) <= 0.1 + 3 * 0.021
