"""Every objective of reward models: golden numbers computed apart from this code, invariants, population optima, extremes."""

from __future__ import annotations

import math
from itertools import permutations, product

import numpy as np
import pytest
import torch
from scipy import integrate, optimize, stats
from torch import Tensor

from trueup.core.component import offered
from trueup.core.config import resolve
from trueup.ops.correlation import correlation, correlation_gradient, paired_moments
from trueup.rewards.objectives.advantage_model import AdvantageModelConfig, barrier
from trueup.rewards.objectives.adversarial import adversarial_loss
from trueup.rewards.objectives.best_of_k import best_of_k_loss
from trueup.rewards.objectives.bradley_terry import BradleyTerryConfig, bradley_terry_loss
from trueup.rewards.objectives.flip_noise import FlipNoiseConfig, unbiased_loss
from trueup.rewards.objectives.gaussian import GaussianConfig, gaussian_loss, variance
from trueup.rewards.objectives.label_smoothing import smoothed_loss
from trueup.rewards.objectives.margin import MarginConfig, margin_loss
from trueup.rewards.objectives.odin import ODINConfig
from trueup.rewards.objectives.plackett_luce import PlackettLuceConfig, plackett_luce_loss
from trueup.rewards.objectives.protocol import Judgements, ObjectiveConfig
from trueup.rewards.objectives.ratings import RatingsConfig
from trueup.rewards.objectives.regret import RegretConfig, deterministic_regret, stochastic_regret

FOUR = torch.tensor([[2.0, 1.0, 0.5, -1.0]], dtype=torch.float64)
RANKED = torch.tensor([[4.0, 3.0, 2.0, 1.0]])
ALL = torch.ones(1, 4, dtype=torch.bool)
OBJECTIVES = offered("trueup.rewards.objectives", ObjectiveConfig)


def said(rating: Tensor, present: Tensor | None = None, margin: float = 0.0, length: Tensor | None = None) -> Judgements:
    return Judgements(
        rating=rating,
        present=torch.ones_like(rating, dtype=torch.bool) if present is None else present,
        margin=torch.full((len(rating),), margin),
        length=torch.zeros_like(rating) if length is None else length,
        row=torch.arange(len(rating)),
    )


def of_pair(objective: ObjectiveConfig, gap: float, margin: float = 0.0, rating: tuple[float, float] = (1.0, 0.0)) -> float:
    """The loss of one pair whose chosen score leads by ``gap``."""
    output = torch.zeros(1, 2, objective.outputs, dtype=torch.float64)
    output[0, 0, 0] = gap
    return objective.loss(output, said(torch.tensor([rating]), margin=margin)).item()


def least(loss: object, low: float = -20.0, high: float = 20.0) -> float:
    return float(optimize.minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-9}).x)


# All pairs of a prompt


def test_all_pairs_of_a_ranking_count_as_one_prompt() -> None:
    # golden: mean of softplus(-difference) over the six pairs of (2, 1, .5, -1)
    found = BradleyTerryConfig().loss(FOUR[..., None], said(RANKED))
    assert found.item() == pytest.approx(0.2276134, abs=1e-7)
    gaps = [FOUR[0, i] - FOUR[0, j] for i in range(4) for j in range(i + 1, 4)]
    assert found.item() == pytest.approx(float(np.mean([np.logaddexp(0, -g.item()) for g in gaps])), abs=1e-12)
    # replies and their ratings may come in any order
    for order in list(permutations(range(4)))[::5]:
        again = BradleyTerryConfig().loss(FOUR[:, order, None], said(RANKED[:, order]))
        assert again.item() == pytest.approx(found.item(), abs=1e-12)


def test_the_gradient_of_a_prompt_sums_to_zero() -> None:
    for kind in ("bradley_terry", "plackett_luce", "best_of_k", "label_smoothing", "flip_noise"):
        score = FOUR[..., None].clone().requires_grad_(True)
        objective = resolve("trueup.rewards.objectives", ObjectiveConfig, kind)
        objective.loss(score, said(RANKED)).sum().backward()
        assert score.grad is not None
        assert score.grad.sum().item() == pytest.approx(0.0, abs=1e-12), kind
        assert score.grad.abs().max() > 0


