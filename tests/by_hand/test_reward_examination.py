"""Examination of scores: numbers worked out on paper, planted flaws, and what must not matter."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import special

from trueup.core.errors import UserError
from trueup.core.rng import Key
from trueup.mismatch.reward_model.accuracy import accuracy, accuracy_difference, best_of_several
from trueup.mismatch.reward_model.certainty import answer as certainty_answer
from trueup.mismatch.reward_model.certainty import certainty, diagram, under
from trueup.mismatch.reward_model.length import length
from trueup.mismatch.reward_model.question import Evidence
from trueup.mismatch.reward_model.scores import checked, pairs_of
from trueup.mismatch.reward_model.style import against_style
from trueup.stats.estimate import Estimate
from trueup.stats.recalibration import Calibration, Calibrator

KEY = Key(0)


def table(*items: tuple[str, str, list[tuple[float, float]]], model: str = "m", lengths: list[float] | None = None) -> pd.DataFrame:
    """Items of (prompt, domain, [(rating, score), ...])."""
    rows = [
        {"model": model, "item": f"i{k}", "prompt_id": prompt, "domain": domain, "reply": j, "rating": rating, "score": score}
        for k, (prompt, domain, replies) in enumerate(items)
        for j, (rating, score) in enumerate(replies)
    ]
    frame = pd.DataFrame(rows)
    return checked(frame if lengths is None else frame.assign(n_characters=lengths))


def by_name(found: list[Estimate]) -> dict[str, Estimate]:
    return {e.name: e for e in found}


def test_pairs_of_items() -> None:
    frame = table(("p", "a", [(0, 1.0), (1, 3.0), (1, 2.5)]), ("q", "b", [(1, 0.0), (0, 0.0)]), lengths=[4, 9, 6, 2, 3])
    pairs = pairs_of(frame)
    # item 0: second beats first, third beats first, second and third are tied
    assert pairs.delta.tolist() == [2.0, 1.5, 0.5, 0.0]
    assert pairs.tied.tolist() == [False, False, True, False]
    assert pairs.longer.tolist() == [5.0, 2.0, 3.0, -1.0]
    assert pairs.share.tolist() == [0.5, 0.5, 0.0, 1.0]
    assert pairs.correct[[0, 1, 3]].tolist() == [1.0, 1.0, 0.5]
    assert np.isnan(pairs.correct[2])
    assert pairs.prompt.tolist() == ["p", "p", "p", "q"]


def test_accuracy_counts_items_not_pairs() -> None:
    # one item of four replies (six pairs, all right), three of two replies (one right, one wrong, one of equal scores)
    frame = table(
        ("p", "", [(4, 4), (3, 3), (2, 2), (1, 1)]), ("q", "", [(1, 1), (0, 0)]), ("r", "", [(1, 0), (0, 1)]), ("s", "", [(1, 2), (0, 2)])
    )
    found = accuracy(pairs_of(frame), KEY)
    assert [e.name for e in found] == ["accuracy"]
    assert found[0].value == pytest.approx((1 + 1 + 0 + 0.5) / 4)
    assert found[0].n == 4
    assert found[0].low is not None


def test_domains_and_the_worst_one() -> None:
    right, wrong = [(1.0, 1.0), (0.0, 0.0)], [(1.0, 0.0), (0.0, 1.0)]
    items = [(f"a{i}", "chat", right) for i in range(9)] + [("a9", "chat", wrong)]
    items += [(f"b{i}", "code", right if i < 4 else wrong) for i in range(10)]
    found = by_name(accuracy(pairs_of(table(*items)), KEY))
    assert found["accuracy"].value == pytest.approx(13 / 20)
    assert found["accuracy chat"].value == pytest.approx(0.9)
    assert found["accuracy code"].value == pytest.approx(0.4)
    assert found["domain_mean"].value == pytest.approx(0.65)
    assert found["worst_domain"].value == pytest.approx(0.4)
    assert found["accuracy code"].n == 10
    assert found["worst_domain"].low is not None
    assert found["worst_domain"].low < 0.4


def test_best_of_several() -> None:
    frame = table(
        ("p", "", [(1, 5), (0, 1), (0, 2)]),  # the best has the highest score
        ("q", "", [(1, 1), (0, 5), (0, 2)]),  # it has not
        ("r", "", [(1, 3), (0, 3), (0, 2)]),  # it shares the highest
        ("s", "", [(1, 3), (1, 1), (0, 2)]),  # one of two best
        ("t", "", [(1, 9), (0, 0)]),  # a pair: not counted
        ("u", "", [(1, 9), (1, 0), (1, 2)]),  # all alike: not counted
    )
    found = best_of_several(frame, KEY)
    assert found is not None
    assert found.value == pytest.approx((1 + 0 + 0.5 + 1) / 4)
    assert found.n == 4
    assert best_of_several(table(("p", "", [(1, 1), (0, 0)])), KEY) is None


def test_style() -> None:
    # right replies score 0, wrong ones 0, and polish is worth 1 a step: equal styles tie, harder ones are lost, easier ones won
    rows = [
        {"model": "m", "item": f"i{k}", "prompt_id": f"p{k}", "reply": 3 * side + j, "rating": 1 - side, "score": float(j), "style": style}
        for k in range(4)
        for side in (0, 1)
        for j, style in enumerate(("concise", "detailed", "markdown"))
    ]
    frame = checked(pd.DataFrame(rows))
    found = by_name(against_style(pairs_of(frame), KEY))
    assert {n: e.value for n, e in found.items()} == {"style_easy": 1.0, "style_normal": 0.5, "style_hard": 0.0, "style_gap": 1.0}
    assert against_style(pairs_of(table(("p", "", [(1, 1), (0, 0)]))), KEY) == []


def test_length_by_hand() -> None:
    # two items of two: deviations of length -+1 and -+2, of score -+1 and +-1, of rating +-.5 and +-.5 (the better one first)
    frame = table(("p", "", [(1, 0.0), (0, 2.0)]), ("q", "", [(1, 2.0), (0, 0.0)]), lengths=[10, 12, 6, 10])
    found = by_name(length(frame, pairs_of(frame), KEY))
    # score-length: p 1*1*2, q -1*2*2: (2 - 4) / sqrt(4 * 10)
    assert found["length_correlation"].value == pytest.approx((2 - 4) / np.sqrt(4 * 10))
    assert found["length_correlation_labels"].value == pytest.approx((-1 - 2) / np.sqrt(1 * 10))
    sl, rl, sr = -2 / np.sqrt(40), -3 / np.sqrt(10), 0.0
    assert found["length_partial"].value == pytest.approx((sl - sr * rl) / np.sqrt((1 - sr**2) * (1 - rl**2)))
    assert found["longer_scores_higher"].value == 0.5
    assert found["longer_is_better"].value == 0.0
    assert found["accuracy_longer"].value is None
    assert found["accuracy_shorter"].value == 0.5
    assert length(table(("p", "", [(1, 1), (0, 0)])), pairs_of(table(("p", "", [(1, 1), (0, 0)]))), KEY) == []


def simulated(n: int, seed: int, liking: float = 0.0, sharpness: float = 1.0) -> pd.DataFrame:
    """Ratings drawn from quality, scores that are quality plus a liking for length, times a sharpness."""
    rng = np.random.default_rng(seed)
    quality, chars = rng.normal(size=(n, 2)), rng.normal(size=(n, 2))
    won = rng.random(n) < special.expit(quality[:, 0] - quality[:, 1])
    rows = []
    for i in range(n):
        for j in (0, 1):
            score = sharpness * (quality[i, j] + liking * chars[i, j])
            rows.append(("m", f"i{i}", f"p{i}", j, float(won[i] == (j == 0)), score, 100 + 10 * chars[i, j]))
    return checked(pd.DataFrame(rows, columns=["model", "item", "prompt_id", "reply", "rating", "score", "n_characters"]))


def test_a_liking_for_length_is_seen_and_a_sound_score_is_not_accused() -> None:
    sound = simulated(600, 1)
    found = by_name(length(sound, pairs_of(sound), KEY))
    assert not found["length_partial"].excludes(0)
    planted = simulated(600, 1, liking=0.7)
    found = by_name(length(planted, pairs_of(planted), KEY))
    assert found["length_partial"].excludes(0)
    assert found["length_partial"].value is not None
    assert found["length_partial"].value > 0.3
    assert found["accuracy_longer"].value > found["accuracy_shorter"].value  # type: ignore[operator]


def test_certainty_before_and_after() -> None:
    sharp = simulated(2000, 2, sharpness=3.0)
    found = by_name(certainty(pairs_of(sharp), KEY))
    assert 2.5 < found["temperature"].value < 3.5  # type: ignore[operator]
    for name in ("ece_width", "ece_mass"):
        assert found[name].value > found[name].high  # type: ignore[operator]
        assert found[f"{name}_after"].value < found[f"{name}_after"].high  # type: ignore[operator]
    assert found["nll_after"].value < found["nll"].value  # type: ignore[operator]
    # what the temperature cannot change: how well replies are told apart
    assert found["resolution_after"].value == pytest.approx(found["resolution"].value, abs=0.01)  # type: ignore[arg-type]
    calm = simulated(2000, 3)
    quiet = by_name(certainty(pairs_of(calm), KEY))
    assert quiet["ece_width"].value < quiet["ece_width"].high  # type: ignore[operator]
    perfect = table(*[(f"p{i}", "", [(1, 1.0), (0, 0.0)]) for i in range(6)])
    assert "ece_width_after" not in by_name(certainty(pairs_of(perfect), KEY))  # no finite temperature
    assert by_name(certainty(pairs_of(perfect), KEY))["temperature"].value is None


def test_the_map_kept_with_a_model_is_what_it_claims() -> None:
    # scores three times too sharp: slope 1/3 mends them, but not where a domain has a map of its own; an intercept, of the place, cancels
    sharp = simulated(2000, 2, sharpness=3.0)
    third, steep = Calibrator(method="platt", slope=1 / 3, intercept=0.7), Calibrator(method="temperature", slope=0.5)
    pairs = pairs_of(sharp)
    np.testing.assert_allclose(under(Calibration(pooled=third), pairs), pairs.delta / 3, atol=1e-6)
    named = {str(d): steep for d in set(pairs.domain.tolist())}
    np.testing.assert_allclose(under(Calibration(pooled=third, domains=named), pairs), 0.5 * pairs.delta, atol=1e-6)
    evidence = Evidence(model="m", rows=sharp, key=KEY)
    plain, mended = certainty_answer(evidence), certainty_answer(replace(evidence, calibration=Calibration(pooled=third)))
    assert (plain.verdict, mended.verdict) == ("alarm", "quiet")
    assert "map kept with the model" in mended.rule
    assert set(mended.series["scores"]) == {"as it is", "after temperature", "kept map"}
    # chances of 0 and 1 keep finite log-odds
    steps = Calibrator(method="isotonic", knots=(-1.0, 1.0), levels=(0.0, 1.0))
    assert np.isfinite(under(Calibration(pooled=steps), pairs)).all()


def test_one_pair_of_each_item_is_judged() -> None:
    # each item's three untied pairs have differences 1, 2 and 3; a fourth reply ties with the first
    frame = table(*[(f"p{i}", "", [(3, 3.0), (2, 2.0), (1, 0.0), (3, 9.0)]) for i in range(400)])
    found = by_name(certainty(pairs_of(frame), KEY))
    # one an item, untied: the mean of softplus(-difference) over the five untied pairs 1, 3, 2, 7 and 9
    costs = np.logaddexp(0, -np.array([1.0, 3.0, 2.0, 7.0, 9.0]))
    assert found["nll"].n == 400
    assert abs((found["nll"].value or 0) - costs.mean()) < 4 * costs.std() / 20
    assert found["temperature"].value is None  # never a tie, so the order is always right


def test_a_temperature_is_never_judged_on_what_it_was_fitted_to() -> None:
    # scores that say nothing: a temperature fitted to the very same pairs would never cost more than log 2 a pair, one of others does
    costs = []
    for seed in range(60):
        gaps = np.random.default_rng(seed).normal(size=24)
        found = by_name(certainty(pairs_of(table(*[(f"p{i}", "", [(1, g), (0, 0.0)]) for i, g in enumerate(gaps)])), KEY / seed))
        if "nll_after" in found:
            costs.append(found["nll_after"].value)
    assert len(costs) > 5
    assert np.mean(costs) > np.log(2)  # type: ignore[arg-type]


def test_two_models_are_compared_on_the_same_pairs() -> None:
    first, second = simulated(300, 4), simulated(300, 4, liking=3.0)
    gap = accuracy_difference(pairs_of(first), pairs_of(second), "gap", KEY)
    alone = [accuracy(pairs_of(f), KEY)[0] for f in (first, second)]
    assert gap.value == pytest.approx((alone[0].value or 0) - (alone[1].value or 0))
    assert gap.n == 300
    assert gap.excludes(0)
    same = accuracy_difference(pairs_of(first), pairs_of(first), "gap", KEY)
    assert (same.value, same.low, same.high) == (0.0, 0.0, 0.0)


def test_the_order_of_rows_and_a_shift_of_a_prompts_scores_do_not_matter() -> None:
    frame = simulated(200, 5, liking=0.3)
    shuffled = checked(frame.sample(frac=1, random_state=0))
    moved = frame.assign(score=frame["score"] + frame["prompt_id"].map(lambda p: float(len(p)) * 7))
    for other in (shuffled, moved):
        for a, b in (
            (accuracy(pairs_of(frame), KEY), accuracy(pairs_of(other), KEY)),
            (length(frame, pairs_of(frame), KEY), length(other, pairs_of(other), KEY)),
        ):
            for x, y in zip(a, b, strict=True):
                assert x.value == pytest.approx(y.value), x.name


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda f: f.drop(columns="score").assign(scoer=0.0), "lacks the column 'score'. Did you mean 'scoer'?"),
        (lambda f: f.assign(score="x"), "'score' must be a number, got 'x' in row 1"),
        (lambda f: f.assign(rating=np.nan), "'rating' must be a number"),
        (lambda f: pd.concat([f, f.head(1)]), "has two scores of model 'm'"),
        (lambda f: pd.concat([f, f.head(3).assign(model="n")]), "have scores of different replies, such as in item 'i1'"),
    ],
)
def test_tables_that_cannot_be_read(change: object, said: str) -> None:
    frame = table(("p", "", [(1, 1.0), (0, 0.0)]), ("q", "", [(1, 1.0), (0, 0.0)]))
    with pytest.raises(UserError) as caught:
        checked(change(frame), "scores.csv")  # type: ignore[operator]
    assert said in str(caught.value)
    assert caught.value.where == "scores.csv"


def test_the_diagram_of_equal_scores_has_two_bins() -> None:
    # every better reply scores log 3 more: the forecast is 3/4 that it wins, and 1/4 in the other order; it always wins
    frame = table(*[(f"p{k}", "", [(1.0, math.log(3)), (0.0, 0.0)]) for k in range(40)])
    found = diagram(pairs_of(frame), KEY)
    plain = [i for i, name in enumerate(found["scores"]) if name == "as it is"]
    assert [found["forecast"][i] for i in plain] == pytest.approx([1 / 4, 3 / 4])
    assert [found["observed"][i] for i in plain] == pytest.approx([0.0, 1.0])
    assert [found["pairs"][i] for i in plain] == [40, 40]
