"""Numbers worked out on paper, or taken from the golden table that was computed apart from this code."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from trueup.data.rows import Judged, Prompt, Reply
from trueup.learn.table import Mean
from trueup.ops.kl import adapted_beta, kl_k1, kl_k2, kl_k3
from trueup.ops.masking import keep, last_valid, mean_of, sequence_sum, weighted_sum
from trueup.ops.policy_gradient import clipped_surrogate, leave_one_out, reinforce, value_loss
from trueup.ops.returns import gae, moments, rescale, shaped_reward, standardise
from trueup.ops.weights import counts, row_mean, sequence_mean, token_mean
from trueup.rewards.fit import judgements
from trueup.rewards.objectives.bradley_terry import BradleyTerryConfig, bradley_terry_loss

ALL = torch.ones(1, 4, dtype=torch.bool)


def assert_near(a: torch.Tensor, b: object, tol: float = 1e-5) -> None:
    torch.testing.assert_close(a.double(), torch.as_tensor(b, dtype=torch.float64), rtol=tol, atol=tol)


def test_bradley_terry_golden_numbers() -> None:
    # softplus(0) = ln 2; softplus(-0.8) = ln(1 + e^-0.8)
    assert_near(bradley_terry_loss(torch.tensor([0.0, 0.8]), torch.tensor([0.0, 0.0])), [0.6931472, 0.3711007])


def test_bradley_terry_raises_the_chosen_score() -> None:
    # The seed paper prints the sign reversed; dL/dr_chosen = -sigmoid(-0.8) = -0.3100255
    chosen = torch.tensor([0.8], requires_grad=True)
    bradley_terry_loss(chosen, torch.zeros(1)).sum().backward()
    assert_near(chosen.grad, [-0.3100255])


def test_bradley_terry_is_shift_invariant_and_finite() -> None:
    a, b = torch.tensor([3.0, -1e4, 1e4]), torch.tensor([1.0, 1e4, -1e4])
    assert_near(bradley_terry_loss(a, b)[0], bradley_terry_loss(a + 7, b + 7)[0])
    assert torch.isfinite(bradley_terry_loss(a, b)).all()
    # loss(D) - loss(-D) = -D, D = 2
    assert_near(bradley_terry_loss(a[:1], b[:1]) - bradley_terry_loss(b[:1], a[:1]), [-2.0])


def test_centring_adds_the_squared_sum() -> None:
    pair = Judged(id="0", prompt=Prompt(id="p", text="x"), replies=(Reply(text="a"), Reply(text="b")), ratings=(1, 0))
    judged = judgements([pair], torch.zeros(1))
    loss = BradleyTerryConfig(center_rewards_coefficient=0.5).loss(torch.tensor([[[2.0], [1.0]]]), judged)
    assert_near(loss, [math.log(1 + math.exp(-1)) + 0.5 * 9])


def test_leave_one_out_golden() -> None:
    # 1 - (2+4+5)/3, ...
    assert_near(leave_one_out(torch.tensor([1.0, 2.0, 4.0, 5.0]), 4), [-2.6666667, -1.3333333, 1.3333333, 2.6666667])
    # two prompts apart; each pair is +-(difference)
    assert_near(leave_one_out(torch.tensor([1.0, 3.0, 10.0, 4.0]), 2), [-2, 2, 6, -6])


def test_leave_one_out_refuses_single_samples() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        leave_one_out(torch.ones(3), 1)


def test_gae_golden() -> None:
    r, v = torch.tensor([[0.1, -0.2, 0.3, 1.0]]), torch.tensor([[0.5, 0.4, 0.2, 0.6]])
    assert_near(gae(r, v, ALL, 1.0, 0.95), [[0.5947, 0.6260, 1.0800, 0.4000]], 1e-4)
    assert_near(gae(r, v, ALL, 1.0, 1.0), [[0.7, 0.7, 1.1, 0.4]])  # return to go minus value
    assert_near(gae(r, v, ALL, 1.0, 0.0), [[0.0, -0.4, 0.7, 0.4]])  # one-step errors


def test_gae_ends_at_the_mask() -> None:
    mask = torch.tensor([[True, True, False]])
    assert_near(gae(torch.tensor([[1.0, 2.0, 9.0]]), torch.tensor([[0.5, 0.25, 9.0]]), mask, 1.0, 1.0), [[2.5, 1.75, 0.0]])


def test_gae_discounts() -> None:
    # two tokens, V = 0: A_0 = 0 + .5 * lam * 1 with gamma .5, lam .5
    assert_near(gae(torch.tensor([[0.0, 1.0]]), torch.zeros(1, 2), ALL[:, :2], 0.5, 0.5), [[0.25, 1.0]])


def test_whitening_golden() -> None:
    x = torch.tensor([[1.2, 1.3, 1.4], [1.5, 1.6, 1.7], [1.8, 1.9, 2.0]], dtype=torch.float64)
    mask = torch.ones(3, 3, dtype=torch.bool)
    assert_near(rescale(x, mask, moments(x, mask))[0], [0.0508068, 0.4381051, 0.8254034])
    assert_near(standardise(x, mask, moments(x, mask))[0], [0.0508068 - 1.6, 0.4381051 - 1.6, 0.8254034 - 1.6])


def test_standardise_ignores_padding() -> None:
    x, mask = torch.tensor([[1.0, 3.0, 99.0]]), torch.tensor([[True, True, False]])
    assert_near(standardise(x, mask, moments(x, mask)), [[-1.0, 1.0, 0.0]])


def test_score_sits_on_the_last_token_and_kl_is_a_cost() -> None:
    mask = torch.tensor([[True, True, False], [True, True, True]])
    gap = torch.tensor([[1.0, 0.0, 7.0], [0.0, 2.0, -1.0]])
    assert_near(shaped_reward(torch.tensor([5.0, -1.0]), gap, mask, 0.5), [[-0.5, 5.0, 0.0], [0.0, -1.0, 0.5 - 1.0]])


def test_clip_binds_only_when_it_lowers_the_objective() -> None:
    # ratio 2 2 1/2 1/2, advantage + - + -, clip .2
    logp = torch.tensor([[2.0, 2.0, 0.5, 0.5]]).log()
    s = clipped_surrogate(logp, torch.zeros(1, 4), torch.tensor([[1.0, -1.0, 1.0, -1.0]]), ALL, 0.2)
    assert_near(s.loss, [[-1.2, 2.0, -0.5, 0.8]])
    assert s.clipped.tolist() == [[True, False, False, True]]
    assert_near(s.log_ratio, logp)


def test_reinforce() -> None:
    assert_near(reinforce(torch.tensor([-2.0, -3.0]), torch.tensor([0.5, -1.0])), [1.0, -3.0])


def test_value_clip_is_pessimistic() -> None:
    v, old, target = torch.ones(1, 4), torch.tensor([[0.0, 0.0, 1.0, 0.0]]), torch.tensor([[1.0, 0.0, 0.0, 2.0]])
    # clipped value .2 .2 1 .2: squared errors max(0,.64), max(1,.04), 1, max(1,3.24)
    assert_near(value_loss(v, old, target, ALL, 0.2), [[0.32, 0.5, 0.5, 1.62]])


def test_adaptive_beta_golden() -> None:
    assert adapted_beta(0.15, 3, 6, 512, 10_000) == pytest.approx(0.148464)
    assert adapted_beta(0.15, 6, 6, 512, 10_000) == pytest.approx(0.15)
    assert adapted_beta(0.15, 12, 6, 512, 10_000) == pytest.approx(0.151536)


def test_kl_estimators_on_gaussians() -> None:
    # sampler q = N(0,1), p = N(mu,1): log q/p = mu^2/2 - mu x. Means mu^2/2, mu^2/2 + mu^4/8, mu^2/2; Var k3 = e^{mu^2} - 1 - mu^2
    # exact expectations by Gauss-Hermite quadrature
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    x, p = torch.from_numpy(nodes), torch.from_numpy(weights / weights.sum())
    for mu in (0.1, 1.0):
        ratio = mu**2 / 2 - mu * x
        mean = {k.__name__: (p * k(ratio)).sum().item() for k in (kl_k1, kl_k2, kl_k3)}
        assert mean == pytest.approx({"kl_k1": mu**2 / 2, "kl_k2": mu**2 / 2 + mu**4 / 8, "kl_k3": mu**2 / 2})
        variance = (p * kl_k3(ratio) ** 2).sum().item() - mean["kl_k3"] ** 2
        assert variance == pytest.approx(math.exp(mu**2) - 1 - mu**2, rel=1e-6)
    assert (kl_k3(ratio) >= 0).all()
    assert (kl_k2(ratio) >= 0).all()


def test_reductions() -> None:
    mask = torch.tensor([[True, True, True], [True, False, False]])
    assert counts(mask).tolist() == [2, 4]
    assert_near(token_mean(mask, 4), [[0.25, 0.25, 0.25], [0.25, 0, 0]])
    assert_near(sequence_mean(mask, 2), [[1 / 6, 1 / 6, 1 / 6], [0.5, 0, 0]])
    assert_near(row_mean(torch.zeros(2, 5), 4), [0.25, 0.25])


def test_masking() -> None:
    x = torch.tensor([[1.0, float("nan")], [3.0, 4.0]], requires_grad=True)
    mask = torch.tensor([[True, False], [True, True]])
    total = weighted_sum(x, torch.full((2, 2), 2.0), mask)
    total.backward()
    assert_near(total.detach(), 16.0)
    assert_near(x.grad, [[2.0, 0.0], [2.0, 2.0]])
    assert_near(keep(x.detach(), mask, 9.0), [[1.0, 9.0], [3.0, 4.0]])
    assert_near(sequence_sum(x.detach(), mask), [1.0, 7.0])
    assert mean_of(x, mask) == Mean(8.0, 3.0)
    assert mean_of(torch.tensor([1.0, 2.0])) == Mean(3.0, 2.0)
    assert last_valid(torch.tensor([[True, True, False], [False, False, False]])).tolist() == [1, -1]
