"""Calibration by hand: four pairs, and the limits of the definitions."""

from __future__ import annotations

import numpy as np
import pytest

from trueup.core.rng import Key
from trueup.stats import calibration as c

LOG3 = np.log(3.0)
"""sigma(log 3) = 3/4."""


def test_a_score_of_nothing_is_calibrated() -> None:
    # r = 0: sigma = 1/2 for every pair; in both orders the outcomes average 1/2
    delta, outcome = np.zeros(6), np.array([1, 1, 1, 1, 1, 0])
    assert c.reliability(delta, outcome).ece == pytest.approx(0, abs=1e-15)
    assert c.brier(delta, outcome).mean() == pytest.approx(0.25, abs=1e-15)
    assert c.nll_nats(delta, outcome) == pytest.approx(np.full(6, np.log(2)), abs=1e-15)


def test_ece_brier_and_nll_of_four_pairs() -> None:
    # delta = log 3 (p = 3/4) four times, three... two won, two lost. Both orders: at p = 3/4 frequency 1/2, at p = 1/4 frequency 1/2;
    # ECE = 1/4. Brier = ((1/4)^2 + (3/4)^2)/2 = 5/16. NLL = (-log 3/4 - log 1/4)/2
    delta, outcome = np.full(4, LOG3), np.array([1, 1, 0, 0])
    for edges in ("width", "mass"):
        assert c.reliability(delta, outcome, 10, edges).ece == pytest.approx(0.25, abs=1e-12)
    assert c.brier(delta, outcome).mean() == pytest.approx(5 / 16, abs=1e-12)
    assert c.nll_nats(delta, outcome).mean() == pytest.approx(-(np.log(0.75) + np.log(0.25)) / 2, abs=1e-12)


def test_perfect_frequencies_have_no_error() -> None:
    # p = 3/4 and three of four won
    assert c.reliability(np.full(4, LOG3), [1, 1, 1, 0]).ece == pytest.approx(0, abs=1e-12)


def test_murphy_by_hand() -> None:
    # p = 3/4 four times with frequency 1/2, both orders: reliability (1/4)^2, resolution 0 (frequency = base rate 1/2),
    # uncertainty 1/4; 1/16 - 0 + 1/4 = 5/16 = Brier; forecasts of a bin are equal, so nothing is hidden within bins
    m = c.murphy(np.full(4, LOG3), [1, 1, 0, 0])
    assert (m.reliability, m.resolution, m.uncertainty, m.within_bins) == pytest.approx((1 / 16, 0, 1 / 4, 0), abs=1e-12)
    assert m.brier == pytest.approx(5 / 16, abs=1e-12)


def test_murphy_credits_forecasts_that_tell_apart() -> None:
    # p = 3/4, always won: frequency 1 and, in the other order, 0; resolution (1/2)^2, reliability (1/4)^2, Brier (1/4)^2
    m = c.murphy(np.full(4, LOG3), [1, 1, 1, 1])
    assert (m.reliability, m.resolution, m.uncertainty, m.brier) == pytest.approx((1 / 16, 1 / 4, 1 / 4, 1 / 16), abs=1e-12)


def test_order_of_the_pair_does_not_matter() -> None:
    g = Key(1).generator()
    delta, outcome = g.normal(0, 1, 50), g.integers(0, 2, 50).astype(float)
    flip = g.random(50) < 0.5
    swapped = np.where(flip, -delta, delta), np.where(flip, 1 - outcome, outcome)
    for edges in ("width", "mass"):
        first, second = c.reliability(delta, outcome, 7, edges), c.reliability(*swapped, 7, edges)
        assert first.ece == pytest.approx(second.ece, abs=1e-12)
        # the diagram is symmetric about (1/2, 1/2)
        assert first.confidence + first.confidence[::-1] == pytest.approx(np.ones(len(first.count)), abs=1e-12)
        assert first.frequency + first.frequency[::-1] == pytest.approx(np.ones(len(first.count)), abs=1e-12)


def test_temperature_by_hand() -> None:
    # all deltas equal d, share w won: the best T has sigma(d/T) = w. d = 2, w = 3/4: T = 2 / log 3
    assert c.fit_temperature(np.full(8, 2.0), [1, 1, 1, 0] * 2) == pytest.approx(2 / LOG3, rel=1e-9)


def test_no_temperature_where_none_is_best() -> None:
    assert c.fit_temperature([1.0, 2.0], [1, 1]) is None  # always right: T -> 0
    assert c.fit_temperature([1.0, 1.0], [1, 0]) is None  # chance: T -> infinity
    assert c.fit_temperature([0.0, 0.0], [1, 0]) is None  # nothing to scale
    assert c.fit_temperature([], []) is None


def test_equal_mass_bins_hold_equal_numbers() -> None:
    p = np.linspace(0.01, 0.99, 100)
    assert np.bincount(c.bin_of(p, 4, "mass")).tolist() == [25, 25, 25, 25]
    assert np.bincount(c.bin_of(p, 5, "mass")).tolist() == [20, 20, 20, 20, 20]


def test_equal_width_bins_and_their_edges() -> None:
    # four bins: .25 and .75 are edges and go towards 1/2, 1/2 itself is in one bin
    p = np.array([0.0, 0.2, 0.25, 0.4, 0.5, 0.6, 0.75, 0.8, 1.0])
    assert c.bin_of(p, 4, "width").tolist() == [0, 0, 1, 1, 2, 2, 2, 3, 3]
    assert c.bin_of(np.array([0.1, 0.4, 0.5, 0.6, 0.9]), 3, "width").tolist() == [0, 1, 1, 1, 2]


def test_empty_bins_are_left_out() -> None:
    # p = 3/4 and, in the other order, 1/4: two bins of fifteen
    table = c.reliability(np.full(4, LOG3), [1, 1, 0, 0])
    assert table.count.tolist() == [4, 4]
    assert table.confidence == pytest.approx([0.25, 0.75], abs=1e-12)
    assert table.frequency == pytest.approx([0.5, 0.5], abs=1e-12)
