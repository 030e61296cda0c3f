"""Over-optimisation laws: peaks, zeros and exact recovery."""

from __future__ import annotations

import numpy as np
import pytest

from trueup.stats import curves
from trueup.stats.curves import BEST_OF_N, LOG1P, RL


def test_best_of_n_peak() -> None:
    # R = d - .3 d^2: R' = 1 - .6 d = 0 at 5/3; R = 5/3 - .3 * 25/9 = 5/6; zero at 1/.3
    assert curves.peak(BEST_OF_N, 1.0, 0.3) == pytest.approx((1.6666667, 0.8333333), abs=5e-8)
    assert curves.zero(BEST_OF_N, 1.0, 0.3) == pytest.approx(3.3333333, abs=5e-8)
    # alpha = 3, beta = 1/2: 3/1 and 9/2
    assert curves.peak(BEST_OF_N, 3.0, 0.5) == pytest.approx((3.0, 4.5), abs=1e-12)


def test_rl_peak() -> None:
    # R' = alpha - beta log d - beta = 0 at exp(alpha/beta - 1) = exp(7/3) = 10.3122585; R = beta d*; zero at exp(10/3)
    assert curves.peak(RL, 1.0, 0.3) == pytest.approx((10.3122585, 3.0936776), abs=5e-8)
    assert curves.zero(RL, 1.0, 0.3) == pytest.approx(28.0316249, abs=5e-8)


def test_log1p_peak_has_zero_slope() -> None:
    # no closed form: the slope alpha - beta (log(1+d) + d/(1+d)) must vanish at the peak, and R at exp(alpha/beta) - 1
    place, height = curves.peak(LOG1P, 1.0, 0.5) or (np.nan, np.nan)
    assert 1.0 - 0.5 * (np.log1p(place) + place / (1 + place)) == pytest.approx(0, abs=1e-9)
    assert height == pytest.approx(place * (1 - 0.5 * np.log1p(place)), abs=1e-12)
    assert curves.zero(LOG1P, 1.0, 0.5) == pytest.approx(np.e**2 - 1, abs=1e-12)


@pytest.mark.parametrize("law", [BEST_OF_N, RL, LOG1P])
def test_a_law_that_never_bends_has_no_peak(law: curves.Law) -> None:
    assert curves.peak(law, 1.0, 0.0) is None
    assert curves.peak(law, 1.0, -0.2) is None
    assert curves.zero(law, 1.0, -0.2) is None


@pytest.mark.parametrize("law", [BEST_OF_N, RL, LOG1P])
def test_noiseless_points_give_their_coefficients_back(law: curves.Law) -> None:
    # two unknowns, linear in both: any three exact points determine them
    d = np.array([0.0, 0.5, 1.0, 2.0, 4.0])
    found = curves.fit(law, d, law.gain(d, 1.3, 0.4), np.full(5, 0.1))
    assert found is not None
    assert (found.alpha, found.beta) == pytest.approx((1.3, 0.4), abs=1e-10)
    assert found.chi2 == pytest.approx(0, abs=1e-12)
    assert found.aic == pytest.approx(4, abs=1e-9)  # chi2 + 2 * 2 coefficients
    assert law.gain(0.0, 1.3, 0.4) == 0


def test_weights_by_hand() -> None:
    # law d (alpha - beta d) at d = 1, 1, 2 with gains 1, 2, 1 and standard errors 1, 1/2, 1: precision 1, 4, 1. At d = 1 the two
    # points act as one at (1 + 4*2)/5 = 1.8; the curve can pass through (1, 1.8) and (2, 1) exactly: alpha - beta = 1.8 and
    # 2 alpha - 4 beta = 1, so beta = 1.3, alpha = 3.1; chi2 = 1 (1-1.8)^2 + 4 (2-1.8)^2 = .8
    found = curves.fit(BEST_OF_N, [1, 1, 2], [1, 2, 1], [1, 0.5, 1])
    assert found is not None
    assert (found.alpha, found.beta, found.chi2, found.aic) == pytest.approx((3.1, 1.3, 0.8, 4.8), abs=1e-10)


def test_scaling_gold_scales_both_coefficients() -> None:
    d, gain = np.array([0.5, 1.0, 1.5, 2.5]), np.array([0.3, 0.8, 0.7, 0.4])
    one, two = (curves.fit(RL, d, scale * gain) for scale in (1.0, 2.5))
    assert one is not None
    assert two is not None
    assert (two.alpha, two.beta) == pytest.approx((2.5 * one.alpha, 2.5 * one.beta), rel=1e-10)


