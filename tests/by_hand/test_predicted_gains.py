"""Predicted gains: a pair on paper, sums over all pairs, what a model cannot say, and which pairs are asked for."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import special, stats

from trueup.core.rng import Key
from trueup.mismatch.reward_model import gains
from trueup.mismatch.reward_model.gains import Chosen, Compared, choose_comparisons, columns_of, predicted_gains
from trueup.stats.bootstrap import Array
from trueup.stats.tilting import standardised, tilt, uniform

KEY = Key(0)
NAN = float("nan")
NONE = np.zeros((0, 1, 1))


def world(key: Key, prompts: int, samples: int, models: int, noise: float) -> tuple[Array, Array]:
    """Gold [P, K] and scores [M, P, K] = gold + noise of the model's own."""
    generator = key.generator()
    gold = generator.standard_normal((prompts, samples))
    return gold, standardised(gold + noise * generator.standard_normal((models, prompts, samples)))


def all_pairs(prompts: int, samples: int) -> tuple[Array, Array, Array]:
    rows, columns = np.triu_indices(samples, 1)
    return np.repeat(np.arange(prompts), len(rows)), np.tile(rows, prompts), np.tile(columns, prompts)


def exact(weight: Array, gold: Array) -> Array:
    """[M] the gain by its definition, where P(i beats j) = sigmoid(gold_i - gold_j)."""
    beats = special.expit(gold[:, :, None] - gold[:, None, :]) - 0.5
    return (weight * beats.sum(axis=2) / (gold.shape[1] - 1)).sum(axis=2).mean(axis=1)


def test_one_pair_on_paper() -> None:
    # scores (ln 2, 0): weights 2/3, 1/3. The first won: (2/3 - 1/3) (1 - 1/2) / probability 1/2 / (K - 1 = 1) = 1/3; of 2 prompts: 1/6
    score = np.array([[[math.log(2), 0.0], [0.0, 0.0]]])
    compared = Compared(
        prompt=np.array([0]), first=np.array([0]), second=np.array([1]), probability=np.array([0.5]), outcome=np.array([1.0])
    )
    found = predicted_gains(tilt(score, 1.0), score, NONE, compared, KEY)
    assert found.value["counted"] == pytest.approx([1 / 6])
    # the same pair shown the other way round
    turned = replace(compared, first=np.array([1]), second=np.array([0]), outcome=np.array([0.0]))
    assert predicted_gains(tilt(score, 1.0), score, NONE, turned, KEY).value["counted"] == pytest.approx([1 / 6])
    # a prompt of one reply says nothing and is not counted
    alone = np.array([[[math.log(2), 0.0], [0.0, NAN]]])
    assert predicted_gains(tilt(alone, 1.0), alone, NONE, compared, KEY).value["counted"] == pytest.approx([1 / 3])


def test_all_pairs_with_their_chances_give_the_definition() -> None:
    gold, score = world(KEY / "all", 30, 6, 3, 1.0)
    prompt, first, second = all_pairs(30, 6)
    chance = special.expit(gold[prompt, first] - gold[prompt, second])
    compared = Compared(prompt=prompt, first=first, second=second, probability=np.ones(len(prompt)), outcome=chance)
    weight = tilt(score, 0.5)
    found = predicted_gains(weight, np.concatenate([score, gold[None]]), NONE, compared, KEY)
    truth = exact(weight, gold)
    assert found.value["counted"] == pytest.approx(truth)
    # gold is among the columns, so the model can say it too, but for its prior; 450 pairs determine it to about 0.02 of a win rate
    assert found.value["modelled"] == pytest.approx(truth, abs=1e-2)
    assert found.value["combined"] == pytest.approx(truth, abs=1e-2)


def test_no_tilt_gains_nothing() -> None:
    gold, score = world(KEY / "none", 20, 5, 2, 1.0)
    prompt, first, second = all_pairs(20, 5)
    outcome = (gold[prompt, first] > gold[prompt, second]).astype(float)
    compared = Compared(prompt=prompt, first=first, second=second, probability=np.ones(len(prompt)), outcome=outcome)
    found = predicted_gains(np.full((2, 20, 5), 0.2), score, NONE, compared, KEY)
    for method in gains.METHODS:
        assert found.value[method] == pytest.approx([0, 0], abs=1e-12)


