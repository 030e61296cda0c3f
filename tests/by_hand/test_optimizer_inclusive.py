"""Inclusive learning: Luce's choice rule on paper."""

from __future__ import annotations

import math

import pytest
import torch

from trueup.ops.preference import luce_loss
from trueup.optimizers.inclusive import InclusiveConfig


def test_luce_by_hand() -> None:
    # P = .3 and .1: preferred with chance .3 / .4 = .75
    assert luce_loss(torch.tensor([[0.3, 0.1]]).log()).tolist() == pytest.approx([-math.log(0.75)])
    # both ten times less probable: the same
    assert luce_loss(torch.tensor([[0.03, 0.01]]).log()).tolist() == pytest.approx([-math.log(0.75)])


def test_closeness_is_half_the_squared_log_ratio_of_both() -> None:
    # log-ratios 1 and -2: .1 * (1 + 4) / 2 = .25
    logp = torch.tensor([[-1.0, -1.0]])
    found = InclusiveConfig(closeness=0.1).pair_loss(logp, torch.tensor([[-2.0, 1.0]]), torch.ones(1, 2))
    assert found.tolist() == pytest.approx([math.log(2) + 0.25])


def test_the_reward_is_the_log_probability_itself() -> None:
    logp = torch.tensor([[-1.0, -3.0]])
    assert torch.equal(InclusiveConfig().implicit_reward(logp, torch.zeros(1, 2)), logp)


def test_it_is_dpo_with_a_flat_reference() -> None:
    from trueup.optimizers.dpo import DPOConfig

    logp = torch.tensor([[-1.0, -3.0], [-2.0, -0.5]])
    flat = torch.full((2, 2), -4.0)
    inclusive = InclusiveConfig(closeness=0).pair_loss(logp, flat, torch.ones(2, 2))
    torch.testing.assert_close(inclusive, DPOConfig(beta=1.0).pair_loss(logp, flat, torch.ones(2, 2)))


def test_a_reply_given_twice_shares_its_probability() -> None:
    # a third of people like y, two thirds z; where z comes in two spellings that are liked alike, Luce gives each of them what y has:
    # at (1/3, 1/3, 1/3) all three pairs are even, and the gradient of the population's loss is 0
    logp = torch.full((3,), 1 / 3).log().requires_grad_()
    pairs = torch.tensor([(a, b) for a in range(3) for b in range(3) if a != b])
    luce_loss(logp[pairs]).sum().backward()
    assert logp.grad is not None
    assert logp.grad.abs().max().item() < 1e-6
