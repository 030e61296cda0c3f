"""Corners of the statistics: what is ignored, where a threshold lies, what is passed on. Numbers are derived beside them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import special

from trueup.core.rng import Key
from trueup.stats import best_of_n as bon
from trueup.stats import bootstrap as b
from trueup.stats import calibration as cal
from trueup.stats import curves, rank
from trueup.stats.curves import BEST_OF_N, LOG1P, RL
from trueup.stats.estimate import Estimate

LOG3 = float(np.log(3))
X, Y, P, WON = [0.3, 1.2, 2.5, 3.1], [1.0, 0.5, 2.0, 1.5], [0.1, 0.2, 0.3, 0.4], [1.0, 0.0, 1.0, 0.5]
XX, YY, PP = [X, Y], [Y, WON], [P, X]

TAKES_ANY: dict[str, tuple[Callable[..., Any], tuple[list[Any], ...]]] = {
    "kl_nats": (bon.kl_nats, ([2, 3, 4, 5],)),
    "exact_kl_nats": (lambda p, s: bon.exact_kl_nats(p, s, 2), (P, X)),
    "win_rate": (bon.win_rate, ([2, 3, 4, 5],)),
    "best_of_n": (lambda p, v: bon.best_of_n(p, v, [2]), (X, Y)),
    "accuracy": (bon.accuracy_from_correlation, (P,)),
    "correlation": (bon.correlation_from_accuracy, (P,)),
    "both_orders": (cal.both_orders, (X, WON)),
    "band": (lambda d: cal.ece_under_calibration(d, Key(0), draws=7), (X,)),
    "brier": (cal.brier, (X, WON)),
    "nll": (cal.nll_nats, (X, WON)),
    "temperature": (cal.fit_temperature, (X, WON)),
    "gain": (lambda d: LOG1P.gain(d, 1.3, 0.4), (X,)),
    "coefficients": (lambda d, g, w: curves.coefficients(RL, d, g, w), (XX, YY, PP)),
    "fit": (lambda d, g, e: curves.fit(BEST_OF_N, d, g, e).alpha, (X, Y, P)),  # type: ignore[union-attr]
    "pearson": (rank.pearson, (XX, YY)),
    "kendall": (rank.kendall, (XX, YY)),
    "differences": (lambda x, y: rank.of_differences(rank.pearson, x, y), (XX, YY)),
    "lagged": (lambda x, y: rank.lagged(rank.kendall, x, y, 1), (XX, YY)),
    "clusters": (lambda v: b.cluster_sums(v, list("abab")), (X,)),
    "paired": (lambda v, w: b.paired_difference(v, list("aabc"), w, list("abcc"), "", "", Key(0), draws=9).value, (X, Y)),
}


@pytest.mark.parametrize("name", TAKES_ANY)
def test_numbers_of_any_kind(name: str) -> None:
    """Lists, float32 and pandas' object columns mean the same numbers."""
    function, columns = TAKES_ANY[name]
    expected = np.asarray(function(*columns), dtype=float)
    assert np.isfinite(expected).all()
    for kind in (object, np.float32):
        found = function(*(np.array(c, dtype=kind) for c in columns))
        assert np.asarray(found).dtype == np.float64
        np.testing.assert_allclose(np.asarray(found, dtype=float), expected, rtol=1e-5, atol=1e-7)


def test_impossible_replies_are_never_the_best() -> None:
    # p = 1/2 1/2 0: best of two is the lower one with 1/4
    expected = 0.25 * np.log(0.5) + 0.75 * np.log(1.5)
    assert bon.exact_kl_nats([0.5, 0.5, 0.0], [0, 1, 2], 2) == pytest.approx(expected, abs=1e-12)
    assert bon.gaussian_gold(2, 0.5, 4.0) == pytest.approx(2.0 / np.sqrt(np.pi), abs=1e-7)  # rho sigma / sqrt(pi)


def test_the_expected_maximum_of_very_many() -> None:
    # a positive number's mean is the integral of the chance to exceed x, here 1 - Phi(x)^n; below 0 it never lies
    x = np.linspace(0, 14, 400_001)
    for n in (10**4, 10**9, 10**12, 10**15):
        exceeds = -np.expm1(n * special.log_ndtr(x))
        assert bon.expected_maximum(n) == pytest.approx(float(np.trapezoid(exceeds, x)), abs=1e-9)


