"""Ensembles, averaged weights and the Bayesian last layer: golden numbers, invariants, and what they amount to on small problems."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import integrate, special, stats
from torch import Tensor, nn

from tests_support import WORDS, tiny_reward
from trueup.core.errors import UserError
from trueup.core.rng import Key
from trueup.data.rows import Preference, Prompt, Reply
from trueup.models.embedding_reward import Embedded, new_embedding_reward
from trueup.models.merge import average_states, merged_module
from trueup.ops.ensembles import Aggregate, aggregate, disagreement, member_correlation
from trueup.rewards.ensemble import EnsembleReward, HeadsReward
from trueup.rewards.last_layer import LastLayerReward, fit_posterior
from trueup.rewards.learned import LearnedReward, Scale
from trueup.rewards.linear_mode import linear_path
from trueup.rewards.objectives.heads import HeadsConfig, sees
from trueup.rewards.objectives.protocol import Judgements
from trueup.stats.last_layer import best_last_layer, fit_last_layer

THREE = torch.tensor([[1.0], [1.2], [2.6]], dtype=torch.float64)
RULES: tuple[Aggregate, ...] = ("mean", "median", "min", "uwo", "mean_std", "soft_min")


def one(rule: Aggregate, coefficient: float = 0.5, scores: Tensor = THREE) -> float:
    return aggregate(scores, rule, coefficient).item()


def test_rules_golden() -> None:
    assert one("mean") == pytest.approx(1.6)
    assert one("median") == pytest.approx(1.2)
    assert one("min") == pytest.approx(1.0)
    # population variance (.36 + .16 + 1) / 3 = .5066667
    assert one("uwo") == pytest.approx(1.3466667, abs=1e-7)
    assert one("mean_std") == pytest.approx(1.6 - 0.5 * math.sqrt(1.52 / 3), abs=1e-9)
    assert one("soft_min", 1.0) == pytest.approx(1.3952043, abs=1e-7)
    # every reply by itself: beside one on which all agree, nothing changes
    beside = torch.cat([THREE, torch.full_like(THREE, 9.0)], 1)
    for rule in RULES:
        assert aggregate(beside, rule, 0.5).tolist() == pytest.approx([one(rule), 9.0]), rule
    assert one("median", scores=torch.cat([THREE, torch.tensor([[1.4]])])) == pytest.approx(1.3)
    assert disagreement(THREE).item() == pytest.approx(math.sqrt(1.52 / 3), abs=1e-9)


def test_rules_invariants() -> None:
    for rule in RULES:
        same = torch.full((4, 1), 0.7, dtype=torch.float64)
        assert one(rule, scores=same) == pytest.approx(0.7), rule  # members that agree are one member
        assert one(rule, scores=THREE + 5) == pytest.approx(one(rule) + 5), rule
        assert one(rule, 0.5) <= one("mean") + 1e-12 or rule == "mean"
    for rule in ("mean", "median", "min", "mean_std"):
        assert one(rule, scores=3 * THREE) == pytest.approx(3 * one(rule))  # type: ignore[arg-type]
    assert one("uwo", 0.5, 3 * THREE) == pytest.approx(3 * one("uwo", 1.5))
    for rule in ("uwo", "mean_std", "soft_min"):
        assert one(rule, 0.0) == pytest.approx(1.6)  # type: ignore[arg-type]
    assert one("soft_min", 1e4) == pytest.approx(1.0, abs=1e-3)
    # second order: soft_min = uwo of half the coefficient
    assert one("soft_min", 1e-3) == pytest.approx(one("uwo", 5e-4), abs=1e-6)


def test_the_correlation_of_members() -> None:
    rng = np.random.default_rng(0)
    scores = torch.tensor(rng.normal(size=(3, 50)) + rng.normal(size=50))
    expected = np.corrcoef(scores)[np.triu_indices(3, 1)].mean()
    assert member_correlation(scores) == pytest.approx(expected, abs=1e-12)
    assert math.isnan(member_correlation(scores[:1]))
    assert math.isnan(member_correlation(torch.ones(2, 5)))


def test_an_ensemble_is_a_reward() -> None:
    members = [LearnedReward(tiny_reward(seed), Scale(gain=2.0, shift=float(seed))) for seed in (1, 2, 3)]
    prompts, replies = ["good", "bad"], [Reply(text=WORDS[0]), Reply(text=f"{WORDS[1]} {WORDS[2]}")]
    each = torch.stack([m.score(prompts, replies) for m in members])
    for rule in RULES:
        ensemble = EnsembleReward(members, rule, 0.3)
        assert torch.equal(ensemble.score(prompts, replies), aggregate(each, rule, 0.3))
    assert torch.equal(EnsembleReward(members).member_scores(prompts, replies), each)
    with pytest.raises(ValueError, match="at least one"):
        EnsembleReward([])


def test_heads_are_members_of_one_pass() -> None:
    model = tiny_reward(outputs=3)
    prompts, replies = ["good"] * 5, [Reply(text=w) for w in WORDS[:5]]
    raw = model.outputs(model.encode(prompts, replies)).T
    torch.testing.assert_close(HeadsReward(model, rows=2).member_scores(prompts, replies), raw.detach())
    scales = [Scale(gain=1.0, shift=0.0), Scale(gain=2.0, shift=1.0), Scale(gain=0.5, shift=-1.0)]
    scaled = HeadsReward(model, scales, "min")
    expected = torch.stack([raw[0], 2 * raw[1] + 1, 0.5 * raw[2] - 1])
    torch.testing.assert_close(scaled.member_scores(prompts, replies), expected)
    torch.testing.assert_close(scaled.score(prompts, replies), expected.amin(0))


def test_each_head_sees_its_own_part_of_the_data() -> None:
    rows = torch.arange(50_000)
    seen = sees(rows, 5, 0.8)
    assert seen.double().mean(0).tolist() == pytest.approx([0.8] * 5, abs=0.01)  # 5 standard errors
    both = np.corrcoef(seen.double().T)
    assert np.abs(both[np.triu_indices(5, 1)]).max() < 0.05  # which rows are left out is unrelated
    assert torch.equal(sees(rows[100:200], 5, 0.8), seen[100:200])
    assert bool(sees(rows, 3, 1.0).all())
    # by hand: head 0 does not see a row, so its gradient there is 0, and the others' is that of Bradley–Terry over members * share
    row = int((~seen[:, 0] & seen[:, 1:].all(1)).nonzero()[0])
    judged = Judgements(
        rating=torch.tensor([[1.0, 0.0]]), present=torch.ones(1, 2, dtype=torch.bool), margin=torch.zeros(1), length=torch.zeros(1, 2),
        row=torch.tensor([row]),
    )  # fmt: skip
    output = torch.zeros(1, 2, 5, requires_grad=True)
    loss = HeadsConfig().loss(output, judged)
    assert loss.item() == pytest.approx(4 * math.log(2) / (5 * 0.8))
    loss.sum().backward()
    assert output.grad is not None
    assert output.grad[0, 0].tolist() == pytest.approx([0.0] + [-0.5 / 4] * 4)
    assert HeadsConfig(members=7).outputs == 7


# Averaged weights


def test_averages_of_weights() -> None:
    a, b = {"w": torch.tensor([1.0, 2.0]), "n": torch.tensor(3)}, {"w": torch.tensor([3.0, 6.0]), "n": torch.tensor(3)}
    assert average_states([a, b])["w"].tolist() == [2.0, 4.0]
    assert average_states([a, b], [0.75, 0.25])["w"].tolist() == [1.5, 3.0]
    assert average_states([a, b])["n"].item() == 3
    assert torch.equal(average_states([a])["w"], a["w"])
    with pytest.raises(UserError, match="such as 'w'"):
        average_states([a, {"w": torch.zeros(3), "n": torch.tensor(3)}])
    with pytest.raises(UserError, match="such as 'v'"):
        average_states([a, {**a, "v": torch.zeros(1)}])
    with pytest.raises(UserError, match="integers that differ"):
        average_states([a, {**a, "n": torch.tensor(4)}])
    with pytest.raises(ValueError, match="1 weights"):
        average_states([a, b], [1.0])


def test_averaged_heads_on_frozen_features_are_the_mean_of_their_scores() -> None:
    torch.manual_seed(0)
    heads = [nn.Linear(4, 1) for _ in range(3)]
    x = torch.randn(6, 4)
    torch.testing.assert_close(merged_module(heads)(x), torch.stack([h(x) for h in heads]).mean(0))
    before = [h.weight.clone() for h in heads]
    merged_module(heads)
    assert all(torch.equal(h.weight, b) for h, b in zip(heads, before, strict=True))


def test_permuted_hidden_units_break_the_average() -> None:
    """The same function with its hidden units in another order: no shared beginning, so the average is another function."""
    torch.manual_seed(1)
    first = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))
    order = torch.tensor([3, 1, 7, 0, 6, 2, 5, 4])
    second = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))
    with torch.no_grad():
        second[0].weight.copy_(first[0].weight[order])  # type: ignore[operator]
        second[0].bias.copy_(first[0].bias[order])  # type: ignore[operator]
        second[2].weight.copy_(first[2].weight[:, order])  # type: ignore[operator]
        second[2].bias.copy_(first[2].bias)  # type: ignore[operator]
    x = torch.randn(50, 3)
    torch.testing.assert_close(first(x), second(x))
    assert (merged_module([first, second])(x) - first(x)).abs().max() > 0.05
    torch.testing.assert_close(merged_module([first, first])(x), first(x))


def pair(chosen: str, rejected: str) -> Preference:
    return Preference(id="", prompt=Prompt(id="p", text="ask"), chosen=Reply(text=chosen), rejected=Reply(text=rejected))


def test_the_line_between_two_reward_models() -> None:
    first, second = tiny_reward(1), tiny_reward(1)
    with torch.no_grad():
        second.model.score.weight.neg_()  # the other end orders everything the other way round
    pairs = [pair(a, b) for a in WORDS[:4] for b in WORDS[:4] if a != b]
    before = {k: v.clone() for k, v in first.module.state_dict().items()}
    path = linear_path(first, second, pairs[:3])
    assert path.share == (0, 0.25, 0.5, 0.75, 1)
    right = path.accuracy[0]
    # until the middle the first one's order, at the middle all tied, then the other's
    assert path.accuracy == pytest.approx((right, right, 0.5, 1 - right, 1 - right))
    assert path.interpolated == pytest.approx([(1 - s) * right + s * (1 - right) for s in path.share])
    assert path.gap == pytest.approx(max(b - a for a, b in zip(path.accuracy, path.interpolated, strict=True)))
    assert all(torch.equal(v, before[k]) for k, v in first.module.state_dict().items())


# Bayesian last layer


def test_the_last_layer_finds_the_best_weights() -> None:
    rng = np.random.default_rng(2)
    x = rng.normal(size=(300, 3)) * np.array([1.0, 0.5, 2.0])
    x *= np.where(rng.random(300) < special.expit(x @ [1.0, -2.0, 0.3]), 1, -1)[:, None]
    found = fit_last_layer(x, 0.5)
    p = special.expit(x @ found.mean)
    np.testing.assert_allclose(-(1 - p) @ x + 0.5 * found.mean, 0, atol=1e-6)  # the slope is 0 there
    np.testing.assert_allclose(found.precision, (x * (p * (1 - p))[:, None]).T @ x + 0.5 * np.eye(3), atol=1e-9)
    # variance by plain inversion, chance by the stated approximation
    phi = rng.normal(size=(4, 3))
    mean, variance = found.difference(phi)
    np.testing.assert_allclose(variance, np.einsum("nd,de,ne->n", phi, np.linalg.inv(found.precision), phi), atol=1e-12)
    np.testing.assert_allclose(found.probability(phi), special.expit(mean / np.sqrt(1 + np.pi * variance / 8)), atol=1e-12)
    np.testing.assert_allclose(found.lower(phi, 2.0), mean - 2 * np.sqrt(variance), atol=1e-12)
    # a turn of the features turns the weights and leaves all that is said of replies
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    np.testing.assert_allclose(fit_last_layer(x @ turn, 0.5).difference(phi @ turn), (mean, variance), atol=1e-5)


def test_no_data_leaves_the_prior_and_data_reduce_variance() -> None:
    prior = fit_last_layer(np.zeros((1, 2)), 4.0)
    np.testing.assert_allclose(prior.precision, 4 * np.eye(2))
    np.testing.assert_allclose(prior.mean, 0)
    along = [fit_last_layer(np.tile([[1.0, 0.0], [-1.0, 0.0]], (n, 1)), 4.0) for n in (1, 5, 50)]
    widths = [float(f.difference([[1.0, 0.0]])[1][0]) for f in along]
    assert widths == sorted(widths, reverse=True)
    assert all(float(f.difference([[0.0, 1.0]])[1][0]) == pytest.approx(0.25) for f in along)  # nothing was asked there
    with pytest.raises(ValueError, match="above 0"):
        fit_last_layer(np.zeros((1, 2)), 0.0)


def test_the_evidence_is_that_of_the_integral() -> None:
    # one weight: the marginal likelihood by quadrature; Laplace's approximation comes close with enough labels
    rng = np.random.default_rng(3)
    x = rng.normal(size=60)
    x *= np.where(rng.random(60) < special.expit(1.5 * x), 1, -1)

    def integrand(w: float) -> float:
        return float(np.exp(-np.logaddexp(0, -x * w).sum() + 30) * stats.norm.pdf(w, 0, 1))

    exact = np.log(integrate.quad(integrand, -10, 10, points=[1.0])[0]) - 30
    assert fit_last_layer(x[:, None], 1.0).log_evidence == pytest.approx(exact, abs=0.01)
    chosen = best_last_layer(x[:, None], (1e-4, 1.0, 1e4))
    assert chosen.prior_precision == 1.0


class Wordy:
    """An embedder of two numbers: whether 'good' is there, and whether 'odd' is."""

    name, dimension = "wordy", 2

    def embed(self, texts: list[str]) -> np.ndarray:
        return np.array([[float("good" in t), float("odd" in t)] for t in texts], dtype=np.float32)


def test_pessimism_where_labels_said_nothing() -> None:
    model = new_embedding_reward(Wordy(), Key(0), features="reply")
    posterior = fit_posterior(model, [pair("good", "bad")] * 40 + [pair("bad", "good")] * 10)
    references = {"ask": [Reply(text="bad")]}
    replies = [Reply(text="good"), Reply(text="odd"), Reply(text="bad"), Reply(text="good odd")]
    bold = LastLayerReward(model, posterior, references, deviations=0.0).score(["ask"] * 4, replies)
    careful = LastLayerReward(model, posterior, references, deviations=1.0).score(["ask"] * 4, replies)
    assert bold[0] > 0.5
    assert bold[1:3].tolist() == pytest.approx([0.0, 0.0], abs=1e-6)
    assert careful[2] == 0.0  # the reference itself is certain
    assert careful[0] > careful[3]  # the unknown part costs
    assert careful[1] < -0.05
    against_odd = LastLayerReward(model, posterior, {"ask": [Reply(text="odd")]}, deviations=1.0).score(["ask"] * 4, replies)
    assert against_odd[1] == 0.0
    assert against_odd[3] > careful[3]  # beside a reference with the same unknown part, it costs nothing
    with pytest.raises(UserError, match="no reference reply"):
        LastLayerReward(model, posterior, references).score(["other"], replies[:1])
    assert isinstance(model.encode(["ask"], replies[:1]), Embedded)
