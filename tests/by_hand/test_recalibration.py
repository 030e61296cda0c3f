"""Calibration maps: what they recover, what they leave, and what is stored."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import special
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from tests_support import WORDS, tiny_reward
from trueup.core.errors import UserError
from trueup.core.rng import Key
from trueup.data.rows import Reply
from trueup.rewards.calibrated import CALIBRATION_FILE, read_calibration, save_calibration, win_probability
from trueup.stats.calibration import both_orders, ece_under_calibration, fit_temperature, reliability
from trueup.stats.recalibration import LEAST_PAIRS, Calibration, fit_calibration, fit_calibrator


def pairs(n: int, seed: int, sharpness: float = 0.4) -> tuple[np.ndarray, np.ndarray]:
    """Over-confident scores: the chance is sigma(sharpness * difference)."""
    rng = np.random.default_rng(seed)
    delta = rng.normal(size=n) * 3
    return delta, (rng.random(n) < special.expit(sharpness * delta)).astype(float)


def test_temperature_is_the_one_that_fits() -> None:
    delta, outcome = pairs(400, 0)
    found = fit_calibrator(delta, outcome, "temperature")
    assert found is not None
    assert found.slope == pytest.approx(1 / (fit_temperature(delta, outcome) or 0))
    np.testing.assert_allclose(found.probability(delta), special.expit(found.slope * delta))
    assert found.n == 400


def test_platt_is_logistic_regression() -> None:
    delta, outcome = pairs(500, 1)
    outcome[:60] = 1.0  # the first place is preferred
    found = fit_calibrator(delta, outcome, "platt")
    expected = LogisticRegression(C=np.inf).fit(delta[:, None], outcome)
    assert found is not None
    assert found.slope == pytest.approx(expected.coef_[0, 0], abs=1e-3)
    assert found.intercept == pytest.approx(expected.intercept_[0], abs=1e-3)


def test_isotonic_is_pool_adjacent_violators_over_both_orders() -> None:
    delta, outcome = pairs(300, 2)
    delta[:20] = delta[20:40]  # equal differences share a level
    found = fit_calibrator(delta, outcome, "isotonic")
    assert found is not None
    d, y = both_orders(delta, outcome)
    expected = IsotonicRegression(out_of_bounds="clip").fit(d, y)
    grid = np.linspace(-12, 12, 300)
    np.testing.assert_allclose(found.probability(grid), expected.predict(grid), atol=1e-9)
    np.testing.assert_allclose(found.probability(grid) + found.probability(-grid), 1.0, atol=1e-9)
    assert len(found.knots) < len(d)
    assert found.n == 300
    assert np.all(np.diff(found.probability(grid)) >= 0)


@pytest.mark.parametrize("method", ["temperature", "platt", "isotonic"])
def test_calibration_error_falls_into_its_band(method: str) -> None:
    delta, outcome = pairs(4000, 3)
    fresh, result = pairs(4000, 4)
    before = reliability(fresh, result).ece
    assert before > np.quantile(ece_under_calibration(fresh, Key(0)), 0.999)
    found = fit_calibration(delta, outcome, method)  # type: ignore[arg-type]
    assert found is not None
    odds = special.logit(np.clip(found.probability(fresh), 1e-6, 1 - 1e-6))
    assert reliability(odds, result).ece < 0.25 * before
    if method != "isotonic":  # whose steps add noise of their own
        assert reliability(odds, result).ece < np.quantile(ece_under_calibration(odds, Key(1)), 0.999)
    # ranks are never touched
    order = np.argsort(fresh)
    assert np.all(np.diff(found.probability(fresh)[order]) >= 0)


def test_domains_have_maps_of_their_own() -> None:
    sharp, won_sharp = pairs(300, 5, sharpness=2.0)
    dull, won_dull = pairs(300, 6, sharpness=0.1)
    few, won_few = pairs(LEAST_PAIRS - 1, 7)
    delta = np.concatenate([sharp, dull, few])
    outcome = np.concatenate([won_sharp, won_dull, won_few])
    names = ["sharp"] * 300 + ["dull"] * 300 + ["few"] * len(few)
    found = fit_calibration(delta, outcome, domain=names)
    assert found is not None
    assert sorted(found.domains) == ["dull", "sharp"]
    assert found.domains["sharp"].slope > found.pooled.slope > found.domains["dull"].slope
    said = found.probability([1.0, 1.0, 1.0, 1.0], ["sharp", "dull", "few", "unknown"])
    assert said[0] > said[2] > said[1]
    assert said[2] == said[3] == found.pooled.probability([1.0])[0]
    assert found.probability([1.0])[0] == said[3]


def test_what_cannot_be_calibrated() -> None:
    assert fit_calibration([1.0, 2.0], [1, 1]) is None  # always right: no finite temperature
    assert fit_calibration([1.0, -1.0], [0, 1]) is None  # always wrong
    assert fit_calibration([0.0, 0.0], [0, 1]) is None


def test_it_is_kept_with_the_model(tmp_path: Path) -> None:
    assert read_calibration(tmp_path) is None
    for method in ("temperature", "platt", "isotonic"):
        delta, outcome = pairs(200, 8)
        made = fit_calibration(delta, outcome, method, ["a", "b"] * 100)  # type: ignore[arg-type]
        assert made is not None
        save_calibration(tmp_path, made)
        assert read_calibration(tmp_path) == made
    (tmp_path / CALIBRATION_FILE).write_text('{"pooled": {"method": "magic"}}')
    with pytest.raises(UserError, match="is no calibration"):
        read_calibration(tmp_path)


def test_the_chance_to_win() -> None:
    model = tiny_reward()
    prompts, first, second = ["ask"] * 3, [Reply(text=w) for w in WORDS[:3]], [Reply(text=w) for w in WORDS[1:4]]
    score = [model.score(model.encode(prompts, r)).detach().double().numpy() for r in (first, second)]
    made = fit_calibration(*pairs(200, 9))
    assert isinstance(made, Calibration)
    expected = special.expit(made.pooled.slope * (score[0] - score[1]))
    np.testing.assert_allclose(win_probability(model, made, prompts, first, second), expected, atol=1e-5)
