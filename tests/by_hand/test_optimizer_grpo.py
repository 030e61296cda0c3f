"""GRPO: advantages within groups, the four reductions, token ratios, what is refused."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from tests_support import tiny_parts
from trueup.core.rng import Key
from trueup.ops.policy_gradient import clipped_surrogate, group_standardised
from trueup.optimizers.experience import PromptBatch
from trueup.optimizers.grpo import GRPO, GRPOConfig

ASKED = PromptBatch(row=torch.arange(2), prompt=("ask", "tell good"), ids=((6,), (7, 3)))


def collected(**settings: Any) -> tuple[GRPO, Any]:
    learner = GRPOConfig(**{"max_completion_length": 5, "num_generations": 4, **settings}).build(tiny_parts())
    with torch.no_grad():
        return learner, learner.collect(ASKED, Key(3))


def test_advantages_of_a_group() -> None:
    # 1 2 4 5: mean 3, sample variance (4 + 1 + 1 + 4)/3 = 10/3; 2/sqrt(10/3) = 1.0954451 and 1/sqrt(10/3) = 0.5477226
    found = group_standardised(torch.tensor([1.0, 2, 4, 5, 7, 7, 7, 7]), 4, epsilon=0.0)
    assert found[:4].tolist() == pytest.approx([-1.0954451, -0.5477226, 0.5477226, 1.0954451])
    assert group_standardised(torch.full((4,), 7.0), 4).tolist() == [0.0] * 4  # 0/(0 + 1e-4)
    # two replies: (a - b)/2 over |a - b|/sqrt 2
    assert group_standardised(torch.tensor([3.0, 1.0]), 2, 0.0).tolist() == pytest.approx([1 / math.sqrt(2), -1 / math.sqrt(2)])


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_whose_deviation_divides(scale: str) -> None:
    _, e = collected(scale_rewards=scale)
    score = e.score.view(2, 4)
    centred = score - score.mean(1, keepdim=True)
    by = {"group": score.std(1, keepdim=True) + 1e-4, "batch": score.std() + 1e-4, "none": torch.tensor(1.0)}[scale]
    torch.testing.assert_close(e.advantage.view(2, 4), centred / by, atol=1e-5, rtol=1e-5)
    assert score.std() > 0.05


def test_reductions_weigh_tokens_as_they_say() -> None:
    learner, e = collected()
    mask = torch.tensor([[True, False, False], [True, True, True]])
    e = replace(
        e.take(torch.arange(2)), sequences=replace(e.sequences.take(torch.arange(2)), mask=mask), importance=torch.tensor([1.0, 2.0])
    )
    totals = learner.totals(e)
    assert totals.tolist() == [2, 4]
    # grpo: 1/2 a reply, shared by its tokens; dapo: 1/4 a token; dr_grpo: 1/(2 replies * 5 tokens allowed)
    expected = {"grpo": (1 / 2, 2 / 6), "dapo": (1 / 4, 2 / 4), "bnpo": (1 / 4, 2 / 4), "dr_grpo": (1 / 10, 2 / 10)}
    for name, (short, long) in expected.items():
        weight = GRPO(learner.config.model_copy(update={"loss_type": name}), learner.parts).weigh(e, totals)
        torch.testing.assert_close(weight, torch.tensor([[short, 0, 0], [long, long, long]]))


def test_the_upper_clip_may_be_wider() -> None:
    # ratios e^.25 = 1.284, above 1.2 and below 1.3: clipped under .2, free under .3; e^-.3 = .741 is below .8 in both
    logp, ones = torch.tensor([0.25, -0.3]), torch.ones(2, dtype=torch.bool)
    up, down = torch.tensor([1.0, 1.0]), torch.tensor([-1.0, -1.0])
    assert clipped_surrogate(logp, torch.zeros(2), up, ones, 0.2).clipped.tolist() == [True, False]
    assert clipped_surrogate(logp, torch.zeros(2), up, ones, 0.2, 0.3).clipped.tolist() == [False, False]
    assert clipped_surrogate(logp, torch.zeros(2), down, ones, 0.2, 0.3).clipped.tolist() == [False, True]
    assert clipped_surrogate(logp, torch.zeros(2), down, ones, 0.2, 0.3).loss.tolist() == pytest.approx([math.exp(0.25), 0.8])


def test_the_loss_is_surrogate_plus_k3_of_tokens() -> None:
    learner, e = collected(beta=0.3, epsilon=0.05, epsilon_high=0.1, loss_type="dapo")
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for p in learner.parts.policy.model.parameters():
            p.add_(torch.randn(p.shape, generator=generator) * 0.03)
        now = learner.parts.policy.logprobs(e.sequences)
        loss = learner.loss(e, learner.weigh(e, learner.totals(e))).value.item()
    total, tokens, clipped = 0.0, 0, 0
    for i, t in e.sequences.mask.nonzero().tolist():
        ratio, a = math.exp(now[i, t] - e.logp_old[i, t]), e.advantage[i].item()
        limited = min(max(ratio, 0.95), 1.1)
        gap = (now[i, t] - e.logp_ref[i, t]).item()
        total += -min(ratio * a, limited * a) + 0.3 * (math.exp(-gap) - 1 + gap)
        tokens, clipped = tokens + 1, clipped + (limited * a < ratio * a)
    assert 0 < clipped < tokens
    assert loss == pytest.approx(total / tokens, abs=1e-5)


def test_what_is_refused() -> None:
    with pytest.raises(ValidationError, match="at least 2, got 1"):
        GRPOConfig(num_generations=1)
    with pytest.raises(ValidationError, match="set scale_rewards: none, or kl_penalty to k2 or k3"):
        GRPOConfig(beta=0.1, kl_penalty="reward")
    assert GRPOConfig(beta=0.1, kl_penalty="reward", scale_rewards="none").beta == 0.1
    assert (GRPOConfig().num_generations, GRPOConfig().beta, GRPOConfig().loss_type) == (8, 0.0, "dapo")  # TRL 1.16
