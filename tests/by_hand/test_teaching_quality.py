"""Teaching quality: numbers worked out on paper, planted flaws, and tables that cannot be read."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import special

from trueup.core.errors import UserError
from trueup.core.rng import Key
from trueup.mismatch.reward_model import coverage, disagreement, own_pairs, predicted_gain, regret, teaching
from trueup.mismatch.reward_model.card import examine
from trueup.mismatch.reward_model.question import Answer, CardSettings, Evidence
from trueup.mismatch.reward_model.samples import checked_comparisons, checked_samples, compared_of, grid_of
from trueup.mismatch.reward_model.scores import checked
from trueup.stats.bootstrap import Array
from trueup.stats.tilting import tilt

KEY = Key(0)
FEW = CardSettings(min_prompts=2)


def samples(score: Array, *, policy: str = "reference", model: str = "m", **columns: Any) -> pd.DataFrame:
    """A table from [P, K] arrays."""
    prompts, count = np.shape(score)
    table = {"prompt_id": np.repeat([f"p{i:03d}" for i in range(prompts)], count), "sample": np.tile(np.arange(count), prompts)}
    return pd.DataFrame(
        {"model": model, "policy": policy, **table, "score": np.ravel(score), **{k: np.ravel(v) for k, v in columns.items()}}
    )


def judged(model: str = "m", prompts: int = 40, right: int = 30) -> pd.DataFrame:
    """One pair a prompt, of which the first ``right`` are ordered as they were judged."""
    rows = [
        {
            "model": model, "item": f"i{i}", "prompt_id": f"p{i:03d}", "reply": j, "rating": 1 - j,
            "score": float((1 - j) * (1 if i < right else -1)),
        }
        for i in range(prompts)
        for j in (0, 1)
    ]  # fmt: skip
    return checked(pd.DataFrame(rows))


def evidence(*tables: pd.DataFrame, comparisons: pd.DataFrame | None = None, settings: CardSettings = FEW, **more: Any) -> Evidence:
    table = checked_samples(pd.concat(tables, ignore_index=True)) if tables else pd.DataFrame()
    known = {} if comparisons is None else {"comparisons": checked_comparisons(comparisons, table)}
    return Evidence(model="m", rows=judged(), samples=table, settings=settings, key=KEY, **known, **more)


def value(answer: Answer, name: str) -> float:
    found = next(e for e in answer.estimates if e.name == name).value
    assert found is not None
    return found


def drawn(name: str, *shape: int) -> Array:
    return (KEY / name).generator().standard_normal(shape)


def test_variance_within_prompts_on_paper() -> None:
    # within: 2 and 2 (unbiased variances of (0, 2) and (10, 12)); over all four: mean 6, squares 0 + 4 + 100 + 144 = 248, 62 - 36 = 26
    answer = teaching.answer(evidence(samples(np.array([[0.0, 2.0], [10.0, 12.0]]))))
    assert value(answer, "within_prompts") == pytest.approx(2 / 26)
    # the policy's variances (0, 4) and (1, 3) are 8 and 2, on the scale of the reference: 5 / 26
    both = evidence(samples(np.array([[0.0, 2.0], [10.0, 12.0]])), samples(np.array([[0.0, 4.0], [1.0, 3.0]]), policy="policy"))
    assert value(teaching.answer(both), "within_prompts_policy") == pytest.approx(5 / 26)


def test_a_score_that_differs_only_between_prompts_is_a_bad_teacher() -> None:
    noise, offset = drawn("noise", 60, 8), drawn("offset", 60, 1)
    assert teaching.answer(evidence(samples(0.1 * noise + offset))).verdict == "alarm"
    assert teaching.answer(evidence(samples(noise + offset))).verdict == "quiet"
    # scale and shift do not matter
    one, other = (value(teaching.answer(evidence(samples(s))), "within_prompts") for s in (noise + offset, 50 * (noise + offset) - 7))
    assert one == pytest.approx(other)
    assert teaching.answer(evidence()).verdict == "not enough data"
    assert teaching.answer(evidence(samples(np.ones((30, 4))))).verdict == "not enough data"


def test_own_pairs_by_gold_on_paper() -> None:
    # prompt 0: gold 0 < 1 < 2, scores 0, 0, 1: pairs (0,1) tied 1/2, (0,2) right, (1,2) right: 5/6. Prompt 1: gold 1, 1, 0 and scores
    # 0, 1, 2: (0,1) is a tie of gold, the other two are wrong: 0. Prompts count the same: 5/12
    score, gold = np.array([[0.0, 0, 1], [0, 1, 2]]), np.array([[0.0, 1, 2], [1, 1, 0]])
    answer = own_pairs.answer(evidence(samples(score, policy="policy", gold=gold)))
    assert value(answer, "accuracy_policy") == pytest.approx(5 / 12)


def test_own_pairs_by_comparisons_on_paper() -> None:
    score = np.array([[0.0, 1.0, 2.0], [0.0, 0.0, 1.0]])
    rows = pd.DataFrame(
        {
            "policy": "policy",
            "prompt_id": ["p000", "p000", "p001", "p001"],
            # the first is right and weighs 2; then a tie, left out; equal scores count half, weighing 1; the last is wrong and weighs 4
            "first": [1, 1, 0, 2],
            "second": [0, 2, 1, 0],
            "outcome": [1.0, 0.5, 1.0, 0.0],
            "probability": [0.5, 0.5, 1.0, 0.25],
        }
    )
    found = own_pairs.answer(evidence(samples(score, policy="policy"), comparisons=rows))
    assert value(found, "accuracy_policy") == pytest.approx((2 + 0.5) / 7)
    # judged accuracy is 30 of 40
    assert value(found, "drop_from_judged") == pytest.approx(0.75 - 2.5 / 7)


def test_a_score_that_no_longer_orders_what_the_policy_writes() -> None:
    gold, noise = drawn("gold", 60, 8), 0.5 * drawn("noise", 60, 8)
    reference = samples(gold + noise, gold=gold)
    kept = evidence(reference, samples(gold + noise, policy="policy", gold=gold), settings=CardSettings())
    lost = evidence(reference, samples(noise, policy="policy", gold=gold), settings=CardSettings())
    turned = evidence(reference, samples(noise - gold, policy="policy", gold=gold), settings=CardSettings())
    assert own_pairs.answer(kept).verdict == "quiet"
    assert own_pairs.answer(lost).verdict == "alarm"
    assert own_pairs.answer(turned).verdict == "alarm"
    # below 1/2 even where nothing is known of the reference
    alone = evidence(samples(noise - gold, policy="policy", gold=gold))
    assert own_pairs.answer(alone).verdict == "alarm"
    assert own_pairs.answer(evidence(reference)).verdict == "not enough data"


def test_disagreement_on_paper() -> None:
    # members (0, 2) and (2, 0): mean 1, deviation 1, so (-1, 1) and (1, -1): deviation of two numbers 2 apart is sqrt 2
    first, second = np.array([[0.0, 2.0]] * 3), np.array([[2.0, 0.0]] * 3)
    before = samples(first, member_a=first, member_b=second)
    # the policy's replies: 5 and 1, on that scale 4 and 0: deviation 4 / sqrt 2; its growth is ln 2
    after = samples(np.full((3, 1), 9.0), policy="policy", member_a=np.full((3, 1), 5.0), member_b=np.full((3, 1), 1.0))
    found = disagreement.answer(evidence(before, after))
    assert value(found, "disagreement_reference") == pytest.approx(math.sqrt(2))
    assert value(found, "disagreement_policy") == pytest.approx(4 / math.sqrt(2))
    assert value(found, "disagreement_growth") == pytest.approx(math.log(2))
    # a factor of 2, the same in every prompt, is more than 1.5
    assert found.verdict == "alarm"
    same = disagreement.answer(evidence(before, samples(first, policy="policy", member_a=first, member_b=second)))
    assert same.verdict == "quiet"
    assert disagreement.answer(evidence(before)).verdict == "not enough data"
    assert disagreement.answer(evidence(samples(first, member_a=first))).verdict == "not enough data"


def test_coverage_on_paper() -> None:
    near, far = np.array([[0.2, 1.0], [0.9, 1.1]]), np.array([[2.0, 3.0], [0.9, 2.0]])
    context = np.array([[0.5, 0.5], [1.5, 1.5]])
    before = samples(near, context_distance=context, output_distance=near)
    after = samples(near, policy="policy", context_distance=context, output_distance=far)
    found = coverage.answer(evidence(before, after))
    # 1.0 still counts: 3 of 4 replies before, 1 of 4 after; 1 of 2 prompts; by prompt 1 - 0 and 1/2 - 1/2 were lost
    assert value(found, "rho_reference") == pytest.approx(3 / 4)
    assert value(found, "rho_policy") == pytest.approx(1 / 4)
    assert value(found, "kappa_reference") == pytest.approx(1 / 2)
    assert value(found, "rho_lost") == pytest.approx(1 / 2)
    assert coverage.answer(evidence(samples(near))).verdict == "not enough data"


def test_a_policy_that_left_the_training_data() -> None:
    near = np.abs(drawn("near", 40, 5)) / 2
    before = samples(near, output_distance=near)
    assert coverage.answer(evidence(before, samples(near, policy="policy", output_distance=near))).verdict == "quiet"
    assert coverage.answer(evidence(before, samples(near, policy="policy", output_distance=near + 1))).verdict == "alarm"
    assert coverage.answer(evidence(samples(near, context_distance=near + 1))).verdict == "alarm"


def test_softmax_regret_on_paper() -> None:
    # scores (-1, 1) and gold (1, -1) in half the prompts, the reverse in the others: deviation 1 each. At beta 2 / ln 3 the weights of
    # (-1, 1) are 1/4, 3/4: the tilt's gold is 1/4 - 3/4 = -1/2, gold's own +1/2
    score, gold = np.array([[-1.0, 1.0], [1.0, -1.0]]), np.array([[1.0, -1.0], [-1.0, 1.0]])
    settings = CardSettings(min_prompts=2, tilt_beta=2 / math.log(3))
    found = regret.answer(evidence(samples(score, gold=gold), settings=settings))
    assert value(found, "gain") == pytest.approx(-1 / 2)
    assert value(found, "regret") == pytest.approx(1)
    assert value(found, "effective_samples") == pytest.approx(1 / (1 / 16 + 9 / 16))
    # without one of two samples the mean is the other's: 2 (-1/2) - (1 - 1) / 2
    assert value(found, "gain_of_optimum") == pytest.approx(-1)
    assert value(found, "regret_of_optimum") == pytest.approx(2)
    assert found.verdict == "alarm"
    # at the ends of the sweep: beta 2 has weights 1 / (1 + e^-1) and its complement
    assert found.series["gain"][0] == pytest.approx(-math.tanh(1 / 2))
    assert found.series["oracle_gain"][0] == pytest.approx(math.tanh(1 / 2))


def test_regret_is_counted_in_gold() -> None:
    # gold (-1, 1) twice; scores (-1, 1) and (0, 0), of deviation sqrt(1/2), so (-sqrt 2, sqrt 2) and (0, 0): gains tanh(sqrt 2) and 0
    # at beta 1, where gold gains tanh(1)
    settings = CardSettings(min_prompts=2, tilt_beta=1.0)
    table = samples(np.array([[-1.0, 1.0], [0.0, 0.0]]), gold=np.array([[-1.0, 1.0], [-1.0, 1.0]]))
    found = regret.answer(evidence(table, settings=settings))
    assert value(found, "gain") == pytest.approx(math.tanh(math.sqrt(2)) / 2)
    assert value(found, "regret") == pytest.approx(math.tanh(1) - math.tanh(math.sqrt(2)) / 2)


def test_regret_sees_a_tail_that_costs_gold() -> None:
    score = drawn("scores", 80, 16)
    hacked = np.where(score > 1.2, -3.0, score)
    sound = regret.answer(evidence(samples(score, gold=score + drawn("noise", 80, 16)), settings=CardSettings()))
    bad = regret.answer(evidence(samples(score, gold=hacked), settings=CardSettings()))
    assert sound.verdict == "quiet"
    assert bad.verdict == "alarm"
    # gold cannot regret itself
    exact = regret.answer(evidence(samples(score, gold=3 * score + 1), settings=CardSettings()))
    assert value(exact, "regret") == pytest.approx(0, abs=1e-9)
    assert regret.answer(evidence(samples(score))).verdict == "not enough data"


def labelled(gold: Array, count: int, key: Key) -> pd.DataFrame:
    generator = key.generator()
    prompts, size = gold.shape
    prompt = generator.integers(prompts, size=count)
    first = generator.integers(size, size=count)
    second = (first + generator.integers(1, size, size=count)) % size
    chance = special.expit(gold[prompt, first] - gold[prompt, second])
    outcome = (generator.random(count) < chance).astype(float)
    return pd.DataFrame({"prompt_id": [f"p{p:03d}" for p in prompt], "first": first, "second": second, "outcome": outcome})


def test_predicted_gains_on_the_card() -> None:
    gold, noise = drawn("gold", 60, 8), drawn("noise", 60, 8)
    tables = [samples(gold + noise, model="a-good"), samples(noise, model="b-blind"), samples(noise - gold, model="c-bad")]
    table = checked_samples(pd.concat(tables, ignore_index=True))
    compared = checked_comparisons(labelled(gold, 500, KEY / "labels"), table)
    frame = checked(pd.concat([judged("a-good"), judged("b-blind"), judged("c-bad")], ignore_index=True))
    found = examine(frame, KEY, samples=table, comparisons=compared)
    assert [found.verdicts(m)["predicted_gain"] for m in ("a-good", "c-bad")] == ["quiet", "alarm"]
    gains = {m: found.estimates(m)["gain"].value for m in ("a-good", "b-blind", "c-bad")}
    assert gains["a-good"] > gains["b-blind"] > gains["c-bad"]
    over = found.estimates("c-bad")["gain_over a-good"]
    robust = {m: found.estimates(m)["gain_robust"].value for m in gains}
    assert over.value == pytest.approx(robust["c-bad"] - robust["a-good"])
    assert over.high is not None
    assert over.high < 0
    # by its definition, with the chances that the labels were drawn from
    weight = tilt((gold + noise) / (gold + noise).std(), 0.5)
    beats = special.expit(gold[:, :, None] - gold[:, None, :]) - 0.5
    truth = (weight * beats.sum(axis=2) / 7).sum(axis=1).mean()
    good = found.estimates("a-good")["gain"]
    assert good.low < truth < good.high


def test_no_comparisons_no_prediction() -> None:
    gold = drawn("gold", 30, 4)
    table = checked_samples(samples(gold))
    few = checked_comparisons(labelled(gold, 5, KEY), table)
    assert predicted_gain.pooled_gains(table, few, 0.5, KEY) == {}
    assert predicted_gain.answer(evidence(samples(gold))).verdict == "not enough data"


def test_a_grid_of_uneven_prompts() -> None:
    table = checked_samples(
        pd.DataFrame(
            {
                "model": "m", "policy": "reference", "prompt_id": ["b", "a", "b"], "sample": [7, 3, 2], "score": [1.0, 2.0, 3.0],
                "member_x": [4, None, 6],
            }
        )
    )  # fmt: skip
    grid = grid_of(table, "reference")
    # sorted by prompt, then sample
    assert grid.prompts == ("a", "b")
    assert np.array_equal(grid.column("score"), np.array([[2.0, np.nan], [3.0, 1.0]]), equal_nan=True)
    assert np.array_equal(grid.columns("member_")["x"], np.array([[np.nan, np.nan], [6.0, 4.0]]), equal_nan=True)
    assert grid.places()["b", 7] == (1, 1)
    assert grid_of(table, "policy").shape == (0, 0)


def test_labels_of_one_pair_are_averaged_and_the_unjudged_raise_the_weight() -> None:
    table = checked_samples(samples(np.zeros((2, 3))))
    rows = pd.DataFrame(
        {
            "prompt_id": ["p000", "p000", "p000", "p001"], "first": [0, 1, 0, 2], "second": [1, 0, 1, 0], "outcome": [1, 1, 1, None],
            "probability": 0.4,
        }
    )  # fmt: skip
    found = checked_comparisons(rows, table)
    # 0 beat 1 twice and lost once; three of four rows were judged
    assert found[["first", "second"]].to_numpy().tolist() == [[0, 1]]
    assert found["outcome"].tolist() == pytest.approx([2 / 3])
    assert found["probability"].tolist() == pytest.approx([0.3])
    # without probabilities all pairs are alike: 1 of 3 + 3
    compared = compared_of(checked_comparisons(rows.drop(columns="probability"), table), grid_of(table, "reference"), "reference")
    assert compared is not None
    assert compared.probability.tolist() == pytest.approx([1 / 6])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"drop": "sample"}, "lacks the column 'sample'"),
        ({"policy": "refrence"}, "'policy' must be 'reference' or 'policy', got 'refrence' in row 1"),
        ({"score": "high"}, "'score' must be a finite number, got 'high' in row 1"),
        ({"gold": "n/a"}, "'gold' must be a finite number, got 'n/a' in row 1"),
        ({"sample": 0.5}, "'sample' must be a whole number, got 0.5 in row 1"),
        ({"twice": True}, "has two scores of 'm'"),
        ({"other": True}, "models 'm' and 'n' have scores of different replies, such as sample 1 of prompt 'p000' (reference)"),
    ],
)
def test_tables_of_samples_that_cannot_be_read(change: dict[str, Any], said: str) -> None:
    frame = samples(np.array([[1.0, 2.0]]), gold=np.array([[1.0, 2.0]]))
    if "drop" in change:
        frame = frame.drop(columns=change["drop"])
    elif "twice" in change:
        frame = pd.concat([frame, frame.head(1)])
    elif "other" in change:
        frame = pd.concat([frame, samples(np.array([[1.0]]), model="n", gold=np.array([[1.0]]))])
    else:
        name, wrong = next(iter(change.items()))
        frame[name] = [wrong, *frame[name].tolist()[1:]]
    with pytest.raises(UserError) as caught:
        checked_samples(frame, "samples.jsonl")
    assert str(caught.value).startswith("samples.jsonl: ")
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"outcome": [2.0]}, "'outcome' must be between 0 and 1, got 2 in row 1"),
        ({"outcome": [None]}, "holds no outcome"),
        ({"probability": [0.0]}, "'probability' must be above 0 and at most 1"),
        ({"first": [5]}, "row 1 compares sample 5 of prompt 'p000' (reference), which is not among the samples"),
        ({"policy": ["policy"]}, "row 1 compares sample 0 of prompt 'p000' (policy), which is not among the samples"),
        ({"first": [1]}, "row 1 compares a sample with itself"),
        ({"second": None}, "lacks the column 'second'"),
    ],
)
def test_tables_of_comparisons_that_cannot_be_read(change: dict[str, Any], said: str) -> None:
    table = checked_samples(samples(np.array([[1.0, 2.0]])))
    rows = {"prompt_id": ["p000"], "first": [0], "second": [1], "outcome": [1.0], **change}
    frame = pd.DataFrame({k: v for k, v in rows.items() if v is not None})
    with pytest.raises(UserError) as caught:
        checked_comparisons(frame, table, "labels.jsonl")
    assert str(caught.value).startswith("labels.jsonl: ")
    assert said in str(caught.value)


def test_sound_models_raise_few_flags() -> None:
    """The same world 30 times with nothing planted: no question alarms in more than 10 % of them."""
    asked = {"teaching": teaching, "own_pairs": own_pairs, "coverage": coverage, "predicted_gain": predicted_gain, "regret": regret}
    flags = dict.fromkeys(asked, 0)
    for seed in range(30):
        generator = (Key(seed) / "sound").generator()
        gold = generator.standard_normal((2, 40, 6))
        score = gold + 0.8 * generator.standard_normal((2, 40, 6)) + generator.standard_normal((1, 40, 1))
        distance = np.abs(generator.standard_normal((2, 40, 6))) / 2
        tables = [
            samples(score[i], policy=name, gold=gold[i], output_distance=distance[i], context_distance=distance[i])
            for i, name in enumerate(("reference", "policy"))
        ]
        table = checked_samples(pd.concat(tables, ignore_index=True))
        compared = checked_comparisons(labelled(gold[0], 200, Key(seed) / "labels"), table)
        gains = predicted_gain.pooled_gains(table, compared, 0.5, Key(seed))["m"]
        known = evidence(*tables, settings=CardSettings(), gains=gains)
        for name, question in asked.items():
            flags[name] += question.answer(known).verdict == "alarm"
    assert max(flags.values()) <= 3