def test_the_weight_among_the_columns_makes_a_wrong_model_right() -> None:
    # annotators dislike a band of scores, which neither a line in the score nor its tilt can say; but where all pairs count alike, the
    # equation that the weight's coefficient solves is that modelled and counted gains are equal
    generator = (KEY / "band").generator()
    score = standardised(generator.standard_normal((1, 60, 10)))
    gold = np.where(np.abs(score[0] - 1.2) < 0.5, -4.0, 0.0)
    prompt, first, second = all_pairs(60, 10)
    chance = special.expit(gold[prompt, first] - gold[prompt, second])
    compared = Compared(prompt=prompt, first=first, second=second, probability=np.ones(len(prompt)), outcome=chance)
    weight = tilt(score, 0.5)
    truth = exact(weight, gold)[0]
    assert truth < -0.1
    assert predicted_gains(weight, score, NONE, compared, KEY).value["modelled"][0] == pytest.approx(truth, abs=5e-3)


def test_how_much_of_a_doubt_is_believed() -> None:
    # terms 0.2 and 0.4 of two prompts: mean 0.3, variance of the mean (0.01 + 0.01) / (2 * 1) = 0.01, so 1 - 0.01 / 0.09 is no noise
    one = gains._trust(np.array([0.3]), np.array([[0.2, 0.4]]), 1)
    assert one.share == pytest.approx(8 / 9)
    # a chi-square of one degree is below 0.015791 in 10 % of cases
    assert one.spread == pytest.approx(math.sqrt(1 - 0.015791 / 9), abs=1e-6)
    # noise alone: nothing is believed
    assert gains._trust(np.array([0.1]), np.array([[-0.9, 1.1]]), 1).share == 0
    assert gains._trust(np.array([0.0]), np.array([[0.2, -0.2]]), 1).share == 0
    # of doubts 0.4 and 0.2 their mean 0.3 is believed to 1/2 and their distances 0.1 and -0.1 to 1/4
    trusts = (gains._Trust(share=0.5, spread=0.6), gains._Trust(share=0.25, spread=0.1))
    assert gains._believed(np.array([0.4, 0.2]), trusts) == pytest.approx([0.175, 0.125])
    # of their noise 0.6 and, since no less than the share, 0.25
    assert gains._believed(np.array([0.4, 0.2]), trusts, spread=True) == pytest.approx([0.205, 0.155])


def test_columns_are_centred_within_prompts_and_dropped_where_they_say_nothing() -> None:
    score = np.array([[[1.0, 3.0], [10.0, NAN]], [[5.0, 5.0], [7.0, NAN]]])
    features = np.array([[[0.0, 4.0], [9.0, NAN]], [[2.0, 2.0], [3.0, NAN]]])
    x, group = columns_of(score, features, uniform(score))
    # the second score and the second feature do not differ within a prompt; the mean score is then the first one's, and both it
    # and the first feature deviate by -1, 1 and 0 in three replies, of size sqrt(2/3)
    size = math.sqrt(1.5)
    assert group.tolist() == [0, 1]
    assert x == pytest.approx(np.array([[[-size, size], [0, 0]]] * 2))


def test_slopes_of_modelled_gains() -> None:
    gold, score = world(KEY / "slope", 5, 4, 2, 1.0)
    weight = tilt(score, 0.5)
    x, _ = columns_of(score, gold[None], weight)
    here, at = np.ones(gold.shape, dtype=bool), np.array([0.3, -0.2, 0.5, 0.1, 0.4, -0.3])
    slope = gains._moved(weight, x, at, here)[1]
    for k in range(6):
        step = 1e-5 * (np.arange(6) == k)
        ahead, behind = (gains._moved(weight, x, at + s, here)[0].sum(axis=1) for s in (step, -step))
        assert slope[:, k] == pytest.approx((ahead - behind) / 2e-5, abs=1e-6)


def test_pairs_are_asked_where_models_disagree() -> None:
    # prompt 0: both models agree; prompt 1: they disagree on replies 0 and 1 and agree on 2 (weights (a, b, c) and (b, a, c))
    score = np.array([[[2.0, 0, 0], [2.0, 0, 0]], [[2.0, 0, 0], [0, 2.0, 0]]])
    chosen = choose_comparisons(score, 1, KEY, betas=(1.0,), floor=0.0)
    assert chosen.prompt.tolist() == [1]
    # with lead l of the heavy reply, pair (0, 1) has leads l and -l, pairs (0, 2) and (1, 2) leads l and 0: spreads 2 : 1 : 1
    drawn = [choose_comparisons(score, 1, Key(n), betas=(1.0,), floor=0.0) for n in range(600)]
    pairs = [tuple(sorted((int(c.first[0]), int(c.second[0])))) for c in drawn]
    assert {(p, round(float(c.probability[0]), 9)) for p, c in zip(pairs, drawn, strict=True)} == {
        ((0, 1), 0.5),
        ((0, 2), 0.25),
        ((1, 2), 0.25),
    }
    # four standard errors of a half in 600 draws are 0.082
    assert abs(np.mean([p == (0, 1) for p in pairs]) - 0.5) < 0.082
    assert abs(np.mean([c.first[0] < c.second[0] for c in drawn]) - 0.5) < 0.082