def test_rl_law_leaves_the_origin_out_and_needs_three_points() -> None:
    d = np.array([0.0, 0.1, 0.2, 0.5, 1.0])
    assert curves.fit(RL, d, RL.gain(d, 1, 0.3)) is None
    fitted = curves.fit(RL, np.append(d, 2.0), np.append([5.0, 9.0, 9.0], RL.gain([0.5, 1.0, 2.0], 1, 0.3)))
    assert fitted is not None
    assert (fitted.alpha, fitted.beta, fitted.n) == pytest.approx((1, 0.3, 3), abs=1e-10)
    edge = curves.fit(BEST_OF_N, [0.5, 1.0, 2.0], BEST_OF_N.gain([0.5, 1.0, 2.0], 1, 0.3), min_d=0.5)
    assert edge is not None
    assert edge.n == 3


def test_unusable_points_are_ignored() -> None:
    # a law through (1, .7) (2, .8) (3, .3): d - .3 d^2; the start, a missing gain, a missing place and a weightless point say nothing
    d = np.array([0.0, 1.0, 2.0, 3.0, 2.5, np.nan, 1.5])
    gain = np.array([9.0, 0.7, 0.8, 0.3, np.nan, 1.0, 7.0])
    weight = np.array([1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0])
    assert curves.coefficients(BEST_OF_N, d, gain, weight) == pytest.approx((1.0, 0.3), abs=1e-12)
    found = curves.fit(BEST_OF_N, d[:6], gain[:6])
    assert found is not None
    assert (found.alpha, found.beta, found.n) == pytest.approx((1.0, 0.3, 3), abs=1e-12)
    assert curves.fit(BEST_OF_N, d[:3], gain[:3]) is None  # two points and the start


@pytest.mark.parametrize("law", [RL, LOG1P])
def test_a_peak_beyond_all_numbers_is_none(law: curves.Law) -> None:
    assert curves.peak(law, 800.0, 1.0) is None
    assert curves.zero(law, 800.0, 1.0) is None
    assert curves.peak(law, 100.0, 1.0) is not None
    assert curves.zero(law, 100.0, 1.0) == pytest.approx(np.exp(100.0), rel=1e-12)


def test_no_initial_rise_has_a_peak_only_in_the_rl_law() -> None:
    # alpha = 0: -beta d log d rises below d = 1 and peaks at 1/e with beta/e; the others fall from the start
    assert curves.peak(RL, 0.0, 0.3) == pytest.approx((np.exp(-1), 0.3 * np.exp(-1)), abs=1e-12)
    assert curves.zero(RL, 0.0, 0.3) == pytest.approx(1.0)
    for law in (BEST_OF_N, LOG1P):
        assert curves.peak(law, 0.0, 0.3) is None
        assert curves.zero(law, 0.0, 0.3) is None


def test_precision_of_odd_errors() -> None:
    # a missing error has no weight, a zero one that of the smallest positive error; errors of zero alone weigh alike
    assert curves.precision_of([0.5, np.nan, 0.0, 1.0], (4,)).tolist() == [4.0, 0.0, 4.0, 1.0]
    assert curves.precision_of([0.0, 0.0, np.nan], (3,)).tolist() == [1.0, 1.0, 0.0]
    assert curves.precision_of(None, (2,)).tolist() == [1.0, 1.0]


def test_akaike_without_errors_estimates_them() -> None:
    # chi2 = n sigma^2: n log(chi2 / n) + 4. Gains 1, 2, 1 at d = 1, 1, 2: the curve passes (1, 1.5) and (2, 1), chi2 = .5
    found = curves.fit(BEST_OF_N, [1, 1, 2], [1, 2, 1])
    assert found is not None
    assert (found.chi2, found.aic) == pytest.approx((0.5, 3 * np.log(0.5 / 3) + 4), abs=1e-10)


def test_equal_places_determine_nothing() -> None:
    assert curves.fit(BEST_OF_N, [1, 1, 1], [1, 2, 3]) is None


def test_akaike_prefers_the_law_that_made_the_points() -> None:
    d = np.linspace(0.5, 5, 10)
    fits = [curves.fit(law, d, RL.gain(d, 1.0, 0.5), np.full(10, 0.01)) for law in (BEST_OF_N, RL, LOG1P)]
    assert min((f for f in fits if f), key=lambda f: f.aic).law is RL
