"""The ceiling of a reward model's accuracy: what the labels of several annotators allow, and how much of it is reached."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest

from trueup.core.rng import Key
from trueup.mismatch.reward_model.ceiling import QUESTION, ceiling, stated_ceiling
from trueup.mismatch.reward_model.question import Evidence
from trueup.mismatch.reward_model.scores import checked, pairs_of
from trueup.stats.estimate import Estimate


def scored(scores: Sequence[Sequence[float]], prompts: Sequence[str] | None = None) -> pd.DataFrame:
    rows = [
        {"model": "m", "item": f"i{i:05d}", "prompt_id": prompts[i] if prompts else f"p{i:05d}", "reply": j, "rating": -j, "score": s}
        for i, item in enumerate(scores)
        for j, s in enumerate(item)
    ]
    return checked(pd.DataFrame(rows))


def voted(votes: Sequence[Sequence[int]]) -> pd.DataFrame:
    rows = [(f"i{i:05d}", f"a{j}", v) for i, item in enumerate(votes) for j, v in enumerate(item)]
    return pd.DataFrame(rows, columns=["item", "annotator", "vote"])


def named(found: Sequence[Estimate]) -> dict[str, Estimate]:
    return {e.name: e for e in found}


SCORES = [(2.0, 1.0), (0.5, -3.0), (1.0, 0.0), (4.0, 4.0), (1.0, 0.0), (1.0, 0.0, 2.0)]
VOTES = [(1, 1, 1), (1, 1, -1), (-1, -1, -1), (1, 1, 0), (1,), (1, 1, 1)]


def test_by_hand() -> None:
    found = named(ceiling(scored(SCORES), voted(VOTES), Key(0)))
    # the fifth item has one label and the sixth three replies: neither counts. Against one label, ties as half:
    # 1, 2/3, 0, 1/2 (equal scores): 13/24. A majority would say 1, 1, 0, 1/2
    assert found["accuracy_one_label"].value == pytest.approx(13 / 24)
    # d^2 from pairs of votes: 1, (1 - 1 - 1) / 3, 1, (1 + 0 + 0) / 3: mean 1/2
    assert found["ceiling_low"].value == pytest.approx(0.75)
    assert found["ceiling_high"].value == pytest.approx((1 + math.sqrt(0.5)) / 2)
    assert found["attainable_share_high"].value == pytest.approx((1 / 24) / (1 / 4))
    assert found["attainable_share_low"].value == pytest.approx((1 / 24) / (math.sqrt(0.5) / 2))
    assert found["above_ceiling"].value == pytest.approx(13 / 24 - (1 + math.sqrt(0.5)) / 2)
    assert (found["annotators"].value, found["labels_per_pair"].value) == (3.0, 3.0)
    assert {e.n for e in found.values()} == {4}


def test_a_stated_agreement_by_hand() -> None:
    pairs = pairs_of(scored([(1.0, 0.0)] * 60 + [(0.0, 1.0)] * 40))
    found = named(stated_ceiling(pairs, 0.63, Key(0)))
    # the published example: .63 allows .63 to .755; 2 a - 1 = .26
    assert found["ceiling_low"].value == pytest.approx(0.63)
    assert found["ceiling_high"].value == pytest.approx((1 + math.sqrt(0.26)) / 2)
    assert found["attainable_share_high"].value == pytest.approx(0.1 / 0.13)
    assert found["attainable_share_low"].value == pytest.approx(0.1 / (math.sqrt(0.26) / 2))
    assert (found["ceiling_high"].low, found["agreement_stated"].value) == (None, 0.63)
    assert found["attainable_share_low"].low is not None
    assert "annotators" not in found


def test_prompts_are_the_unit_and_all_is_resampled_together() -> None:
    rows = scored(SCORES[:4] * 10, [f"p{i // 2}" for i in range(40)])
    found = named(ceiling(rows, voted(VOTES[:4] * 10), Key(3)))
    assert found["accuracy_one_label"].n == 20
    # a score that is right exactly where annotators are of one mind: in every resample it reaches the same share of the low end
    clear, coin = ((1.0, 0.0), (1, 1)), ((1.0, 1.0), (1, -1))
    items = [clear, coin, clear] * 20
    same = named(ceiling(scored([s for s, _ in items]), voted([v for _, v in items]), Key(0)))
    # d^2 is 1, -1, 1: mean 1/3, low end 2/3; accuracy (1 + 1/2 + 1) / 3 = 5/6
    assert same["attainable_share_high"].value == pytest.approx((1 / 3) / (1 / 6))
    share, low = same["attainable_share_high"], same["ceiling_low"]
    assert low.low is not None
    assert low.high is not None
    assert share.low is not None
    # with k clear items of n the share is (k / 2n) / ((2k - n) / 2n) = k / (2k - n), which falls with the ceiling: (2k - n) / n = 2 low - 1
    for end, other in ((share.low, low.high), (share.high, low.low)):
        clear_share = ((2 * other - 1) + 1) / 2
        assert end == pytest.approx(clear_share / (2 * clear_share - 1), rel=1e-2)


def drawn(p: np.ndarray, annotators: int, seed: int) -> list[tuple[int, ...]]:
    rng = np.random.default_rng(seed)
    return [tuple(int(x) for x in np.where(rng.random(annotators) < q, 1, -1)) for q in p]


def test_the_best_score_lies_between_the_ends() -> None:
    # logits of N(0, 2^2): the best accuracy is .778, agreement .697, so the interval is .697 to .814
    rng = np.random.default_rng(1)
    logit = 2 * rng.standard_normal(6000)
    votes = voted(drawn(1 / (1 + np.exp(-logit)), 2, 2))
    found = named(ceiling(scored([(float(x), 0.0) for x in logit]), votes, Key(0)))
    for name, expected in (("accuracy_one_label", 0.778), ("ceiling_low", 0.697), ("ceiling_high", 0.814)):
        e = found[name]
        assert e.value is not None
        assert e.low is not None
        assert e.high is not None
        assert abs(e.value - expected) < 2 * (e.high - e.low), name  # eight standard errors or so
        assert e.high - e.low < 0.04
    low, high = found["attainable_share_low"].value, found["attainable_share_high"].value
    assert low is not None
    assert high is not None
    assert low < 1 < high


def test_the_order_of_replies_means_nothing() -> None:
    turned = [s[::-1] for s in SCORES[:4]]
    a = ceiling(scored(SCORES[:4]), voted(VOTES[:4]), Key(0))
    b = ceiling(scored(turned), voted([tuple(-v for v in item) for item in VOTES[:4]]), Key(0))
    assert [(e.name, e.value, e.low, e.high) for e in a] == [(e.name, e.value, e.low, e.high) for e in b]


def test_the_question() -> None:
    rows = scored(SCORES[:4] * 10)
    assert QUESTION.answer(Evidence(model="m", rows=rows)).verdict == "not enough data"
    one_label = voted([(1,)] * 40)
    assert QUESTION.answer(Evidence(model="m", rows=rows, votes=one_label)).verdict == "not enough data"
    stated = QUESTION.answer(Evidence(model="m", rows=rows, votes=one_label, agreement=0.9))
    assert {e.name for e in stated.estimates} >= {"agreement_stated", "ceiling_low"}
    fair = QUESTION.answer(Evidence(model="m", rows=rows, votes=voted(VOTES[:4] * 10)))
    assert fair.verdict == "quiet"
    assert "ceiling is 0.75" in fair.rule


def test_a_score_that_has_seen_the_labels_is_told() -> None:
    # two annotators, each right with chance 3/4: the best is .75; the sum of their own votes is right on 5/8 + 3/8 / 2 = .8125 of them
    votes = drawn(np.full(1000, 0.75), 2, 5)
    seen = scored([(float(sum(v)), 0.0) for v in votes])
    answer = QUESTION.answer(Evidence(model="m", rows=seen, votes=voted(votes)))
    assert answer.verdict == "alarm"
    honest = QUESTION.answer(Evidence(model="m", rows=scored([(1.0, 0.0)] * 1000), votes=voted(votes)))
    assert honest.verdict == "quiet"
