"""Regression on differences, imprint and debt, slopes of domains: on paper, and where the truth was planted."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import special

from trueup.core.rng import Key
from trueup.mismatch.features import FEATURES, features
from trueup.mismatch.reward_model import accuracy, imprint, length
from trueup.mismatch.reward_model.imprint import differences, lean, leans
from trueup.mismatch.reward_model.question import CardSettings, Evidence
from trueup.mismatch.reward_model.scores import checked, pairs_of
from trueup.stats.logistic import least_squares, logistic, wald

KEY = Key(0)


def test_logistic_of_one_column() -> None:
    # three of four won: sigmoid(beta) = 3/4. Information 4 * 3/16 = 3/4; squared residuals 3/16 + 9/16 = 3/4;
    # sandwich (4/3) (3/4) (4/3) * 4/3 = 16/9
    fit = logistic(np.ones((4, 1)), np.array([1, 1, 1, 0.0]), np.arange(4))
    assert fit is not None
    assert fit.coefficient[0] == pytest.approx(np.log(3), abs=1e-9)
    assert fit.covariance[0, 0] == pytest.approx(16 / 9, abs=1e-9)
    # swapping the sides of a pair changes nothing, and neither does writing a row as two of half the weight
    turned = logistic(np.array([[1], [1], [-1], [1.0]]), np.array([1, 1, 0, 0.0]), np.arange(4))
    halved = logistic(np.ones((5, 1)), np.array([1, 1, 1, 0, 0.0]), np.array([0, 1, 2, 3, 3]), np.array([1, 1, 1, 0.5, 0.5]))
    for other in (turned, halved):
        assert other is not None
        assert other.coefficient[0] == pytest.approx(np.log(3), abs=1e-9)
        assert other.covariance[0, 0] == pytest.approx(16 / 9, abs=1e-9)


def test_ties_and_clusters() -> None:
    # a tie is half a win and half a loss: 2 1/2 of 4 won
    fit = logistic(np.ones((4, 1)), np.array([1, 1, 0.5, 0]), np.arange(4))
    assert fit is not None
    assert fit.coefficient[0] == pytest.approx(np.log(2.5 / 1.5), abs=1e-9)
    # two clusters of (won, won) and (won, lost), p = 3/4: sums of residuals 1/2 and -1/2, squares 1/2; (4/3)^2 / 2 * 2/1 = 16/9
    both = logistic(np.ones((4, 1)), np.array([1, 1, 1, 0.0]), np.array([0, 0, 1, 1]))
    assert both is not None
    assert both.clusters == 2
    assert both.covariance[0, 0] == pytest.approx(16 / 9, abs=1e-9)


def test_no_maximum_is_told() -> None:
    x = np.array([[1.0], [2.0], [-1.0]])
    assert logistic(x, np.array([1, 1, 0.0]), np.arange(3)) is None  # separated: the likelihood climbs for ever
    assert logistic(np.column_stack([x, 2 * x]), np.array([1, 0, 1.0]), np.arange(3)) is None  # one column twice
    assert logistic(x, np.array([1, 0, 0.0]), np.zeros(3)) is None  # one cluster says nothing of its own variance
    assert least_squares(np.column_stack([x, 2 * x]), x[:, 0], np.arange(3)) is None


def test_least_squares_and_wald() -> None:
    # x = (1, 2), y = (1, 3): slope 7/5; residuals -2/5, 1/5; squares of x e: 4/25, 4/25; over 25, times 2: 16/625
    fit = least_squares(np.array([[1.0], [2.0]]), np.array([1.0, 3.0]), np.arange(2))
    assert fit is not None
    assert fit.coefficient[0] == pytest.approx(7 / 5)
    assert fit.covariance[0, 0] == pytest.approx(16 / 625)
    # Student's t with one degree of freedom at 50 %: the upper quartile of a Cauchy is 1, so that limits are one standard error away
    twice = wald("w", 14 / 5, np.array([2.0]), fit, "sd", 0.5)
    assert (twice.low, twice.high) == (pytest.approx(14 / 5 - 8 / 25), pytest.approx(14 / 5 + 8 / 25))


def judged(n: int, score: float, noise: float, pay: float, quality: float = 0.0, seed: int = 0) -> pd.DataFrame:
    """Pairs on n prompts: gold differs by ``quality`` f + u, the score by ``score`` (gold + ``pay`` f + noise); labels follow gold."""
    rng = np.random.default_rng(seed)
    f, u = rng.integers(-2, 3, n).astype(float), rng.normal(size=n)
    gold = quality * f + u
    won = rng.random(n) < special.expit(2 * gold)
    delta = score * (gold + pay * f + noise * rng.normal(size=n))
    rows = pd.DataFrame({"item": np.repeat(np.arange(n), 2), "reply": np.tile([0, 1], n)})
    rows = rows.assign(model="m", prompt_id=rows["item"], rating=np.stack([won, ~won], 1).ravel().astype(float))
    rows["score"] = np.stack([delta, 0 * delta], 1).ravel()
    rows["feature_politeness"] = np.stack([f + 2, 0 * f + 2], 1).ravel()
    rows["feature_hedging"] = rng.integers(0, 3, 2 * n).astype(float)
    rows["n_characters"] = 10 * rows["feature_politeness"]
    return checked(rows)


def test_imprint_and_debt_of_a_planted_lean() -> None:
    # no noise and no quality: r = u + f pay, so that debt is -pay in units of score; both in standard deviations of differences
    frame = judged(4000, 1.0, 0.0, 0.5)
    pairs = pairs_of(frame)
    values = differences(frame, pairs)
    found = {x.feature: x for x in leans(values, pairs, 0.95)}
    # f is uniform on -2..2: variance 2; so the score's is 1 + 2/4, and half an f is sqrt(2)/2 of sqrt(1.5): 0.577
    size = 0.5 * np.sqrt(2) / np.sqrt(1.5)
    for estimate, sign in ((found["politeness"].imprint, 1), (found["politeness"].debt, -1)):
        assert estimate.low is not None
        assert estimate.high is not None
        assert estimate.low <= sign * size <= estimate.high
        assert estimate.high - estimate.low < 0.2
    assert not found["hedging"].imprint.excludes(0) or not found["hedging"].debt.excludes(0)
    assert found["politeness"].shown(0.25)
    assert "for politeness" in found["politeness"].sentence()


def test_a_feature_that_repeats_others_is_left_out() -> None:
    frame = judged(400, 1.0, 0.5, 0.5)
    pairs = pairs_of(frame)
    values = differences(frame, pairs)
    alone = {x.feature: x.imprint.value for x in leans(values, pairs, 0.95)}
    more = leans({**values, "sum": values["politeness"] + values["hedging"]}, pairs, 0.95)
    assert {x.feature: x.imprint.value for x in more} == alone


@pytest.mark.parametrize("quality", [0.5, -0.5])
def test_a_noisy_score_is_not_a_biased_one(quality: float) -> None:
    # the score sees gold through noise: labels owe f more than the score pays, on the same side
    frame = judged(4000, 1.0, 2.0, 0.0, quality)
    one = lean("politeness", differences(frame, pairs_of(frame))["politeness"], pairs_of(frame), 0.95)
    assert one is not None
    assert one.debt.excludes(0)
    assert np.sign(one.debt.value or 0) == np.sign(one.imprint.value or 0) == np.sign(quality)
    assert one.weight == 0.0
    assert not one.shown(0.0)


def test_the_least_weight_never_exceeds_the_planted_one() -> None:
    # with noise 1, gold 0.3 f + u and 0.6 f paid: the score's variance is 1 + 1 + 2 * 0.9^2 = 3.62
    frame = judged(20_000, 1.0, 1.0, 0.6, 0.3)
    one = lean("politeness", differences(frame, pairs_of(frame))["politeness"], pairs_of(frame), 0.95)
    assert one is not None
    assert one.shown(0.1)
    assert 0 < one.weight <= 0.6 * np.sqrt(2) / np.sqrt(3.62) + 0.01


def test_questions_answer_with_the_lean() -> None:
    sound, bent = (Evidence(model="m", rows=judged(800, 2.0, 0.5, pay), key=KEY) for pay in (0.0, 0.8))
    for question in (imprint.QUESTION, length.QUESTION):
        assert question.answer(sound).verdict == "quiet"
        assert question.answer(bent).verdict == "alarm"
    assert "politeness" in imprint.QUESTION.answer(bent).rule
    lenient = Evidence(model="m", rows=bent.rows, settings=CardSettings(min_lean=2.0), key=KEY)
    assert imprint.QUESTION.answer(lenient).verdict == "quiet"
    bare = bent.rows.drop(columns=["feature_politeness", "feature_hedging"])
    assert imprint.QUESTION.answer(Evidence(model="m", rows=bare, key=KEY)).verdict == "not enough data"


def test_a_domain_where_the_score_means_less() -> None:
    frames = [judged(600, 5.0, 0.0, 0.0, seed=1).assign(domain="a"), judged(600, 5.0, 0.0, 0.0, seed=2).assign(domain="b")]
    frames[1]["item"], frames[1]["prompt_id"] = "b" + frames[1]["item"], "b" + frames[1]["prompt_id"]
    sound = checked(pd.concat(frames))
    # the same scores, thrice as large in one domain: they mean a third there
    broken = sound.assign(score=np.where(sound["domain"] == "b", 3.0, 1.0) * sound["score"])
    assert accuracy.QUESTION.answer(Evidence(model="m", rows=sound, key=KEY)).verdict == "quiet"
    found = accuracy.QUESTION.answer(Evidence(model="m", rows=broken, key=KEY))
    assert found.verdict == "alarm"
    slope = next(e for e in found.estimates if e.name == "slope b")
    assert slope.low is not None
    assert slope.high is not None
    assert slope.low < 1 / 3 - 1 / 2 < slope.high < 0


def test_features_of_a_text() -> None:
    text = "Thank you for asking! I think **it** may be 12.5 or 7.\n- one\n2) two\nI am sorry, i cannot help. Great question?"
    found = features(text)
    assert set(found) == set(FEATURES)
    assert {n: found[n] for n in ("politeness", "hedging", "numbers", "list_items", "exclamations", "questions")} == {
        "politeness": 1, "hedging": 2, "numbers": 3, "list_items": 2, "exclamations": 1, "questions": 1,
    }  # fmt: skip
    assert {n: found[n] for n in ("apology", "refusal", "flattery", "emphasis", "first_person", "disclaimers")} == {
        "apology": 1, "refusal": 1, "flattery": 1, "emphasis": 2, "first_person": 3, "disclaimers": 0,
    }  # fmt: skip
    # "go on" and "on go" and "go on": one bigram comes twice
    assert features("go on go on")["repetition"] == 1
    assert features("") == dict.fromkeys(FEATURES, 0.0)


def test_a_domain_that_is_less_accurate() -> None:
    # 40 prompts a domain: all right in a, every second right in b, so that the gap of b is -1/2 whatever is drawn of a
    rows = [(f"{d}{k}", d, 1.0, 1.0 if d == "a" or k % 2 else -1.0) for d in "ab" for k in range(40)]
    frame = pd.DataFrame([{"item": i, "prompt_id": i, "domain": d, "model": "m", "reply": j, "rating": 1.0 - j, "score": x * (1 - j)}
                          for i, d, _, x in rows for j in range(2)])  # fmt: skip
    pairs = pairs_of(checked(frame))
    found = {e.name: e for e in accuracy.gaps(pairs, 0.99, KEY)}
    assert found["gap b"].value == pytest.approx(-1 / 2)
    assert found["gap a"].value == pytest.approx(1 / 2)
    # the share of b in a resample of 40 prompts has a standard error of 1/2 / sqrt(40) = 0.079
    assert found["gap b"].high is not None
    assert -0.5 + 2 * 0.079 < found["gap b"].high < -0.5 + 3.5 * 0.079
    assert accuracy.QUESTION.answer(Evidence(model="m", rows=checked(frame), key=KEY)).verdict == "alarm"
    wide = CardSettings(max_domain_gap=0.6)
    assert accuracy.QUESTION.answer(Evidence(model="m", rows=checked(frame), settings=wide, key=KEY)).verdict == "quiet"


def test_worse_than_chance_where_the_shorter_reply_is_better() -> None:
    # the longer reply is better in every second pair, and gets the higher score in every one
    rows = [
        {"item": k, "prompt_id": k, "reply": j, "rating": float((j == 0) == (k % 2 == 0)), "score": 1.0 - j, "n_characters": 20.0 - j}
        for k in range(400)
        for j in range(2)
    ]
    rows = [{**r, "model": "m"} for r in rows]
    evidence = Evidence(model="m", rows=checked(pd.DataFrame(rows)), key=KEY)
    found = length.length(evidence.rows, evidence.pairs, KEY)
    lost = length.worse_than_chance(evidence, found)
    assert lost is not None
    assert (lost.name, lost.value, lost.n) == ("accuracy_shorter", 0.0, 200)
    assert "shorter" in length.QUESTION.answer(evidence).rule
    # labels that favour length themselves (three quarters): a noisy score may be below chance on the rest
    favoured = [{**r, "rating": float((r["reply"] == 0) == (r["item"] % 4 != 0))} for r in rows]
    evidence = Evidence(model="m", rows=checked(pd.DataFrame(favoured)), key=KEY)
    assert length.worse_than_chance(evidence, length.length(evidence.rows, evidence.pairs, KEY)) is None
