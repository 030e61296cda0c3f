"""Bootstrap: what is exact about it."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from trueup.core.rng import Key
from trueup.stats import bootstrap as b


def test_mean_n_and_missing_are_of_clusters() -> None:
    # values 1 2 3 in cluster a, 6 in b, nothing in c: mean 12/4, two clusters, one missing
    e = b.mean_estimate([1, 2, 3, 6, np.nan], ["a", "a", "a", "b", "c"], "m", "score", Key(0))
    assert (e.value, e.n, e.n_missing, e.unit) == (3.0, 2, 1, "score")


def test_two_clusters_give_the_three_possible_means() -> None:
    # resamples of {0, 1}: means 0, 1/2, 1 with 1/4, 1/2, 1/4
    means = b.resample_totals(np.array([[0.0, 1.0], [1.0, 1.0]]), 4000, Key(3))
    share = np.bincount((means[:, 0]).astype(int), minlength=3) / 4000
    assert share == pytest.approx([0.25, 0.5, 0.25], abs=0.01 * 3)  # standard error of a share: .008
    assert (means[:, 1] == 2).all()


def test_no_interval_from_one_cluster_and_no_value_from_none() -> None:
    one = b.mean_estimate([1.0, 2.0], ["a", "a"], "m", "", Key(0))
    assert (one.value, one.low, one.high, one.n) == (1.5, None, None, 1)
    none = b.mean_estimate([np.nan], ["a"], "m", "", Key(0))
    assert (none.value, none.low, none.n, none.n_missing) == (None, None, 0, 1)


def test_equal_values_have_an_interval_of_no_width() -> None:
    e = b.mean_estimate(np.full(20, 0.25), np.arange(20), "m", "", Key(0))
    assert (e.low, e.high) == (0.25, 0.25)


def test_interval_is_the_widened_percentile() -> None:
    # tail Phi(sqrt(n/(n-1)) t_{.025, n-1}); n = 10: sqrt(10/9) * -2.262157 = -2.384526, Phi = .00855. Draws 0..1 evenly spaced
    low, high = b.interval(np.linspace(0, 1, 100_001), 10)
    tail = stats.norm.cdf(-2.384526)
    assert (low, high) == pytest.approx((tail, 1 - tail), abs=1e-5)
    assert tail == pytest.approx(0.00855, abs=5e-6)


def test_a_statistic_that_mostly_does_not_exist_has_no_interval() -> None:
    draws = np.stack([np.where(np.arange(100) < 20, np.nan, 1.0), np.where(np.arange(100) < 5, np.nan, 1.0)], axis=1)
    low, high = b.interval(draws, 30)
    assert np.isnan(low[0])
    assert (low[1], high[1]) == (1, 1)
    nine_of_ten, _ = b.interval(np.r_[np.full(10, np.nan), np.ones(90)], 30)
    assert nine_of_ten == 1  # nine tenths are enough


def test_two_units_have_an_interval_and_one_has_none() -> None:
    assert np.isfinite(b.interval(np.arange(100.0), 2)).all()
    assert np.isnan(b.interval(np.arange(100.0), 1)).all()


def test_paired_difference_pairs_by_cluster() -> None:
    # a: 3 - 1, b: mean(5, 7) - 4 -> 2, 2; c and d are on one side only
    e = b.paired_difference([3, 5, 7, 100], ["a", "b", "b", "c"], [4, 1, -50], ["b", "a", "d"], "d", "", Key(0))
    assert (e.value, e.low, e.high, e.n, e.n_missing) == (2, 2, 2, 2, 2)


def test_every_resample_has_as_many_clusters() -> None:
    weights = b.cluster_weights(7, 50, Key(1))
    assert weights.shape == (50, 7)
    assert (weights.sum(axis=1) == 7).all()
    nested = b.nested_weights(["s1"] * 3 + ["s2"] * 3, 50, Key(1))
    assert (nested.sum(axis=1) == 6).all()
    # a seed that is not drawn takes all its prompts with it: with two seeds that happens half the time
    alone = (nested[:, :3].sum(axis=1) == 0) | (nested[:, 3:].sum(axis=1) == 0)
    assert 0.2 < alone.mean() < 0.8


def test_blocks_keep_neighbours() -> None:
    places = b.block_indices(10, 3, 200, Key(2))
    assert places.shape == (200, 10)
    assert (places.min(), places.max()) == (0, 9)
    assert set(places[:, 0]) == set(range(8))  # a block of three may start anywhere up to 7
    inside = np.diff(places, axis=1)[:, [0, 1, 3, 4, 6, 7]]
    assert (inside == 1).all()
    assert sorted(set(b.block_indices(3, 1, 100, Key(0)).ravel())) == [0, 1, 2]
    assert b.block_indices(3, 3, 1, Key(0)).tolist() == [[0, 1, 2]]
    for block in (0, 4):
        with pytest.raises(ValueError, match="block"):
            b.block_indices(3, block, 1, Key(0))


def test_a_draw_depends_on_its_key_alone() -> None:
    x, c = np.arange(30.0), np.repeat(np.arange(10), 3)
    first, again, other = (b.mean_estimate(x, c, "m", "", Key(5) / k) for k in ("a", "a", "b"))
    assert first == again
    assert first.low != other.low


def test_rows_in_another_order_give_the_same_interval() -> None:
    x, c = np.arange(30.0) ** 2, np.repeat([f"p{i}" for i in range(10)], 3)
    order = Key(9).permutation(30)
    one, two = b.mean_estimate(x, c, "m", "", Key(5)), b.mean_estimate(x[order], c[order], "m", "", Key(5))
    assert (one.low, one.high) == pytest.approx((two.low, two.high), abs=1e-12)


def test_mismatched_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="cluster labels"):
        b.mean_estimate([1, 2], ["a"], "m", "", Key(0))