def test_a_parent_keeps_its_draws_wherever_its_rows_stand() -> None:
    one, two = b.nested_weights(["a"] * 3 + ["b"] * 3, 20, Key(1)), b.nested_weights(["b"] * 3 + ["a"] * 3, 20, Key(1))
    assert np.array_equal(one[:, :3], two[:, 3:])
    assert not np.array_equal(one[:, :3], two[:, :3])


def test_resamples_in_pieces_are_as_many(monkeypatch: pytest.MonkeyPatch) -> None:
    for chunk in (1, 9, 10**6):  # of four clusters: one, two, or all draws at a time
        monkeypatch.setattr(b, "_CHUNK", chunk)
        monkeypatch.setattr(cal, "_CHUNK", chunk)
        totals = b.resample_totals(np.ones((4, 1)), 5, Key(0))
        assert totals.tolist() == [[4.0]] * 5
        assert cal.ece_under_calibration([0.0], Key(0), draws=5).tolist() == [0.0] * 5


def test_blocks_of_one_and_of_all() -> None:
    assert sorted(set(b.block_indices(4, 1, 50, Key(0)).ravel().tolist())) == [0, 1, 2, 3]
    assert b.block_indices(4, 4, 2, Key(0)).tolist() == [[0, 1, 2, 3]] * 2
    with pytest.raises(ValueError, match="got 0"):
        b.block_indices(4, 0, 2, Key(0))


def test_limits_of_many_columns_at_once() -> None:
    ramp = np.linspace(0, 1, 100_001)
    low, high = b.interval(np.stack([ramp, 10 + ramp], axis=1), 10_000, 0.9)
    # ten thousand units: hardly widened, 5 % and 95 %
    assert low == pytest.approx([0.05, 10.05], abs=1e-4)
    assert high == pytest.approx([0.95, 10.95], abs=1e-4)
    for units in (0, 1):
        limits = b.interval(np.zeros((7, 3)), units)
        assert [x.shape for x in limits] == [(3,), (3,)]
        assert all(np.isnan(x).all() for x in limits)
    # exactly nine of ten resamples exist; one less and there is no interval
    place = np.arange(100)
    low, high = b.interval(np.stack([np.where(place < n, np.nan, 2.0) for n in (10, 11)], axis=1), 30)
    assert (low[0], high[0]) == (2.0, 2.0)
    assert np.isnan(low[1])
    assert np.isnan(high[1])


ROWS = np.array([[1.0, 1.0], [5.0, 2.0], [2.0, 1.0], [9.0, 3.0]])


def told(e: Estimate) -> tuple[object, ...]:
    return e.name, e.unit, e.method, e.level, e.n, e.n_missing


def test_estimates_pass_everything_on() -> None:
    key, level, draws = Key(3), 0.5, 40
    made = b.make_estimate("m", 2.0, np.linspace(0, 4, 101), 8, "nats", method="x", level=level)
    low, high = b.interval(np.linspace(0, 4, 101), 8, level)
    assert told(made) == ("m", "nats", "x", 0.5, 8, 0)
    assert (made.value, made.low, made.high) == (2.0, float(low), float(high))
    absent = b.make_estimate("m", np.nan, np.linspace(0, 4, 101), 8, "nats", method="x")
    assert (absent.value, absent.low, absent.high, absent.level) == (None, None, None, 0.95)

    limits = b.interval(b.ratio(b.resample_totals(ROWS, draws, key)), 4, level)
    found = b.statistic_estimate(ROWS, b.ratio, "s", "score", key, level=level, draws=draws)
    assert told(found) == ("s", "score", "cluster bootstrap", 0.5, 4, 0)
    assert (found.value, found.low, found.high) == (17 / 7, *limits)
    assert b.statistic_estimate(ROWS, b.ratio, "s", "", key, n_missing=3).n_missing == 3

    values, clusters = [1, 2, 3, 2, 3, 3, 3], ["a", "b", "b", "c", "d", "d", "d"]  # sums 1 5 2 9 of 1 2 1 3: the rows above
    mean = b.mean_estimate(values, clusters, "m", "nats", key, level=level, draws=draws)
    assert told(mean) == ("m", "nats", "cluster bootstrap", 0.5, 4, 0)
    assert (mean.value, mean.low, mean.high) == (17 / 7, *limits)


