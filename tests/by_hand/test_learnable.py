"""The part of a score that words explain: counts by hand, a known line in noise, and where there is nothing to explain."""

from __future__ import annotations

import numpy as np
import pytest

from trueup.core.rng import Key
from trueup.mismatch.reward_model.learnable import PENALTIES, _cross_validated, learnable, word_counts


def test_words_are_counted() -> None:
    texts = ["Good good reply", "good", "", "rare"]
    # 'good' stands in two of them, the others in one; the last column counts words
    assert word_counts(texts, least=2).tolist() == [[2, 3], [1, 1], [0, 0], [0, 1]]
    assert word_counts(texts, least=1, most=1).tolist() == word_counts(texts, least=2).tolist()
    assert word_counts(texts, least=5).tolist() == [[3], [1], [0], [1]]


def test_a_line_in_words_is_found_and_noise_is_not() -> None:
    """Score = 2 x count of one word + noise of deviation 3: what is found is the line, less what the penalty takes."""
    g = Key(1).generator()
    counts = g.poisson(1.0, size=(60, 16, 5)).astype(float)
    line, noise = 2 * counts[:, :, 0], 3 * g.normal(size=(60, 16))
    prompt = 10 * g.normal(size=(60, 1))  # a prompt's own level is no part of it
    found = learnable((line + noise + prompt)[None], counts)[0]
    assert np.abs(found.mean(axis=1)).max() < 1e-9
    within = line - line.mean(axis=1, keepdims=True)
    # 960 replies: the slope's error is 3 / sqrt(900) = 0.1, and four words too many add as much each
    assert np.sqrt(((found - within) ** 2).mean()) < 0.35
    assert np.corrcoef(found.ravel(), noise.ravel())[0, 1] < 0.15
    # noise alone: next to nothing
    assert np.abs(learnable(noise[None], counts)).mean() < 0.5
    # several models share a penalty; one that words explain and one that they do not
    both = learnable(np.stack([line, noise]), counts)
    assert both[0].std() > 1.5
    assert both[1].std() < 1.0


def test_absent_replies_and_words_that_say_nothing() -> None:
    counts = np.zeros((3, 2, 1))
    score = np.array([[[1.0, 2.0], [3.0, np.nan], [0.0, 5.0]]])
    found = learnable(score, counts)
    assert np.isnan(found).tolist() == np.isnan(score).tolist()
    assert np.nanmax(np.abs(found)) == 0.0
    # what stands in the counts of an absent reply does not matter
    counts = Key(2).generator().normal(size=(3, 2, 1))
    other = counts.copy()
    other[1, 1] = 1e6
    np.testing.assert_array_equal(learnable(score, counts), learnable(score, other))


def test_cross_validation_by_hand() -> None:
    # one column of eigenvalue 4 and one score: X'y = 6, y'y = 10, 5 numbers free. Under penalty 4 the weight is 6/8, so what is left is
    # 10 - 2 (3/4) 6 + (3/4)^2 4 = 3.25, and 4/8 of a number is used: 3.25 / 4.5^2
    found = _cross_validated(4.0, np.array([4.0]), np.array([[6.0]]), np.array([10.0]), 5.0)
    assert found == pytest.approx(3.25 / 4.5**2)
    assert list(PENALTIES) == sorted(PENALTIES)
