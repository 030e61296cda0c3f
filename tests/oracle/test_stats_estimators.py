"""Estimators against enumeration, closed forms and scipy."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from scipy import special, stats

from trueup.core.rng import Key
from trueup.stats import best_of_n as bon
from trueup.stats import bootstrap as b
from trueup.stats import calibration as cal
from trueup.stats import curves, rank


@pytest.mark.parametrize("ties", [False, True])
def test_best_of_n_is_the_average_over_all_subsets(ties: bool) -> None:
    g = Key(4).generator()
    proxy = g.integers(0, 4, 7).astype(float) if ties else g.normal(0, 1, 7)
    gold = g.normal(0, 1, 7)
    for n in range(1, 8):
        # within a subset the winner is drawn evenly among its tied best; over all subsets that is the block's mean
        best = [gold[[i for i in s if proxy[i] == max(proxy[list(s)])]].mean() for s in combinations(range(7), n)]
        assert bon.best_of_n(proxy, gold, [n])[0] == pytest.approx(np.mean(best), abs=1e-12)
        assert bon.rank_weights(7, n).sum() == pytest.approx(1, abs=1e-12)


def test_exact_kl_reaches_the_formula_as_replies_become_many() -> None:
    p, score = np.full(20_000, 1 / 20_000), np.arange(20_000)
    assert bon.exact_kl_nats(p, score, 8) == pytest.approx(float(bon.kl_nats(8)), abs=1e-3)
    assert bon.exact_kl_nats(p, score, 1) == pytest.approx(0, abs=1e-12)


def test_expected_maximum_matches_simulation_and_another_integral() -> None:
    simulated = Key(1).generator().normal(size=(20_000, 50)).max(axis=1)
    assert bon.expected_maximum(50) == pytest.approx(simulated.mean(), abs=4 * simulated.std() / np.sqrt(20_000))
    # E = integral over x > 0 of 1 - Phi^n, minus that over x < 0 of Phi^n
    x = np.linspace(0, 12, 200_001)
    for n in (5, 10**6):
        above = np.trapezoid(-np.expm1(n * special.log_ndtr(x)), x)
        below = np.trapezoid(np.exp(n * special.log_ndtr(-x)), x)
        assert bon.expected_maximum(n) == pytest.approx(above - below, abs=1e-7)


def test_correlations_match_scipy() -> None:
    g = Key(2).generator()
    for _ in range(20):
        x, y = g.integers(0, 6, 12).astype(float), g.integers(0, 6, 12).astype(float)
        assert rank.kendall(x, y) == pytest.approx(stats.kendalltau(x, y).statistic, abs=1e-12)
        assert rank.spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)
        assert rank.pearson(x, y) == pytest.approx(stats.pearsonr(x, y).statistic, abs=1e-12)


def test_bootstrap_error_of_a_mean_is_its_textbook_value() -> None:
    # clusters of equal size: the bootstrap variance of the mean is the population variance of cluster means over C
    x = Key(3).generator().normal(size=(60, 5)) + np.arange(60)[:, None] / 20
    rows = np.stack([x.sum(axis=1), np.full(60, 5.0)], axis=1)
    draws = b.ratio(b.resample_totals(rows, 20_000, Key(1)))
    expected = x.mean(axis=1).std() / np.sqrt(60)
    assert abs(draws.std() / expected - 1) < 4 / np.sqrt(2 * 20_000)  # a deviation from R draws has relative error 1 / sqrt(2 R)


def test_clustered_intervals_cover_and_row_intervals_do_not() -> None:
    # prompt effects of unit variance, noise of .5, 12 prompts of 5 rows: nominal 95 %
    hits, naive = 0, 0
    for seed in range(300):
        g = Key(seed).generator()
        x = (g.normal(size=(12, 1)) + 0.5 * g.normal(size=(12, 5))).ravel()
        prompts = np.repeat(np.arange(12), 5)
        e = b.mean_estimate(x, prompts, "m", "", Key(seed), draws=400)
        row = b.mean_estimate(x, np.arange(60), "m", "", Key(seed), draws=400)
        hits += not e.excludes(0)
        naive += not row.excludes(0)
    # standard error of a coverage of .95 over 300: .013
    assert 0.91 <= hits / 300 <= 0.99
    assert naive / 300 < 0.8


def test_nested_resampling_has_both_variances() -> None:
    # seeds' means m_s and prompts' spread within: Var = var(m_s)/S + mean within-seed var / (S P), both population variances
    g = Key(8).generator()
    x = g.normal(size=(6, 1)) + 2.0 * g.normal(size=(6, 10))
    weights = b.nested_weights(np.repeat(np.arange(6), 10), 20_000, Key(1))
    means = weights @ x.ravel() / 60
    expected = x.mean(axis=1).var() / 6 + x.var(axis=1).mean() / 60
    assert abs(means.var() / expected - 1) < 4 * np.sqrt(2 / 20_000)  # a variance from R draws has relative error sqrt(2 / R)


def test_many_clusters_are_resampled_in_pieces_alike() -> None:
    rows = np.stack([np.arange(30_000.0), np.ones(30_000)], axis=1)
    totals = b.resample_totals(rows, 300, Key(1))
    assert totals.shape == (300, 2)
    assert (totals[:, 1] == 30_000).all()
    draws = b.ratio(totals)
    assert draws.mean() == pytest.approx(14_999.5, rel=1e-3)
    expected = np.arange(30_000).std() / np.sqrt(30_000)
    assert abs(draws.std() / expected - 1) < 4 / np.sqrt(2 * 300)  # relative error as above


def test_unpaired_difference_adds_variances() -> None:
    g = Key(1).generator()
    one, two = (np.stack([g.normal(m, 1, n), np.ones(n)], axis=1) for m, n in ((1.0, 40), (0.0, 90)))
    e = b.unpaired_difference(one, two, b.ratio, "d", "", Key(0), draws=4000)
    assert e.value == pytest.approx(one[:, 0].mean() - two[:, 0].mean(), abs=1e-12)
    assert e.n == 40
    assert e.low is not None
    assert e.high is not None
    error = np.sqrt(one[:, 0].var() / 40 + two[:, 0].var() / 90)
    # 95 % of a normal, widened for 40 clusters by sqrt(40/39) * t_39 / 1.96 = 1.045
    # each end is a quantile of 4,000 draws, with error sqrt(.025 * .975 / 4000) / .0584 = .042 deviations (.0584: normal density there);
    # the width of 3.92 deviations therefore has relative error sqrt(2) * .042 / 3.92
    assert abs((e.high - e.low) / (2 * 1.96 * 1.045 * error) - 1) < 4 * np.sqrt(2) * 0.042 / 3.92


def test_calibration_error_matches_a_plain_loop() -> None:
    g = Key(7).generator()
    delta, outcome = g.normal(0, 2, 300), g.integers(0, 2, 300).astype(float)
    both_d, both_y = np.r_[delta, -delta], np.r_[outcome, 1 - outcome]
    p, expected = special.expit(both_d), 0.0
    for i in range(15):
        inside = (p >= i / 15) & (p < (i + 1) / 15)
        if inside.any():
            expected += inside.mean() * abs(p[inside].mean() - both_y[inside].mean())
    assert cal.reliability(delta, outcome, 15, "width").ece == pytest.approx(expected, abs=1e-12)


def test_murphy_adds_up_with_ties_and_wide_bins() -> None:
    g = Key(7).generator()
    delta, outcome = g.normal(0, 2, 200), g.choice([0.0, 0.5, 1.0], 200)
    m = cal.murphy(delta, outcome, 5, "mass")
    assert m.reliability - m.resolution + m.uncertainty + m.within_bins == pytest.approx(m.brier, abs=1e-12)
    assert cal.brier(delta, outcome).mean() == pytest.approx(m.brier, abs=1e-12)


def test_consistency_band_holds_calibrated_forecasts() -> None:
    inside = 0
    for seed in range(100):
        g = Key(seed).generator()
        delta = g.normal(0, 1.5, 200)
        outcome = (g.random(200) < special.expit(delta)).astype(float)
        band = cal.ece_under_calibration(delta, Key(seed) / "band", bins=10, edges="mass", draws=200)
        inside += cal.reliability(delta, outcome, 10, "mass").ece <= np.quantile(band, 0.95)
    assert 0.88 <= inside / 100 <= 1.0  # standard error .022


def test_band_of_many_pairs_is_simulated_in_pieces_alike() -> None:
    # 50,000 pairs: 40 simulations at a time. One bin of |error| per order: p = 3/4 everywhere, so ECE = |share won - 3/4|, half normal
    delta = np.full(50_000, np.log(3))
    band = cal.ece_under_calibration(delta, Key(2), bins=4, draws=100)
    assert band.shape == (100,)
    error = np.sqrt(0.75 * 0.25 / 50_000)
    # a half normal's mean from R draws has relative error sqrt(pi / 2 - 1) / sqrt(R)
    assert abs(band.mean() / (error * np.sqrt(2 / np.pi)) - 1) < 4 * np.sqrt((np.pi / 2 - 1) / 100)
    assert (band < 5 * error).all()


def test_temperature_is_recovered_and_minimises_the_nll() -> None:
    g = Key(3).generator()
    truth = g.normal(0, 1.5, 20_000)
    outcome = (g.random(20_000) < special.expit(truth)).astype(float)
    t = cal.fit_temperature(3 * truth, outcome)
    assert t is not None
    p = special.expit(truth)
    error = 1 / np.sqrt((p * (1 - p) * truth**2).sum())  # Fisher information of a scale on the logits, at its true value
    assert abs(t / 3 - 1) < 4 * error
    at = [cal.nll_nats(3 * truth / s, outcome).mean() for s in (t, 0.97 * t, 1.03 * t)]
    assert at[0] < min(at[1:])


@pytest.mark.parametrize("law", [curves.BEST_OF_N, curves.RL, curves.LOG1P])
def test_fits_match_weighted_lstsq(law: curves.Law) -> None:
    g = Key(5).generator()
    d, gain, error = np.sort(g.uniform(0.4, 5, 9)), g.normal(0, 1, 9), g.uniform(0.1, 1, 9)
    design = np.stack([d, -d * law.bend(d)], axis=1) / error[:, None]
    expected = np.linalg.lstsq(design, gain / error, rcond=None)[0]
    found = curves.fit(law, d, gain, error)
    assert found is not None
    assert (found.alpha, found.beta) == pytest.approx(tuple(expected), rel=1e-8)
    many = curves.coefficients(law, np.stack([d, d]), np.stack([gain, 2 * gain]), 1 / error**2)
    assert many[0] == pytest.approx(expected[0] * np.array([1, 2]), rel=1e-8)
    assert many[1] == pytest.approx(expected[1] * np.array([1, 2]), rel=1e-8)


def test_a_gaussian_proxy_fits_without_a_bend() -> None:
    # gold of best-of-n under a jointly normal proxy is rho E[max of n]; close to alpha d with a small beta compared with a law that
    # peaks in range: it never turns over, so its fitted peak lies beyond the data
    n = np.array([2, 4, 8, 16, 64, 256])
    d = np.sqrt(bon.kl_nats(n))
    found = curves.fit(curves.BEST_OF_N, d, [bon.gaussian_gold(int(k), 0.7, 1.0) for k in n])
    assert found is not None
    top = curves.peak(curves.BEST_OF_N, found.alpha, found.beta)
    assert top is None or top[0] > 2 * d[-1]