def test_ties_are_half_a_win_each_way_or_dropped() -> None:
    tied = said(torch.tensor([[1.0, 1.0]]))
    output = torch.tensor([[[0.8], [0.0]]], dtype=torch.float64)
    # (softplus(-.8) + softplus(.8)) / 2 = .3711007 + .4
    assert BradleyTerryConfig().loss(output, tied).item() == pytest.approx(0.3711007 + 0.4, abs=1e-7)
    assert BradleyTerryConfig(ties="drop").loss(output, tied).item() == 0
    assert BradleyTerryConfig(ties="drop").counted(tied).tolist() == [False]
    assert BradleyTerryConfig().counted(tied).tolist() == [True]
    # (1, 1, 0) with scores (.8, 0, 0): without the tie two pairs, softplus(-.8) and ln 2
    three = said(torch.tensor([[1.0, 1.0, 0.0]]))
    scores = torch.tensor([[[0.8], [0.0], [0.0]]], dtype=torch.float64)
    assert BradleyTerryConfig(ties="drop").loss(scores, three).item() == pytest.approx((0.3711007 + math.log(2)) / 2, abs=1e-7)
    assert BradleyTerryConfig().loss(scores, three).item() == pytest.approx((0.3711007 + math.log(2) + 0.7711007) / 3, abs=1e-7)


def test_absent_replies_are_in_no_pair() -> None:
    present = torch.tensor([[True, True, False, False]])
    objective = BradleyTerryConfig(center_rewards_coefficient=1.0)
    # one pair of 2 and 1: softplus(-1) + (2 + 1)^2
    assert objective.loss(FOUR[..., None], said(RANKED, present)).item() == pytest.approx(math.log1p(math.exp(-1)) + 9, abs=1e-9)


# Pairs


def test_margin() -> None:
    assert margin_loss(torch.tensor([0.8]), torch.zeros(1), torch.ones(1)).item() == pytest.approx(0.7981389, abs=1e-6)
    assert of_pair(MarginConfig(), 0.8, margin=1.0) == pytest.approx(0.7981389, abs=1e-7)
    assert of_pair(MarginConfig(margin_scale=0.5), 0.8, margin=2.0) == pytest.approx(0.7981389, abs=1e-7)
    assert of_pair(MarginConfig(), 0.8) == pytest.approx(0.3711007, abs=1e-7)  # no margin: Bradley–Terry
    # the annotator's strength belongs to the winner, whichever place it stands in
    assert of_pair(MarginConfig(), -0.8, margin=1.0, rating=(0.0, 1.0)) == pytest.approx(0.7981389, abs=1e-7)


@pytest.mark.parametrize(("margin", "optimum"), [(0, 1.3862944), (1, 2.1539621), (3, 4.0997121)])
def test_margin_population_optimum(margin: float, optimum: float) -> None:
    # replies that win with probability .8: the difference that minimises .8 loss(d) + .2 loss(-d)
    objective = MarginConfig()
    found = least(lambda d: 0.8 * of_pair(objective, d, margin) + 0.2 * of_pair(objective, -d, margin))
    assert found == pytest.approx(optimum, abs=1e-4)


@pytest.mark.parametrize(("wrong", "optimum", "lowest"), [(0.1, 2.1972246, 0.3250830), (0.25, 1.0986123, 0.5623351)])
def test_label_smoothing(wrong: float, optimum: float, lowest: float) -> None:
    def loss(gap: float) -> float:
        return smoothed_loss(torch.tensor([gap], dtype=torch.float64), torch.zeros(1, dtype=torch.float64), wrong).item()

    assert least(loss) == pytest.approx(optimum, abs=1e-4)  # log((1 - e) / e)
    assert loss(optimum) == pytest.approx(lowest, abs=1e-7)  # the entropy of e
    assert of_pair(resolve("trueup.rewards.objectives", ObjectiveConfig, {"kind": "label_smoothing", "label_smoothing": wrong}), 0.3) == (
        pytest.approx(loss(0.3), abs=1e-12)
    )


