"""Agreement and ceilings against textbook tables, closed forms and enumeration."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np
import pytest
from scipy import integrate, stats

from trueup.stats import agreement as agree
from trueup.stats.bootstrap import ratio
from trueup.stats.ceilings import attainable_share, ceiling_of_agreement, ceiling_of_moments, lower_ceiling, power_sums, upper_ceiling

# Fleiss's textbook table: 10 items, 14 raters, 5 categories
FLEISS = [[0, 0, 0, 0, 14], [0, 2, 6, 4, 2], [0, 0, 3, 5, 6], [0, 3, 9, 2, 0], [2, 2, 8, 1, 1],
          [7, 7, 0, 0, 0], [3, 2, 6, 3, 0], [2, 5, 3, 2, 2], [6, 5, 2, 1, 0], [0, 2, 2, 3, 7]]  # fmt: skip
# Krippendorff's: three raters, 15 units, a dot where a label is missing
KRIPPENDORFF = [".....34121133.3", "1.213343.......", "..21344.21133.4"]


def kappa(table: list[list[int]]) -> float:
    pairs = [(i, j) for i, row in enumerate(table) for j, n in enumerate(row) for _ in range(n)]
    first, second = np.array(pairs).T
    return float(agree.cohen_kappa(agree.confusion_sums(first, second, len(table)).sum(0)))


def test_cohen() -> None:
    # observed .7, expected (25 * 30 + 25 * 20) / 2500 = .5
    assert kappa([[20, 5], [10, 15]]) == pytest.approx(0.4, abs=1e-9)
    assert kappa([[25, 0], [0, 25]]) == pytest.approx(1.0)
    assert kappa([[0, 25], [25, 0]]) == pytest.approx(-1.0)
    assert np.isnan(kappa([[50, 0], [0, 0]]))  # both always say the same: chance agrees too


def test_cohen_reads_only_what_both_labelled() -> None:
    first, second = np.array([0, 1, 1, agree.ABSENT]), np.array([0, 1, agree.ABSENT, 0])
    assert agree.confusion_sums(first, second, 2).sum(0).tolist() == [1, 0, 0, 1]


def test_fleiss() -> None:
    counts = np.array(FLEISS, dtype=float)
    assert float(agree.fleiss_kappa(agree.fleiss_sums(counts).sum(0))) == pytest.approx(0.2099307, abs=1e-7)
    with_lonely = np.concatenate([counts, [[1.0, 0, 0, 0, 0]]])  # an item with one label says nothing
    assert float(agree.fleiss_kappa(agree.fleiss_sums(with_lonely).sum(0))) == pytest.approx(0.2099307, abs=1e-7)


def test_krippendorff() -> None:
    codes = np.array([[agree.ABSENT if c == "." else int(c) - 1 for c in row] for row in KRIPPENDORFF]).T
    counts = agree.vote_counts(codes, 4)
    sums = agree.coincidence_sums(counts).sum(0)
    assert float(agree.krippendorff_alpha(agree.nominal(4))(sums)) == pytest.approx(0.6913580, abs=1e-7)
    both = agree.krippendorff_alpha(agree.nominal(4))(np.stack([sums, 2 * np.eye(4).ravel()]))  # many resamples at a time
    assert both.tolist() == pytest.approx([0.6913580, 1.0], abs=1e-7)
    numbers = np.arange(4.0)
    interval = agree.krippendorff_alpha((numbers[:, None] - numbers) ** 2)
    # by pairs: observed over expected squared distance of pairable values
    values = [[v for v in row if v != agree.ABSENT] for row in codes]
    paired = [row for row in values if len(row) > 1]
    pooled = [v for row in paired for v in row]
    observed = sum(sum((a - b) ** 2 for a, b in product(row, row)) / (len(row) - 1) for row in paired) / len(pooled)
    expected = sum((a - b) ** 2 for a, b in product(pooled, pooled)) / (len(pooled) * (len(pooled) - 1))
    assert float(interval(sums)) == pytest.approx(1 - observed / expected, abs=1e-9)


def test_agreement_counts_pairs_of_annotators() -> None:
    # three labels 1 1 2: one of three pairs agrees; two labels 1 1: one of one
    counts = agree.vote_counts(np.array([[1, 1, 2], [1, 1, agree.ABSENT]]), 3)
    assert counts.tolist() == [[0, 2, 1], [0, 2, 0]]
    assert float(agree.agreement(agree.agreement_sums(counts).sum(0))) == pytest.approx(2 / 4)


@pytest.mark.parametrize(("agreement", "top"), [(0.6, 0.724), (0.63, 0.755), (0.7, 0.816), (0.726, 0.836), (0.773, 0.869), (0.81, 0.894)])
def test_the_ceiling_lies_above_the_agreement(agreement: float, top: float) -> None:
    low, high = ceiling_of_agreement(agreement)
    assert low == pytest.approx(agreement, abs=1e-12)
    assert high == pytest.approx(top, abs=1e-3)


def test_the_extremes_of_the_ceiling_are_reached() -> None:
    # half of the items unanimous, half coin flips: d is 1 or 0; E d = E d^2 = 1/2, c = 3/4 = agreement
    assert float(lower_ceiling(0.5)) == 0.75
    # all items with p = .8: d = .6, E d^2 = .36, c = .8
    assert float(upper_ceiling(0.36)) == pytest.approx(0.8)
    assert float(upper_ceiling(-0.1)) == 0.5  # an estimate may fall below 0


def test_powers_of_d_are_estimated_without_bias() -> None:
    # over all votes of m annotators with P(+1) = p, P(-1) = q, P(0) = 1 - p - q: mean of the estimate is (p - q)^power
    for (p, q), annotators, power in product([(0.8, 0.2), (0.5, 0.2)], (4, 5), (2, 4)):
        chance = {1.0: p, -1.0: q, 0.0: 1 - p - q}
        mean = sum(np.prod([chance[v] for v in row]) * power_sums([row], power)[0, 0] for row in product(chance, repeat=annotators))
        assert mean == pytest.approx((p - q) ** power, abs=1e-12)
    votes = [1.0, -1.0, 1.0, np.nan]
    assert power_sums([votes], 2)[0].tolist() == pytest.approx([-1 / 3, 1.0])  # products 1*-1, 1*1, -1*1
    assert power_sums([votes], 4)[0].tolist() == [0.0, 0.0]
    four = [1.0, -1.0, 1.0, 1.0, 1.0]
    assert power_sums([four], 4)[0, 0] == pytest.approx(np.mean([np.prod(c) for c in combinations(four, 4)]))
    with pytest.raises(ValueError, match="power 3"):
        power_sums([votes], 3)


def test_four_labels_narrow_the_ceiling() -> None:
    # logits N(0, 2^2): E d^2 and E d^4 by quadrature
    def mean(f: object) -> float:
        return float(integrate.quad(lambda z: f(abs(np.tanh(z / 2))) * stats.norm.pdf(z, 0, 2), -30, 30, limit=400)[0])  # type: ignore[operator]

    second, fourth, true = mean(lambda d: d**2), mean(lambda d: d**4), (1 + mean(lambda d: d)) / 2
    assert (float(lower_ceiling(second)), float(upper_ceiling(second))) == pytest.approx((0.697, 0.814), abs=1e-3)
    low, high = ceiling_of_moments(second, fourth)
    assert (low, high, true) == pytest.approx((0.746, 0.796, 0.778), abs=1e-3)
    # moments of one single d leave nothing open; moments that no distribution has are moved to the nearest
    assert ceiling_of_moments(0.36, 0.36**2) == pytest.approx((0.8, 0.8), abs=1e-6)
    assert ceiling_of_moments(0.36, 0.01) == pytest.approx((0.8, 0.8), abs=1e-6)
    assert ceiling_of_moments(0.5, 0.9) == pytest.approx((0.75, 0.75), abs=1e-6)
    assert ceiling_of_moments(1.4, 1.2) == pytest.approx((1.0, 1.0), abs=1e-9)
    assert ceiling_of_moments(0.0, 0.0) == pytest.approx((0.5, 0.5), abs=1e-9)


def test_attainable_share() -> None:
    assert attainable_share(0.62, 0.74) == pytest.approx(0.5)
    assert np.isnan(attainable_share(0.6, 0.5))
    assert float(ratio(np.array([1.0, 0.0]))) != float(ratio(np.array([1.0, 0.0])))  # nothing counted is absent