def test_differences_pass_everything_on() -> None:
    key, level, draws = Key(3), 0.5, 40
    names = ["a", "b", "c", "d"]
    paired = b.paired_difference([1, 5, 2, 9], names, [0, 1, 0, 2], names, "p", "nats", key, level=level, draws=draws)
    rows = np.stack([[1.0, 4.0, 2.0, 7.0], np.ones(4)], axis=1)
    assert told(paired) == ("p", "nats", "cluster bootstrap", 0.5, 4, 0)
    assert (paired.value, paired.low, paired.high) == (3.5, *b.interval(b.ratio(b.resample_totals(rows, draws, key)), 4, level))

    apart = b.unpaired_difference(ROWS, ROWS[:3], b.ratio, "u", "score", key, level=level, draws=draws)
    first, second = b.resample_totals(ROWS, draws, key / "first"), b.resample_totals(ROWS[:3], draws, key / "second")
    assert told(apart) == ("u", "score", "cluster bootstrap of both sides", 0.5, 3, 0)
    assert apart.value == pytest.approx(17 / 7 - 2)
    assert (apart.low, apart.high) == b.interval(b.ratio(first) - b.ratio(second), 3, level)
    nothing = b.unpaired_difference(ROWS, ROWS[:0], b.ratio, "u", "score", key, level=level)
    assert told(nothing) == ("u", "score", "", 0.5, 0, 0)
    assert (nothing.value, nothing.low, nothing.high) == (None, None, None)


def test_of_nothing_there_is_no_value_even_where_sums_have_one() -> None:
    empty = b.statistic_estimate(np.zeros((0, 1)), lambda totals: totals[..., 0], "s", "nats", Key(0), level=0.5, n_missing=2)
    assert told(empty) == ("s", "nats", "cluster bootstrap", 0.5, 0, 2)
    assert (empty.value, empty.low, empty.high) == (None, None, None)


def test_ratios() -> None:
    found = b.ratio(np.array([[1.0, 0.0], [3.0, 1.0], [4.0, 2.0]]))
    assert np.isnan(found[0])
    assert found[1:].tolist() == [3.0, 2.0]


def test_an_interval_that_touches_a_number_covers_it() -> None:
    e = Estimate(name="e", value=1.5, low=1.0, high=2.0, n=3, unit="nats")
    assert [e.excludes(x) for x in (0.9, 1.0, 1.5, 2.0, 2.1)] == [True, False, False, False, True]
    assert not Estimate(name="e", value=1.5, low=1.0, high=None, n=3).excludes(0)
    assert e.to_dict() == {
        "name": "e",
        "value": 1.5,
        "low": 1.0,
        "high": 2.0,
        "n": 3,
        "unit": "nats",
        "level": 0.95,
        "method": "",
        "n_missing": 0,
    }


def test_reliability_of_one_pair_and_of_even_and_odd_bins() -> None:
    table = cal.reliability([LOG3], [1.0])
    assert table.count.tolist() == [1, 1]
    assert table.frequency.tolist() == [0.0, 1.0]
    assert table.ece == pytest.approx(0.25)


def test_bins_of_equal_mass_with_few_forecasts() -> None:
    # seven bins of four: edges at the first quarter, (.1 + .2) / 2, and its mirror image; none in the middle
    assert cal.bin_of(np.array([0.1, 0.2, 0.8, 0.9]), 7, "mass").tolist() == [0, 1, 1, 2]
    assert cal.bin_of(np.array([0.1, 0.2, 0.8, 0.9]), 8, "mass").tolist() == [0, 1, 2, 3]
    assert cal.bin_of(np.array([0.1, 0.9]), 2, "mass").tolist() == [0, 1]
    assert cal.bin_of(np.array([0.3]), 3, "mass").tolist() == [1]
    # forecasts all above 1/2: the edge stays at 1/2, where its mirror image is
    assert cal.bin_of(np.array([0.6, 0.7, 0.8, 0.9]), 2, "mass").tolist() == [1, 1, 1, 1]


