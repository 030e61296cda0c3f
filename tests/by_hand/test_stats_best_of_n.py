"""Best-of-n: golden numbers, each derived beside it."""

from __future__ import annotations

import numpy as np
import pytest

from trueup.stats import best_of_n as bon


def test_kl_formula() -> None:
    # log 2 - 1/2; log 4 - 3/4; log 16 - 15/16; log 64 - 63/64; log 1000 - .999; log 12500 - .99992; log 60000 - 59999/60000
    n = [2, 4, 16, 64, 1000, 12500, 60000]
    expected = [0.1931472, 0.6362944, 1.8350887, 3.1745081, 5.9087553, 8.4335639, 10.0021165]
    assert bon.kl_nats(n) == pytest.approx(expected, abs=5e-8)
    assert np.sqrt(bon.kl_nats(n)) == pytest.approx([0.4394851, 0.7976806, 1.3546545, 1.7817149, 2.4307931, 2.9040599, 3.1626123], abs=5e-8)


def test_exact_kl_of_ten_equal_replies_is_below_the_formula() -> None:
    # best of 2 of ten equiprobable replies is the k-th lowest with probability (k^2 - (k-1)^2)/100 = (2k-1)/100:
    # KL = sum_k (2k-1)/100 log((2k-1)/10); for n = 4, (k^4 - (k-1)^4)/10^4 log of ten times that
    p, score = np.full(10, 0.1), np.arange(10)
    assert bon.exact_kl_nats(p, score, 2) == pytest.approx(0.1893182, abs=5e-8)
    assert bon.exact_kl_nats(p, score, 4) == pytest.approx(0.6288251, abs=5e-8)
    assert bon.exact_kl_nats(p, score, 4) < bon.kl_nats(4)


def test_exact_kl_splits_ties_by_base_probability() -> None:
    # scores (0, 1, 1) with p = (.5, .3, .2): best of 2 is the low one with .25; the tied group has .75 and keeps its proportions,
    # so KL = .25 log(.25/.5) + .75 log(.75/.5)
    expected = 0.25 * np.log(0.5) + 0.75 * np.log(1.5)
    assert bon.exact_kl_nats([0.5, 0.3, 0.2], [0, 1, 1], 2) == pytest.approx(expected, abs=1e-12)


def test_expected_maximum() -> None:
    # n = 2: 1/sqrt(pi) = .5641896; n = 3: 3/(2 sqrt(pi)) = .8462844; the others by quadrature of n x phi(x) Phi(x)^(n-1)
    expected = {1: 0.0, 2: 0.5641896, 3: 0.8462844, 4: 1.0293754, 8: 1.4236003, 16: 1.7659914}
    for n, value in expected.items():
        assert bon.expected_maximum(n) == pytest.approx(value, abs=1e-7)


def test_estimator() -> None:
    # proxy ascending .1 .2 .5 .9 with gold 1 2 3 0. n=1: mean 6/4. n=2: weights C(i-1,1)/C(4,2) = (0,1,2,3)/6: (2 + 6 + 0)/6 = 4/3.
    # n=3: (0,0,1,3)/4: 3/4. n=4: the argmax, 0. Proxy: 1.7/4; (.2+1+2.7)/6 = .65; (.5+2.7)/4 = .8; .9
    proxy, gold = [0.1, 0.5, 0.2, 0.9], [1.0, 3.0, 2.0, 0.0]
    assert bon.best_of_n(proxy, gold, [1, 2, 3, 4]) == pytest.approx([1.5, 4 / 3, 0.75, 0.0], abs=1e-12)
    assert bon.best_of_n(proxy, proxy, [1, 2, 3, 4]) == pytest.approx([0.425, 0.65, 0.8, 0.9], abs=1e-12)


def test_estimator_with_ties_takes_their_mean() -> None:
    # the best two share proxy 2 with gold 0 and 4, hence 2 each: n = 3 is always one of them: 2; n = 2 over the pairs
    # {1,2a} {1,2b} {2a,2b} each gives 2 on average: 2
    assert bon.best_of_n([1, 2, 2], [9, 0, 4], [2, 3]) == pytest.approx([2.0, 2.0], abs=1e-12)


def test_rank_weights_refuse_more_than_there_is() -> None:
    with pytest.raises(ValueError, match="best-of-5"):
        bon.rank_weights(4, 5)


def test_win_rate() -> None:
    # the best of n+1 draws is equally likely to be any: it is the lone base sample with 1/(n+1)
    assert bon.win_rate([2, 4, 16]) == pytest.approx([2 / 3, 4 / 5, 16 / 17], abs=1e-15)


def test_gaussian_links() -> None:
    # rho = 1/sqrt(2): arcsin = pi/4, so accuracy = 1/2 + 1/4; gold@16 = 1.7659914 / sqrt(2) = 1.2487
    rho = 1 / np.sqrt(2)
    assert bon.accuracy_from_correlation(rho) == pytest.approx(0.75, abs=1e-15)
    assert bon.correlation_from_accuracy(0.75) == pytest.approx(rho, abs=1e-15)
    assert bon.gaussian_gold(16, rho, 1.0) == pytest.approx(1.2487, abs=5e-5)
