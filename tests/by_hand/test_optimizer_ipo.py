"""IPO: numbers worked out on paper."""

from __future__ import annotations

import pytest
import torch

from trueup.ops.preference import ipo_loss
from trueup.optimizers.ipo import IPOConfig


def test_golden_number() -> None:
    # h = 1.5, tau = .1: (1.5 - 5)^2 = 12.25
    assert ipo_loss(torch.tensor([1.5]), 0.1).tolist() == pytest.approx([12.25])


def test_the_margin_is_of_sums_over_tokens() -> None:
    # log-ratios 2 and .5, whatever the lengths: the same 12.25; lengths would make it 2 / 4 - .5 / 2 = .25 and (.25 - 5)^2
    logp, ref = torch.tensor([[-3.0, -2.0]]), torch.tensor([[-5.0, -2.5]])
    assert IPOConfig(beta=0.1).pair_loss(logp, ref, torch.tensor([[4, 2]])).tolist() == pytest.approx([12.25])
    assert IPOConfig(beta=0.1).implicit_reward(logp, ref)[0].tolist() == pytest.approx([0.2, 0.05])


def test_population_optimum() -> None:
    # preferred with chance p: p (h - a)^2 + (1 - p) (-h - a)^2 with a = 1 / (2 tau) is least at h = (2p - 1) a: p = .8, tau = .5 -> .6
    h = torch.tensor([0.59, 0.6, 0.61])
    loss = 0.8 * ipo_loss(h, 0.5) + 0.2 * ipo_loss(-h, 0.5)
    assert loss.argmin().item() == 1