def test_what_calibrated_forecasts_would_give() -> None:
    # one pair at p = 3/4: the error is 1/4 where it is won (3 of 4), else 3/4
    one = cal.ece_under_calibration([LOG3], Key(0))
    assert len(one) == 500
    assert set(one.round(9)) == {0.25, 0.75}
    assert abs((one == one.min()).mean() - 0.75) < 4 * np.sqrt(0.75 * 0.25 / 500)
    # two such pairs share their bins: 2, 1 or 0 won of 1.5 expected, over two: 1/4, 1/4, 3/4 (the last with 1/16)
    two = cal.ece_under_calibration([LOG3, LOG3], Key(1), draws=800)
    assert set(two.round(9)) == {0.25, 0.75}
    assert abs((two > 0.5).mean() - 1 / 16) < 4 * np.sqrt(15 / 16**2 / 800)
    # p = .75 and .7: four bins of equal width; of equal mass, .3 and .7 share one, whose outcomes always sum to 1
    logits = [LOG3, float(np.log(7 / 3))]
    width = cal.ece_under_calibration(logits, Key(2))
    assert set(width.round(9)) == {0.275, 0.475, 0.525, 0.725}
    mass = cal.ece_under_calibration(logits, Key(2), edges="mass")
    assert set(mass.round(9)) == {0.125, 0.375}


def test_murphy_with_resolution_and_with_ties() -> None:
    # three of four won at p = 3/4: frequencies 3/4 and 1/4, (1/4)^2 from the base of 1/2
    m = cal.murphy(np.full(4, LOG3), [1, 1, 1, 0])
    assert (m.reliability, m.resolution, m.uncertainty, m.within_bins) == pytest.approx((0, 1 / 16, 1 / 4, 0), abs=1e-12)
    # a tie is certain to be 1/2: no uncertainty
    tie = cal.murphy([0.0], [0.5])
    assert (tie.brier, tie.uncertainty) == (0.0, 0.0)
    # bins matter: p = .75 won and .7 lost. Apart (equal width): ((1/4)^2 + (.7)^2) / 2; .3 and .7 together (mass): frequencies
    # 0, 1/2, 1 of shares 1/4, 1/2, 1/4 with confidences .25, .5, .75
    delta = [LOG3, float(np.log(7 / 3))]
    assert cal.murphy(delta, [1, 0]).reliability == pytest.approx((1 / 16 + 0.49) / 2, abs=1e-12)
    mass = cal.murphy(delta, [1, 1], 15, "mass")
    assert mass.reliability == pytest.approx(0.5 * (1 / 16) + 0.0, abs=1e-12)


@pytest.mark.parametrize("size", [2e4, 1.0, 1e-4])
@pytest.mark.parametrize(("won", "share"), [([1, 1, 1, 0, 0], 0.6), ([1, 1, 1, 0], 0.75)])
def test_a_temperature_of_any_size_is_found(size: float, won: list[int], share: float) -> None:
    # sigma(size / T) = share
    expected = size / np.log(share / (1 - share))
    assert cal.fit_temperature(np.full(len(won), size), won) == pytest.approx(expected, rel=1e-6)


def test_points_that_cannot_be_used_change_no_fit() -> None:
    d, gain, weight = np.array([0.5, 1.0, 2.0]), np.array([0.4, 0.9, 0.7]), np.array([1.0, 2.0, 3.0])
    odd = np.array([0.0, -1.0, np.inf, np.nan, 3.0, 3.0, 3.0])
    with_gain, with_weight = np.array([5.0, 5, 5, 5, np.nan, np.inf, 99]), np.array([1.0, 1, 1, 1, 1, 1, 0])
    for law in (BEST_OF_N, RL, LOG1P):
        clean = curves.coefficients(law, d, gain, weight)
        noisy = curves.coefficients(law, np.r_[d, odd], np.r_[gain, with_gain], np.r_[weight, with_weight])
        np.testing.assert_allclose(noisy, clean, rtol=1e-12)
    for nothing in (curves.coefficients(RL, d, gain, 0 * d), curves.coefficients(RL, [1.0, 1.0], [1.0, 2.0], 1.0)):
        assert np.isnan(nothing).all()


def test_very_small_distances_still_determine_a_law() -> None:
    d = np.array([1e-4, 2e-4, 3e-4])
    found = curves.coefficients(BEST_OF_N, d, BEST_OF_N.gain(d, 2.0, 30.0), 1.0)
    np.testing.assert_allclose(found, (2.0, 30.0), rtol=1e-6)


def test_the_threshold_of_a_fit() -> None:
    d = np.array([0.0, 0.1, 0.5, 1.0, 2.0])
    whole, far = (curves.fit(BEST_OF_N, d, BEST_OF_N.gain(d, 1, 0.3), min_d=m) for m in (None, 0.3))
    assert whole is not None
    assert far is not None
    assert (whole.n, far.n) == (4, 3)  # the start itself never counts


