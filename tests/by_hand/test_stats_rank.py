"""Correlations by hand."""

from __future__ import annotations

import numpy as np
import pytest

from trueup.stats import rank

X, Y = [1, 2, 3, 4], [1, 3, 2, 4]


def test_golden_ranks() -> None:
    # one of six pairs is discordant: (5 - 1)/6 = 2/3; sum of squared rank differences 2: 1 - 6*2/(4*15) = .8
    assert rank.kendall(X, Y) == pytest.approx(0.6666667, abs=5e-8)
    assert rank.spearman(X, Y) == pytest.approx(0.8, abs=1e-12)
    assert rank.pearson(X, Y) == pytest.approx(0.8, abs=1e-12)  # the values are their ranks


def test_kendall_tau_b_with_a_tie() -> None:
    # x = 1 1 2, y = 1 2 3: concordant 2, tied in x 1; tau_b = 2 / sqrt(2 * 3)
    assert rank.kendall([1, 1, 2], [1, 2, 3]) == pytest.approx(2 / np.sqrt(6), abs=1e-12)


@pytest.mark.parametrize("correlation", [rank.pearson, rank.spearman, rank.kendall])
def test_constant_series_have_no_correlation(correlation: rank.Correlation) -> None:
    assert np.isnan(correlation([1, 2, 3], [0.1 + 0.2] * 3))
    assert correlation(X, X) == pytest.approx(1)
    assert correlation(X, [-v for v in X]) == pytest.approx(-1)


def test_rounding_is_no_variation_and_smallness_is_no_constancy() -> None:
    # steps of 1e-9 on a level of 1e6 are a share of 1e-15: rounding; the same steps on a level of 1e-9 are real
    assert np.isnan(rank.pearson([1e6, 1e6 + 1e-9, 1e6 + 2e-9], [1, 2, 3]))
    assert rank.pearson([1e-9, 2e-9, 3e-9], [1, 2, 3]) == pytest.approx(1)


def test_trends_agree_in_levels_and_differ_in_increments() -> None:
    # both rise; increments of x are 1 3 1 3, of y 3 1 3 1: exactly opposed
    x, y = [0, 1, 4, 5, 8], [0, 3, 4, 7, 8]
    assert rank.pearson(x, y) > 0.9
    assert rank.of_differences(rank.pearson, x, y) == pytest.approx(-1, abs=1e-12)


def test_lag_finds_a_leader() -> None:
    # y repeats x one step later
    x = np.array([0.0, 2.0, 1.0, 5.0, 3.0, 4.0])
    y = np.r_[9.0, x[:-1]]
    assert rank.lagged(rank.pearson, x, y, 1) == pytest.approx(1, abs=1e-12)
    assert rank.lagged(rank.pearson, y, x, -1) == pytest.approx(1, abs=1e-12)
    assert rank.lagged(rank.pearson, x, y, 0) < 0.9
    with pytest.raises(ValueError, match="leaves nothing"):
        rank.lagged(rank.pearson, x, y, 6)


@pytest.mark.parametrize("correlation", [rank.pearson, rank.spearman, rank.kendall])
def test_many_at_once_are_the_same_as_one_by_one(correlation: rank.Correlation) -> None:
    rows = np.array([[1, 4, 2, 2, 7], [3, 1, 4, 1, 5], [2, 7, 1, 8, 2]], dtype=float)
    together = correlation(rows, rows[0])
    assert together == pytest.approx([float(correlation(r, rows[0])) for r in rows], abs=1e-14)
