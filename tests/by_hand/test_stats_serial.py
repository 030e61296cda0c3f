"""Intervals along a series and bands over several quantities: numbers on paper."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from trueup.core.rng import Key
from trueup.stats import serial
from trueup.stats.simultaneous import band


def test_autocorrelation_and_independent_points_on_paper() -> None:
    # 1, 2, 3, 4: deviations -1.5, -.5, .5, 1.5; products .75 - .25 + .75 = 1.25 over 5 = .25
    assert serial.autocorrelation([1, 2, 3, 4]) == pytest.approx(0.25)
    # with itself: 4 (1 - 1/16) / (1 + 1/16) = 4 * 15/17
    assert serial.independent_points([1, 2, 3, 4], [1, 2, 3, 4]) == pytest.approx(60 / 17)
    # 1, -1, 1, -1: products -3 over 4; with the rising one a product below 0, so no more than 4 points
    assert serial.independent_points([1, 2, 3, 4], [1, -1, 1, -1]) == 4
    assert serial.autocorrelation([2.0, 2.0, 2.0]) == 0


@pytest.mark.parametrize(("kind", "spread", "lost"), [("pearson", 1.0, 3), ("spearman", 1.06, 3), ("kendall", 0.437, 4)])
def test_interval_is_fishers_where_points_are_independent(kind: serial.Kind, spread: float, lost: int) -> None:
    # one series of positive and one of negative autocorrelation: no point is lost, n' = 12
    x, y = np.arange(12.0), np.tile([1.0, -1.0], 6) + np.arange(12.0) * 1e-6
    half = 1.959964 * np.sqrt(spread / (12 - lost))
    low, high = serial.correlation_interval(0.5, x, y, kind)
    # atanh(1/2) = ln(3) / 2
    assert float(low) == pytest.approx(np.tanh(np.log(3) / 2 - half), abs=1e-6)
    assert float(high) == pytest.approx(np.tanh(np.log(3) / 2 + half), abs=1e-6)


def test_too_few_points_have_no_interval() -> None:
    # a straight line of 8 points: deviations squared sum to 42, products of neighbours to 26.25; a = .625,
    # n' = 8 (1 - .390625) / 1.390625 = 3.5, and 3.5 - 3 is below 1
    low, high = serial.correlation_interval(0.9, np.arange(8.0), np.arange(8.0), "pearson")
    assert np.isnan(low)
    assert np.isnan(high)
    # alternating and straight series lose none: 8 - 3 = 5
    assert np.isfinite(serial.correlation_interval(0.9, np.arange(8.0), np.tile([1.0, -1.0], 4), "pearson")[0])
    assert np.isnan(serial.correlation_interval(np.nan, np.arange(8.0), np.tile([1.0, -1.0], 4), "pearson")[0])


def test_identical_series_are_inside_their_interval() -> None:
    x = np.tile([1.0, -1.0, 2.0, -3.0, 0.5], 4)
    low, high = serial.correlation_interval(1.0, x, x, "pearson")
    assert low <= 1.0 <= high <= 1.0


def test_band_of_one_quantity_is_its_normal_interval() -> None:
    draws = (Key(0) / "d").generator().normal(2.0, 1.0, size=(20_000, 1))
    low, high = band(np.array([2.0]), draws, 1000)
    # 1.96 standard errors of 1 on either side; the quantile of 20,000 draws is good to about 0.02
    assert abs(high[0] - low[0] - 2 * 1.96) < 0.1
    assert high[0] + low[0] == pytest.approx(4.0)


def test_band_of_many_is_wider_and_leaves_out_what_does_not_exist() -> None:
    g = (Key(0) / "many").generator()
    draws = np.concatenate([g.normal(size=(20_000, 10)), np.full((20_000, 1), np.nan), np.zeros((20_000, 1))], axis=1)
    values = np.r_[np.zeros(10), np.nan, 0.0]
    low, high = band(values, draws, 10_000)
    # the largest of ten independent normal deviations is below c in 95 %: (2 Phi(c) - 1)^10 = .95, c = 2.80
    c = float(stats.norm.ppf((1 + 0.95 ** (1 / 10)) / 2))
    assert np.abs(high[:10] - c).max() < 0.1
    assert np.isnan(low[10])
    assert (low[11], high[11]) == (0.0, 0.0)
    assert np.isnan(band(values, draws, 1)[0]).all()
    # ten units: Student's quantile 2.262 over the normal one 1.960
    assert band(values, draws, 10)[1][0] / high[0] == pytest.approx(2.262157 / 1.959964, abs=1e-3)
