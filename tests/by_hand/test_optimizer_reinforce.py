"""REINFORCE and ReMax: baselines by hand; the forms of the penalty for leaving the reference."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from tests_support import tiny_parts
from trueup.core.rng import Key
from trueup.data.tokens import decode_replies
from trueup.ops.kl import chi2_term, sqrt_chi2_penalty
from trueup.optimizers.experience import PromptBatch, Samples, sample_and_score
from trueup.optimizers.protocol import Parts
from trueup.optimizers.reinforce import ReinforceConfig
from trueup.optimizers.remax import RemaxConfig
from trueup.optimizers.rloo import RLOOConfig
from trueup.optimizers.whole_reply import kl_in_loss, penalised_reward
from trueup.rewards.programmed import ProgrammedReward

ASKED = PromptBatch(row=torch.arange(3), prompt=("ask", "tell good", "ask tell bad"), ids=((6,), (7, 3), (6, 7, 4)))
COMMON: dict[str, Any] = {"max_completion_length": 5, "missing_eos_penalty": 0.5}


def nudged_parts() -> Parts:
    parts, generator = tiny_parts(), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in parts.policy.model.parameters():
            p.add_(torch.randn(p.shape, generator=generator) * 0.05)
    return parts


def rewards(e: Any, beta: float) -> list[float]:
    return [s - 0.5 * (not f) - beta * k for s, f, k in zip(e.score.tolist(), e.finished.tolist(), e.kl.tolist(), strict=True)]


def test_a_batch_is_compared_with_all_its_other_replies() -> None:
    learner = ReinforceConfig(**COMMON, baseline="batch", num_generations=2, beta=0.3).build(nudged_parts())
    with torch.no_grad():
        for step in range(2):  # nothing is kept from one to the next
            e = learner.collect(ASKED, Key(step))
            r = rewards(e, 0.3)
            assert e.advantage.tolist() == pytest.approx([x - (sum(r) - x) / 5 for x in r], abs=1e-5)
    assert learner.state_dict() == {"average": None}


def test_the_moving_average_is_of_earlier_batches() -> None:
    learner = ReinforceConfig(**COMMON, baseline_decay=0.75, beta=0.3).build(nudged_parts())
    with torch.no_grad():
        first, second = (learner.collect(ASKED, Key(step)) for step in range(2))
    a, b = rewards(first, 0.3), rewards(second, 0.3)
    assert first.advantage.tolist() == pytest.approx([x - (sum(a) - x) / 2 for x in a], abs=1e-5)  # nothing before it: the other two
    assert second.advantage.tolist() == pytest.approx([x - sum(a) / 3 for x in b], abs=1e-5)
    assert learner.state_dict() == {"average": pytest.approx(0.75 * sum(a) / 3 + 0.25 * sum(b) / 3)}
    again = ReinforceConfig(**COMMON).build(tiny_parts())
    again.load_state_dict(learner.state_dict())
    assert again.average == learner.average


def test_without_a_baseline_the_reward_is_the_advantage() -> None:
    learner = ReinforceConfig(**COMMON, baseline="none", beta=0.3).build(nudged_parts())
    with torch.no_grad():
        e = learner.collect(ASKED, Key(3))
    assert e.advantage.tolist() == pytest.approx(rewards(e, 0.3), abs=1e-5)


def test_remax_compares_with_the_greedy_reply() -> None:
    # the reward counts letters of the reply, so that replies differ; the greedy reply is found again by hand, word by word
    parts = replace(nudged_parts(), reward=ProgrammedReward(lambda prompts, replies: [float(len(r.text)) for r in replies]))
    learner = RemaxConfig(**COMMON, num_generations=2, beta=0.3).build(parts)
    with torch.no_grad():
        e = learner.collect(ASKED, Key(3))
        baseline = []
        for ids in ASKED.ids:
            greedy = parts.rollout.sample([list(ids)], num_samples=1, max_tokens=5, temperature=0.0, key=Key(99)).sequences
            (reply,) = decode_replies(parts.policy.tokenizer, greedy.replies, greedy.mask)
            gap = (parts.policy.logprobs(greedy) - parts.reference.logprobs(greedy)).sum().item()
            baseline.append(len(reply.text) - 0.5 * (not reply.finished) - 0.3 * gap)
    assert e.advantage.tolist() == pytest.approx([r - baseline[i // 2] for i, r in enumerate(rewards(e, 0.3))], abs=1e-4)
    assert max(e.advantage.tolist()) > 0


def made(gaps: list[float]) -> Samples:
    """Replies of one token with these log-ratios to the reference and scores 1, 2, ..."""
    samples = sample_and_score(tiny_parts(), RLOOConfig(max_completion_length=1, num_generations=2), ASKED.take(torch.tensor([0])), Key(3))
    return replace(
        samples,
        logp=torch.tensor(gaps)[:, None] - 3,
        logp_ref=torch.full((2, 1), -3.0),
        score=torch.tensor([1.0, 2.0]),
        finished=torch.tensor([True, True]),
    )


def test_forms_of_the_penalty_in_the_reward() -> None:
    samples = made([math.log(2), -math.log(2)])
    for form in ("k1", "k2", "k3"):
        config = RLOOConfig(beta=0.5, kl_penalty=form)
        assert penalised_reward(samples, config, lambda x: x).tolist() == [1.0, 2.0]
    assert penalised_reward(samples, RLOOConfig(beta=0.5), lambda x: x).tolist() == pytest.approx(
        [1 - 0.5 * math.log(2), 2 + 0.5 * math.log(2)]
    )
    # ratios 2 and 1/2: 2 - 2 + 1/2 = 1/2 for both, so chi^2 is 1/2, and the penalties (2 - 1)/sqrt(.5) and (.5 - 1)/sqrt(.5)
    found = penalised_reward(samples, RLOOConfig(beta=0.5, kl_penalty="sqrt_chi2"), lambda x: x)
    assert found.tolist() == pytest.approx([1 - 0.5 * math.sqrt(2), 2 + 0.25 * math.sqrt(2)], abs=1e-5)
    # with another process's equal half the mean stays; without the other's rows it would double
    assert penalised_reward(samples, RLOOConfig(beta=0.5, kl_penalty="sqrt_chi2"), lambda x: 2 * x).tolist() == pytest.approx(
        found.tolist()
    )


def test_forms_of_the_penalty_in_the_loss() -> None:
    gap = torch.tensor([math.log(2), -math.log(2)])
    assert kl_in_loss(gap, RLOOConfig(beta=2.0)).tolist() == [0.0, 0.0]
    assert kl_in_loss(gap, RLOOConfig(beta=2.0, kl_penalty="k1")).tolist() == pytest.approx([2 * math.log(2), -2 * math.log(2)])
    assert kl_in_loss(gap, RLOOConfig(beta=2.0, kl_penalty="k2")).tolist() == pytest.approx([math.log(2) ** 2] * 2)
    # ref/pi - 1 - log(ref/pi): 1/2 - 1 + log 2 and 2 - 1 - log 2
    assert kl_in_loss(gap, RLOOConfig(beta=2.0, kl_penalty="k3")).tolist() == pytest.approx([-1 + 2 * math.log(2), 2 - 2 * math.log(2)])


def test_chi2_by_hand() -> None:
    # pi (3/4, 1/4), ref (1/2, 1/2): chi^2 = 2 (9/16 + 1/16) - 1 = 1/4; ratios 3/2 and 1/2
    ratio = torch.tensor([1.5, 0.5]).log()
    assert (torch.tensor([0.75, 0.25]) * chi2_term(ratio)).sum().item() == pytest.approx(0.25)
    assert sqrt_chi2_penalty(ratio, 0.25, 0.0).tolist() == pytest.approx([1.0, -1.0])
    assert sqrt_chi2_penalty(torch.zeros(2), 0.0).tolist() == [0.0, 0.0]  # at the reference itself
