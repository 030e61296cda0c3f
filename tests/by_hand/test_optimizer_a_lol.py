"""A-LoL: numbers worked out on paper, and where baselines and weights come from."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from tests_support import goodness, tiny_parts, tiny_policy
from trueup.core.rng import Key
from trueup.data.rows import Judged, Preference, Prompt, Reply, judged
from trueup.learn.table import Examples
from trueup.models.policy import LoraSettings, Policy, adapted, policy_of, reference_of
from trueup.ops.offline_gradient import advantage_loss, positive
from trueup.optimizers.a_lol import ALoL, ALoLConfig, ALoLExperience
from trueup.optimizers.protocol import Parts
from trueup.rewards.programmed import ProgrammedReward

ALL = torch.ones(1, 2, dtype=torch.bool)
LOGP = torch.tensor([[-1.0, -2.0]])
RATIOS = torch.tensor([[0.5, 3.0]])
"""Of the policy to the reference, by token; of the reply 1.5."""
LOGP_REF = LOGP - RATIOS.log()


def loss(variant: Any, advantage: float = 2.0, clip: float = 0.9, beta: float = 0.1) -> float:
    return advantage_loss(LOGP, LOGP_REF, torch.tensor([advantage]), ALL, variant, clip, beta).item()


def batch(*pairs: tuple[str, str, str]) -> Examples[Judged]:
    rows = [
        judged(Preference(id=str(i), prompt=Prompt(id=p, text=p), chosen=Reply(text=c), rejected=Reply(text=r)))
        for i, (p, c, r) in enumerate(pairs)
    ]
    return Examples(row=torch.arange(len(rows)), example=tuple(rows))


DATA = batch(("ask", "good good", "bad dull"), ("tell", "good", "tell"), ("ask tell", "good good good", "good bad"))


def test_variants_by_hand() -> None:
    # log-probability -3, advantage 2. Reply ratio 1.5: 2 * 1.5 * 3 = 9; clipped at 1.4: 8.4
    assert loss("plain") == pytest.approx(9.0)
    assert loss("plain", clip=0.4) == pytest.approx(8.4)
    # token ratios .5 and 3, clipped to [.1, 1.9]: 2 (.5 * 1 + 1.9 * 2) = 8.6
    assert loss("seq") == pytest.approx(8.6)
    assert loss("ref_free") == pytest.approx(6.0)
    # and .1 log 1.5
    assert loss("kl") == pytest.approx(6.0 + 0.1 * math.log(1.5))


def test_at_the_reference_all_variants_have_the_gradient_of_imitation() -> None:
    for variant in ("plain", "seq", "ref_free"):
        logp = LOGP.clone().requires_grad_()
        advantage_loss(logp, LOGP, torch.tensor([2.0]), ALL, variant, 0.9, 0.1).sum().backward()
        assert logp.grad is not None
        assert logp.grad[0].tolist() == pytest.approx([-2.0, -2.0])


def test_the_ratio_is_held_constant_and_clipping_leaves_a_gradient() -> None:
    # beyond the clip at 1.9 the gradient is -A * 1.9, not 0
    logp = LOGP.clone().requires_grad_()
    advantage_loss(logp, LOGP - 5, torch.tensor([2.0]), ALL, "plain", 0.9, 0.1).sum().backward()
    assert logp.grad is not None
    assert logp.grad[0].tolist() == pytest.approx([-3.8, -3.8])


def test_one_token_replies_have_one_ratio() -> None:
    one = torch.tensor([[True, False]])
    plain, seq = (advantage_loss(LOGP, LOGP_REF, torch.tensor([2.0]), one, v, 0.9, 0.1) for v in ("plain", "seq"))
    assert plain.item() == seq.item() == pytest.approx(2 * 0.5 * 1)


def test_a_constant_advantage_is_scaled_imitation() -> None:
    # 2 * (1 + 2) for the reply and 2 * (.5 + .25) for another: twice the negative log-likelihood
    logp = torch.tensor([[-1.0, -2.0], [-0.5, -0.25]])
    mask = torch.ones(2, 2, dtype=torch.bool)
    found = advantage_loss(logp, logp - 1, torch.full((2,), 2.0), mask, "ref_free", 0.9, 0.1)
    assert found.tolist() == pytest.approx([6.0, 1.5])


def test_a_reward_of_the_prompt_alone_changes_nothing() -> None:
    def shifted(prompts: Any, replies: Any) -> list[float]:
        return [g + 3.0 * len(p) for p, g in zip(prompts, goodness(prompts, replies), strict=True)]

    parts = tiny_parts()
    plain, moved = (
        ALoLConfig(max_completion_length=6).build(replace(parts, reward=ProgrammedReward(r))).collect(DATA, Key(1))
        for r in (goodness, shifted)
    )
    torch.testing.assert_close(plain.advantage, moved.advantage, atol=1e-5, rtol=1e-5)
    assert (moved.score > plain.score + 1).all()


def test_only_what_beats_the_reference_counts() -> None:
    assert positive(torch.tensor([-1.0, 0.0, 0.25])).tolist() == [0.0, 0.0, 0.25]


def experience(**settings: Any) -> tuple[ALoL, ALoLExperience]:
    learner = ALoLConfig(max_completion_length=6, **settings).build(tiny_parts())
    e = learner.collect(DATA, Key(0))
    return learner, replace(e, advantage=torch.tensor([[0.3, 0.0], [0.1, 0.0], [0.0, 0.6]]))


def test_weights_by_hand() -> None:
    # three of six replies have an advantage; it sums to 1
    learner, e = experience(priority=False)
    totals = learner.totals(e)
    assert totals.tolist() == pytest.approx([3, 1.0])
    third = 1 / 3
    assert learner.weigh(e, totals).flatten().tolist() == pytest.approx([third, 0, third, 0, 0, third])
    learner, e = experience(priority=True)
    assert learner.weigh(e, totals).flatten().tolist() == pytest.approx([0.3, 0, 0.1, 0, 0, 0.6])


def test_nothing_beats_the_reference() -> None:
    learner, e = experience(priority=True)
    e = replace(e, advantage=torch.zeros(3, 2))
    assert learner.loss(e, learner.weigh(e, learner.totals(e))).value.item() == 0


def test_scores_and_baselines() -> None:
    learner, _ = experience(num_generations=3)
    e = learner.collect(DATA, Key(1))
    # goodness is the share of good among five words
    assert e.score.flatten().tolist() == pytest.approx([0.4, 0, 0.2, 0, 0.6, 0.2])
    torch.testing.assert_close(e.advantage, (e.score - e.baseline[:, None]).clamp(min=0))
    again = ALoLConfig(max_completion_length=6, num_generations=3).build(tiny_parts()).collect(DATA, Key(1))
    assert torch.equal(again.baseline, e.baseline)
    # a row's draws are its own: the second and third rows alone get what they had
    rest = learner.collect(DATA.take(torch.tensor([1, 2])), Key(1))
    assert rest.baseline.tolist() == pytest.approx(e.baseline[1:].tolist())
    # the mean of many replies is the reference's mean score, whatever the policy became since: two standard errors of each
    with torch.no_grad():
        for p in learner.parts.policy.model.parameters():
            p.mul_(3.0)
    many = ALoL(ALoLConfig(max_completion_length=6, num_generations=400), learner.parts)
    mean = many.collect(DATA, Key(2)).baseline
    fresh = ALoL(ALoLConfig(max_completion_length=6, num_generations=400), tiny_parts()).collect(DATA, Key(3)).baseline
    assert (mean - fresh).abs().max().item() < 4 * 0.2 / 20  # deviation of a score is below .2


def test_the_reference_of_an_adapted_policy_has_no_adapter() -> None:
    base = tiny_policy()
    policy = Policy(adapted(tiny_policy().model, LoraSettings(rank=2)), base.tokenizer)
    with torch.no_grad():
        for n, p in policy.model.named_parameters():
            if "lora_B" in n:
                p.fill_(0.5)
    reference = reference_of(policy)
    parts = Parts(policy=policy, reference=reference, reward=ProgrammedReward(goodness), rollout=ALoL(ALoLConfig(), tiny_parts()).rollout)
    e = ALoLConfig(max_completion_length=6).build(parts).collect(DATA, Key(0))
    alone = policy_of(reference, base.tokenizer)
    flat = e.sequences.unstacked()
    torch.testing.assert_close(alone.logprobs(flat), base.logprobs(flat))
    torch.testing.assert_close(e.logp_ref, base.logprobs(flat).unflatten(0, (-1, 2)))
    assert not torch.allclose(policy.logprobs(flat), base.logprobs(flat), atol=1e-2)