def test_flipped_labels_cancel_on_average() -> None:
    a, b = torch.tensor([0.7], dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    for flip in (0.0, 0.1, 0.25, 0.4):
        mean = (1 - flip) * unbiased_loss(a, b, flip) + flip * unbiased_loss(b, a, flip)
        assert mean.item() == pytest.approx(0.403186, abs=1e-6)  # softplus(-.7), the loss of the clean label
    assert of_pair(FlipNoiseConfig(flip_probability=0.25, floor=None), 0.7) == pytest.approx(unbiased_loss(a, b, 0.25).item(), abs=1e-12)
    assert of_pair(FlipNoiseConfig(floor=-2.0), 1e4) == -2.0
    assert of_pair(FlipNoiseConfig(floor=None), 1e4) < -1e3  # unbounded, as in the papers


@pytest.mark.parametrize("link", ["logistic", "probit"])
def test_gaussian_utilities(link: str) -> None:
    # golden: MacKay's form of E sigmoid(z), z ~ N(1, 2); exact value beside it
    gap, spread = torch.tensor([1.0], dtype=torch.float64), torch.tensor([2.0], dtype=torch.float64)
    found = math.exp(-gaussian_loss(gap, spread, link).item())  # type: ignore[arg-type]
    if link == "logistic":
        exact = integrate.quad(lambda z: stats.norm.pdf(z, 1, math.sqrt(2)) / (1 + math.exp(-z)), -30, 30)[0]
        assert exact == pytest.approx(0.6750567, abs=1e-6)
        assert found == pytest.approx(0.6788295, abs=1e-6)
    else:
        assert found == pytest.approx(stats.norm.cdf(1 / math.sqrt(2)), abs=1e-9)
    assert gaussian_loss(gap, spread * 1e12, link).item() == pytest.approx(math.log(2), abs=1e-5)  # type: ignore[arg-type]
    # noise absorbs errors: more variance costs where the order is right, and helps where it is wrong
    for sign in (1.0, -1.0):
        s = spread.clone().requires_grad_(True)
        gaussian_loss(sign * gap, s, link).backward()  # type: ignore[arg-type]
        assert s.grad is not None
        assert np.sign(s.grad.item()) == sign


def test_gaussian_reads_two_outputs() -> None:
    output = torch.tensor([[[1.5, 0.3], [0.5, -0.2]]], dtype=torch.float64)
    spread = variance(output[0, 0, 1]) + variance(output[0, 1, 1])
    expected = gaussian_loss(torch.tensor([1.0], dtype=torch.float64), spread[None], "logistic").item()
    assert GaussianConfig().loss(output, said(torch.tensor([[1.0, 0.0]]))).item() == pytest.approx(expected, abs=1e-12)
    # log(1 + e^.3) = 0.8543552, log(1 + e^-.2) = 0.5981389, and 1e-6 each
    assert spread.item() == pytest.approx(0.8543552 + 0.5981389 + 2e-6, abs=1e-6)


# Groups


def test_plackett_luce() -> None:
    assert plackett_luce_loss(FOUR, RANKED, ALL).item() == pytest.approx(1.2515521, abs=1e-7)
    three = torch.tensor([[2.0, 1.0, 0.0]], dtype=torch.float64)
    assert plackett_luce_loss(three, RANKED[:, :3], ALL[:, :3]).item() == pytest.approx(0.7208677, abs=1e-7)
    assert plackett_luce_loss(torch.zeros(1, 4), RANKED, ALL).item() == pytest.approx(math.log(24), abs=1e-6)  # log K!
    pair = plackett_luce_loss(three[:, :2], RANKED[:, :2], ALL[:, :2])
    assert pair.item() == pytest.approx(bradley_terry_loss(three[0, :1], three[0, 1:2]).item(), abs=1e-12)
    # the chances of all rankings add up to 1
    ranks = [torch.tensor([[float(x) for x in order]]) for order in permutations(range(4))]
    assert sum(math.exp(-plackett_luce_loss(FOUR, r, ALL).item()) for r in ranks) == pytest.approx(1.0, abs=1e-9)
    absent = torch.tensor([[True, True, True, False]])
    padded = plackett_luce_loss(torch.tensor([[2.0, 1.0, 0.0, 50.0]], dtype=torch.float64), RANKED, absent)
    assert padded.item() == pytest.approx(0.7208677, abs=1e-7)


def test_the_gradient_of_plackett_luce() -> None:
    # d / d r_i = sum of softmax_k(i) over the choices that i took part in, minus 1; the last choice is forced
    score = FOUR.clone().requires_grad_(True)
    plackett_luce_loss(score, RANKED, ALL).sum().backward()
    chances = [np.exp(FOUR[0, k:].numpy()) / np.exp(FOUR[0, k:].numpy()).sum() for k in range(4)]
    expected = [sum(chances[k][i - k] for k in range(i + 1)) - 1 for i in range(4)]
    np.testing.assert_allclose(score.grad[0], expected, atol=1e-12)


def test_best_of_k_is_the_first_choice_of_a_ranking() -> None:
    assert best_of_k_loss(FOUR, RANKED, ALL).item() == pytest.approx(0.4951819, abs=1e-7)
    assert best_of_k_loss(torch.zeros(1, 4), RANKED, ALL).item() == pytest.approx(1.3862944, abs=1e-6)
    # what is below the pick does not matter
    shuffled = torch.tensor([[4.0, 1.0, 3.0, 2.0]])
    assert best_of_k_loss(FOUR, shuffled, ALL).item() == pytest.approx(0.4951819, abs=1e-7)
    # two picks share: the mean of both losses
    both = torch.tensor([[4.0, 4.0, 2.0, 1.0]])
    assert best_of_k_loss(FOUR, both, ALL).item() == pytest.approx(0.4951819 + 0.5, abs=1e-7)
    absent = torch.tensor([[True, True, True, False]])
    with_absent = best_of_k_loss(torch.tensor([[2.0, 1.0, 0.5, 9.0]], dtype=torch.float64), torch.tensor([[1.0, 0, 0, 5]]), absent)
    assert with_absent.item() == pytest.approx(float(np.log(np.exp([2.0, 1.0, 0.5]).sum()) - 2), abs=1e-9)


def test_max_ent_moves_from_the_samples_to_the_demonstration() -> None:
    # gradient of the loss: softmax(score) minus one at the demonstration
    score = FOUR[..., None].clone().requires_grad_(True)
    resolve("trueup.rewards.objectives", ObjectiveConfig, "max_ent").loss(score, said(torch.tensor([[0.0, 1.0, 0.0, 0.0]]))).backward()
    chance = torch.softmax(FOUR[0], 0)
    assert score.grad is not None
    np.testing.assert_allclose(score.grad[0, :, 0], chance - torch.tensor([0.0, 1.0, 0.0, 0.0]), atol=1e-12)


def test_the_adversarial_optimum_is_a_log_density_ratio() -> None:
    # demonstrations (.7, .2, .1), samples (.2, .3, .5) of three replies: the best scores are log of their ratio
    p, q = np.array([0.7, 0.2, 0.1]), np.array([0.2, 0.3, 0.5])

    demo, both = torch.tensor([[True, False]]).expand(9, 2), torch.ones(9, 2, dtype=torch.bool)
    groups = list(product(range(3), range(3)))  # a demonstration and a sample each, with their chances
    chance = np.array([p[i] * q[j] for i, j in groups])

    def total(s: np.ndarray) -> float:
        score = torch.tensor(np.array([[s[i], s[j]] for i, j in groups]))
        return float(chance @ adversarial_loss(score, demo, both).numpy())

    best = optimize.minimize(total, np.zeros(3), tol=1e-12).x
    np.testing.assert_allclose(best, np.log(p / q), atol=1e-4)
    score, demo = torch.tensor(best)[None], torch.tensor([[True, False, False]])
    expected = np.logaddexp(0, -best[0]) + np.logaddexp(0, best[1:]).mean()
    assert adversarial_loss(score, demo, torch.ones(1, 3, dtype=torch.bool)).item() == pytest.approx(expected, abs=1e-9)
    alone = adversarial_loss(score, demo, torch.tensor([[True, False, False]])).item()
    assert alone == pytest.approx(np.logaddexp(0, -best[0]), abs=1e-9)


def test_ratings() -> None:
    output = torch.tensor([[[1.0], [3.0], [9.0]]], dtype=torch.float64)
    found = said(torch.tensor([[2.0, 5.0, 0.0]]), torch.tensor([[True, True, False]]))
    # (1 - 2)^2, (3 - 5)^2; with mean 1 and deviation 2 the wanted scores are .5 and 2
    assert RatingsConfig().loss(output, found).item() == pytest.approx(2.5)
    assert RatingsConfig(rating_mean=1.0, rating_std=2.0).loss(output, found).item() == pytest.approx((0.25 + 1.0) / 2)
    # differences 2 and 3
    assert RatingsConfig(target="difference").loss(output, found).item() == pytest.approx(1.0)
    one = said(torch.tensor([[2.0, 0.0]]), torch.tensor([[True, False]]))
    assert RatingsConfig().counted(one).tolist() == [True]
    assert RatingsConfig(target="difference").counted(one).tolist() == [False]


# Advantages


def test_the_advantage_model_is_bounded() -> None:
    a = torch.tensor([0.5, 2.9, 5.0], dtype=torch.float64)
    found = barrier(a, 3.0)
    # -log(2.5), -log(.1); beyond 2.94 a line of value -log(.06) and slope 1 / .06
    expected = [-math.log(2.5), -math.log(0.1), -math.log(0.06) + (5 - 2.94) / 0.06]
    np.testing.assert_allclose(found, expected, atol=1e-9)
    output = torch.tensor([[[1.0], [-0.5]]], dtype=torch.float64)
    pair = said(torch.tensor([[1.0, 0.0]]))
    plain = math.log1p(math.exp(-1.5))
    assert AdvantageModelConfig(barrier_coefficient=0).loss(output, pair).item() == pytest.approx(plain, abs=1e-9)
    # the paper's two barriers: -log(m - a_chosen) - log(m + a_rejected)
    assert AdvantageModelConfig().loss(output, pair).item() == pytest.approx(plain - math.log(2) - math.log(2.5), abs=1e-9)
    # centred on the group's mean .25: .75 and -.75
    centred = AdvantageModelConfig(center="group").loss(output, pair).item()
    assert centred == pytest.approx(plain - 2 * math.log(2.25), abs=1e-9)
    shifted = AdvantageModelConfig(center="group").loss(output + 7, pair).item()
    assert shifted == pytest.approx(centred, abs=1e-9)
    # the mean is that of the replies that are there
    three = torch.cat([output, torch.full((1, 1, 1), 99.0, dtype=torch.float64)], 1)
    absent = said(torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([[True, True, False]]))
    assert AdvantageModelConfig(center="group").loss(three, absent).item() == pytest.approx(centred, abs=1e-9)


def test_regret_of_segments() -> None:
    # chain 0 -> 1 -> 2 (end): rewards 1 and 2, V* = 3, 2, 0; a detour costs 4 of the first reward
    mask = torch.ones(2, 2, dtype=torch.bool)
    reward = torch.tensor([[1.0, 2.0], [-3.0, 2.0]])
    start, end = torch.tensor([3.0, 3.0]), torch.zeros(2)
    assert deterministic_regret(reward, start, end, mask).tolist() == [0.0, 4.0]
    # cut off after the first step, where V* is 2
    first = torch.tensor([[True, False], [True, False]])
    assert deterministic_regret(reward, start, torch.full((2,), 2.0), first).tolist() == [0.0, 4.0]
    # A* of the same steps: 0, 0 and -4, 0
    assert stochastic_regret(torch.tensor([[0.0, 0.0], [-4.0, 0.0]]), mask).tolist() == [0.0, 4.0]
    # a potential changes partial returns, not regrets: r + f(next) - f(now), V* - f
    f = torch.tensor([5.0, -1.0, 0.0])
    shaped = reward + torch.stack([f[1] - f[0], f[2] - f[1]])
    assert deterministic_regret(shaped, start - f[0], end - f[2], mask).tolist() == [0.0, 4.0]
    half = torch.tensor([[True, False], [True, False]])
    assert stochastic_regret(torch.tensor([[-1.0, -9.0], [-4.0, 9.0]]), half).tolist() == [1.0, 4.0]


def test_the_regret_objective_pins_the_best_reply_to_zero() -> None:
    output = torch.tensor([[[2.0], [1.0]]], dtype=torch.float64)
    pair = said(torch.tensor([[1.0, 0.0]]))
    bt = math.log1p(math.exp(-1))
    assert RegretConfig(anchor_coefficient=0).loss(output, pair).item() == pytest.approx(bt, abs=1e-9)
    assert RegretConfig(anchor_coefficient=0.5).loss(output, pair).item() == pytest.approx(bt + 0.5 * 4, abs=1e-9)
    assert RegretConfig(anchor_coefficient=0.5).loss(output - 2, pair).item() == pytest.approx(bt, abs=1e-9)


def test_regret_preferences_give_a_greedy_policy_that_is_optimal() -> None:
    """A tabular MDP: labels by regret, learned as scores of steps. Greedy in them is optimal; a constant added to all is not seen."""
    rng = np.random.default_rng(3)
    states, actions = 4, 3
    reward, following = rng.normal(size=(states, actions)), rng.integers(0, states + 1, (states, actions))
    following = np.maximum(following, np.arange(states)[:, None] + 1).clip(max=states)  # every step goes on, state 4 is the end
    value = np.zeros(states + 1)
    for s in reversed(range(states)):
        value[s] = (reward[s] + value[following[s]]).max()
    advantage = reward + value[following] - value[:states, None]
    steps = list(product(range(states), range(actions)))
    pairs = [(a, b) for a in steps for b in steps if a < b]
    score = torch.zeros(states, actions, dtype=torch.float64, requires_grad=True)
    wins = torch.tensor([1 / (1 + math.exp(advantage[b] - advantage[a])) for a, b in pairs])  # P(a preferred) by regret

    def loss(table: Tensor) -> Tensor:
        first = torch.stack([table[a] for a, _ in pairs])
        second = torch.stack([table[b] for _, b in pairs])
        return (wins * bradley_terry_loss(first, second) + (1 - wins) * bradley_terry_loss(second, first)).mean()

    optimizer = torch.optim.LBFGS([score], max_iter=300, line_search_fn="strong_wolfe", tolerance_grad=1e-10)

    def closure() -> Tensor:
        optimizer.zero_grad()
        found = loss(score)
        found.backward()
        return found

    optimizer.step(closure)
    learned = score.detach()
    assert torch.equal(learned.argmax(1), torch.from_numpy(advantage.argmax(1)))
    np.testing.assert_allclose(learned - learned.mean(), advantage - advantage.mean(), atol=1e-2)
    assert loss(learned + 5).item() == pytest.approx(loss(learned).item(), abs=1e-12)
    # taken for rewards, a constant changes which paths look best: steps are few or many
    lengths = [len(greedy_path(learned.numpy() + c, following)) for c in (-10.0, 10.0)]
    assert lengths[0] < lengths[1]


def greedy_path(reward: np.ndarray, following: np.ndarray) -> list[int]:
    """States on the best path from state 0 when the table is taken for a reward."""
    states = len(reward)
    value = np.zeros(states + 1)
    for s in reversed(range(states)):
        value[s] = (reward[s] + value[following[s]]).max()
    path, s = [], 0
    while s < states:
        path.append(s)
        s = int(following[s, (reward[s] + value[following[s]]).argmax()])
    return path


# Length apart


def test_correlation_and_its_gradient() -> None:
    rng = np.random.default_rng(0)
    x = torch.tensor(rng.normal(size=(3, 2)), requires_grad=True)
    y = torch.tensor(rng.normal(size=(3, 2)) + 0.5 * x.detach().numpy())
    mask = torch.tensor([[True, True], [True, False], [True, True]])
    sums = paired_moments(x.detach(), y, mask)
    a, b = x[mask], y[mask]
    rho = ((a - a.mean()) * (b - b.mean())).mean() / (a.std(correction=0) * b.std(correction=0))
    assert correlation(sums) == pytest.approx(float(np.corrcoef(a.detach(), b)[0, 1]), abs=1e-12)
    rho.backward()
    value, gradient = correlation_gradient(x.detach(), y, mask, sums)
    assert value == pytest.approx(rho.item(), abs=1e-12)
    np.testing.assert_allclose(gradient, x.grad, atol=1e-12)
    # in two parts, with the sums of both
    parts = [slice(0, 1), slice(1, 3)]
    assert torch.allclose(sums, sum(paired_moments(x.detach()[p], y[p], mask[p]) for p in parts))
    halves = [correlation_gradient(x.detach()[p], y[p], mask[p], sums)[1] for p in parts]
    np.testing.assert_allclose(torch.cat(halves), x.grad, atol=1e-12)
    constant = paired_moments(torch.ones(2, 2).double(), y[:2], torch.ones(2, 2, dtype=torch.bool))
    assert correlation(constant) == 0.0
    assert correlation_gradient(torch.ones(2, 2).double(), y[:2], torch.ones(2, 2, dtype=torch.bool), constant)[1].abs().sum() == 0


def test_odin_takes_length_out_of_the_first_head() -> None:
    rng = np.random.default_rng(1)
    output = torch.tensor(rng.normal(size=(5, 2, 2)), requires_grad=True)
    found = said(torch.tensor([[1.0, 0.0]] * 5), length=torch.tensor(rng.integers(5, 50, (5, 2)).astype(float)))
    objective = ODINConfig(length_coefficient=0.7)
    flat = output.flatten(0, 1)
    length = found.length.flatten()

    def rho(x: Tensor) -> Tensor:
        return ((x - x.mean()) * (length - length.mean())).mean() / (x.std(correction=0) * length.std(correction=0))

    (0.7 * (rho(flat[:, 0]).abs() - rho(flat[:, 1]))).backward()
    coupling = objective.coupling(output.detach(), found, objective.moments(output.detach(), found))
    assert output.grad is not None
    np.testing.assert_allclose(coupling, output.grad, atol=1e-12)
    # Bradley–Terry reads the sum of both heads
    gap = output.detach().sum(-1)
    expected = bradley_terry_loss(gap[:, 0], gap[:, 1])
    np.testing.assert_allclose(objective.loss(output.detach(), found), expected, atol=1e-12)
    head = torch.tensor([[1.0, 2.0], [3.0, -4.0]])
    assert ODINConfig(orthogonal_coefficient=0.5).regulariser(head).item() == pytest.approx(2.5)  # type: ignore[union-attr]


# All of them


@pytest.mark.parametrize("kind", OBJECTIVES)
@pytest.mark.parametrize("size", [1e4, -1e4])
def test_every_objective_is_finite_at_extremes(kind: str, size: float) -> None:
    objective = resolve("trueup.rewards.objectives", ObjectiveConfig, kind)
    output = torch.zeros(1, 3, objective.outputs)
    output[0, 0] = size
    output.requires_grad_(True)
    value = objective.loss(output, said(torch.tensor([[2.0, 1.0, 0.0]]), margin=1.0)).sum()
    value.backward()
    assert torch.isfinite(value)
    assert output.grad is not None
    assert torch.isfinite(output.grad).all()


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_what_a_shift_of_all_scores_changes(kind: str) -> None:
    # an objective that compares replies does not see a shift; one that fixes the zero does
    fixes_zero = {"ratings", "adversarial", "advantage_model", "regret"}
    objective = resolve("trueup.rewards.objectives", ObjectiveConfig, kind)
    output = torch.tensor([[[0.3], [1.0], [-0.2]]], dtype=torch.float64).expand(1, 3, objective.outputs).clone()
    moved = output.clone()
    moved[..., 0] += 0.7
    found = said(torch.tensor([[2.0, 1.0, 0.0]]))
    same = objective.loss(moved, found).item() == pytest.approx(objective.loss(output, found).item(), abs=1e-9)
    assert same == (kind not in fixes_zero)


@pytest.mark.parametrize("kind", ["bradley_terry", "flip_noise", "plackett_luce", "best_of_k"])
def test_the_population_optimum_is_the_log_odds(kind: str) -> None:
    # a reply that wins with probability .8: without a margin or smoothing the best difference is log 4
    settings = {"flip_probability": 0.0} if kind == "flip_noise" else {}
    objective = resolve("trueup.rewards.objectives", ObjectiveConfig, {"kind": kind, **settings})
    found = least(lambda d: 0.8 * of_pair(objective, d) + 0.2 * of_pair(objective, -d))
    assert found == pytest.approx(math.log(4), abs=1e-4)
    assert PlackettLuceConfig().outputs == 1