def test_a_budget_for_all_pairs_asks_each_once() -> None:
    score = world(KEY / "few", 3, 4, 2, 1.0)[1]
    score[:, 2, 3] = NAN
    chosen = choose_comparisons(score, 100, KEY)
    # prompts of 4, 4 and 3 replies: 6 + 6 + 3 pairs
    assert len(chosen.prompt) == 15
    assert chosen.probability.tolist() == [1.0] * 15
    assert not np.isnan(score[0, chosen.prompt, chosen.first] + score[0, chosen.prompt, chosen.second]).any()


def test_choosing_pairs_leaves_the_count_without_bias() -> None:
    gold, score = world(KEY / "bias", 20, 6, 4, 1.5)
    weight, truth, found = tilt(score, 0.5), None, []
    truth = exact(weight, gold)
    for n in range(300):
        chosen = choose_comparisons(score, 60, Key(n))
        outcome = special.expit(gold[chosen.prompt, chosen.first] - gold[chosen.prompt, chosen.second])
        found.append(gains._counted(weight, chosen, outcome - 0.5, np.full(20, 5.0)).sum(axis=1) / 20)
    error = np.std(found, axis=0) / math.sqrt(300)
    assert (np.abs(np.mean(found, axis=0) - truth) < 4 * error).all()


def labelled(chosen: Chosen, gold: Array, key: Key) -> Compared:
    chance = special.expit(gold[chosen.prompt, chosen.first] - gold[chosen.prompt, chosen.second])
    return Compared(**vars(chosen), outcome=(key.generator().random(len(chance)) < chance).astype(float))


def test_gains_order_models_that_accuracy_cannot() -> None:
    """Twenty scores: gold plus noise, and prompts' offsets that take up standard deviation but cannot move a pair."""
    taus = []
    for seed in range(4):
        key = Key(seed) / "order"
        generator = key.generator()
        gold = generator.standard_normal((80, 12))
        offset = np.linspace(0, 3, 20)
        noise = 0.9 * generator.standard_normal((20, 80, 12))
        score = standardised(gold + noise + offset[:, None, None] * generator.standard_normal((20, 80, 1)))
        weight = tilt(score, 0.5)
        truth = (weight * gold).sum(axis=2).mean(axis=1)
        chosen = choose_comparisons(score, 400, key)
        compared = labelled(chosen, gold, key / "labels")
        found = predicted_gains(weight, score, NONE, compared, key, draws=50)
        right = np.sign(score[:, chosen.prompt, chosen.first] - score[:, chosen.prompt, chosen.second]) == np.sign(compared.outcome - 0.5)
        values = [found.value["counted"], found.value["modelled"], found.value["combined"], right.mean(axis=1)]
        taus.append([stats.kendalltau(v, truth)[0] for v in values])
    counted, modelled, combined, accuracy = np.mean(taus, axis=0)
    assert modelled > 0.75
    assert combined > 0.75
    assert counted > 0.4
    assert accuracy < 0.4


def test_intervals_hold_what_they_claim() -> None:
    """Coverage of soft best-of-K in a world whose noise is not among the columns' claims; 60 worlds of 3 models."""
    inside = dict.fromkeys(gains.METHODS, 0)
    for seed in range(60):
        key = Key(seed) / "coverage"
        gold, score = world(key, 60, 6, 3, 1.0)
        weight = tilt(score, 0.7)
        found = predicted_gains(weight, score, NONE, labelled(choose_comparisons(score, 200, key), gold, key / "labels"), key, draws=300)
        for method in inside:
            for m in range(3):
                estimate = found.estimate(m, method)
                assert estimate.low is not None
                assert estimate.high is not None
                inside[method] += estimate.low <= TRUE_GAIN <= estimate.high
    # 180 intervals, three of a world alike: 95 % less four standard errors of 60 independent ones is 84 %
    assert min(inside.values()) >= 0.84 * 180


def _true_gain() -> float:
    """The expectation over worlds of the above, from one of many prompts."""
    gold, score = world(Key(99) / "truth", 40000, 6, 1, 1.0)
    return float(exact(tilt(score, 0.7), gold)[0])


TRUE_GAIN = _true_gain()