def test_where_laws_turn_over_or_do_not() -> None:
    for law in (BEST_OF_N, LOG1P):
        assert curves.peak(law, 0.0, 0.3) is None
        assert curves.peak(law, -1.0, 0.3) is None
        assert curves.zero(law, 0.0, 0.3) is None
        assert curves.zero(law, -1.0, 0.3) is None
    # the RL law of a negative alpha: peak at exp(-2 - 1), lost again at exp(-2)
    assert curves.peak(RL, -1.0, 0.5) == pytest.approx((np.exp(-3), 0.5 * np.exp(-3)))
    assert curves.zero(RL, -1.0, 0.5) == pytest.approx(np.exp(-2))
    assert curves.zero(RL, 1.0, 0.0) is None
    assert curves.peak(BEST_OF_N, np.nan, 0.3) is None
    # what no float can hold is nothing one could observe: exponents up to 700
    assert [curves.peak(RL, a, 1.0) is None for a in (701.0, 701.5)] == [False, True]
    for law in (BEST_OF_N, RL, LOG1P):
        assert [curves.zero(law, a, 1.0) is None for a in (700.0, 700.5)] == [False, True]
    assert curves.zero(BEST_OF_N, 900.0, 3.0) == 300.0
    # only the quotient counts
    assert curves.zero(BEST_OF_N, 30.0, 30.0) == 1.0
    place, height = curves.peak(LOG1P, 30.0, 30.0) or (np.nan, np.nan)
    assert 0 < place < 1  # the slope 1 - log(1+d) - d/(1+d) is 1 at 0 and -0.19 at 1
    assert np.log1p(place) + place / (1 + place) == pytest.approx(1, abs=1e-9)
    assert height == pytest.approx(30 * place * (1 - np.log1p(place)))
    assert [curves.peak(LOG1P, a, 1.0) is None for a in (700.0, 700.5)] == [False, True]


@pytest.mark.parametrize("correlation", [rank.pearson, rank.spearman, rank.kendall])
def test_many_series_against_as_many(correlation: rank.Correlation) -> None:
    x = np.array([[1, 4, 2, 2, 7], [3, 1, 4, 1, 5], [2, 7, 1, 8, 2]], dtype=float)
    y = np.array([[30, 20, 50, 60, 10], [2, 2, 1, 9, 4], [1, 2, 3, 5, 4]], dtype=float)
    assert correlation(x, y) == pytest.approx([float(correlation(p, q)) for p, q in zip(x, y, strict=True)], abs=1e-12)
    changes = rank.of_differences(correlation, x, y)
    assert changes == pytest.approx([float(rank.of_differences(correlation, p, q)) for p, q in zip(x, y, strict=True)], abs=1e-12)


def test_two_points_have_one_pair() -> None:
    assert rank.kendall([1, 2], [5, 9]) == 1
    assert rank.kendall([1, 2], [9, 5]) == -1


def test_a_correlation_is_never_above_one() -> None:
    x = Key(0).generator().normal(size=(2000, 5))
    for factor in (3.0, -3.0):
        r = rank.pearson(x, factor * x)
        assert np.abs(r).max() <= 1
        assert r == pytest.approx(np.full(2000, np.sign(factor)))


def test_rounding_is_no_variation() -> None:
    # relative deviations of 7e-13 (twice): the sum of squares, 1e-24, is below 3 (1e-12)^2; ten times that is variation
    flat, moving = 1 + 7e-13 * np.arange(3.0), 1 + 7e-12 * np.arange(3.0)
    for scale in (1.0, 1e3, 1e-3):
        assert np.isnan(rank.pearson(scale * flat, [1, 2, 3]))
        assert rank.pearson(scale * moving, [1, 2, 3]) == pytest.approx(1, abs=1e-3)
    for count in range(3, 40):
        assert np.isnan(rank.pearson(np.full(count, 0.1), np.arange(count)))  # a mean of tenths may differ from a tenth
    assert np.isnan(rank.pearson([0, 0, 0], [1, 2, 3]))
    # each series has its own size
    both = np.array([[1e9, 2e9, 3e9], [1e-6, 2e-6, 3e-6]])
    assert rank.pearson(both, both) == pytest.approx([1, 1])
