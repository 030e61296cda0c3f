"""PPO on advantages over the reference: means from weighed samples, what is centred, what is rehearsed."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from tests_support import goodness, gradients, tiny_parts
from trueup.core.errors import UserError
from trueup.core.rng import Key
from trueup.data.rows import Demonstration, Prompt, Reply
from trueup.ops.expectations import mean_of_others
from trueup.ops.policy_gradient import leave_one_out
from trueup.optimizers.advantage_model_ppo import AdvantageModelPPO, AdvantageModelPPOConfig, best_of_clusters
from trueup.optimizers.experience import PromptBatch
from trueup.optimizers.ppo import PPOConfig
from trueup.optimizers.protocol import Parts
from trueup.rewards.programmed import ProgrammedReward

ASKED = PromptBatch(row=torch.arange(3), prompt=("ask", "tell good", "ask tell bad"), ids=((6,), (7, 3), (6, 7, 4)))
COMMON: dict[str, Any] = {"max_completion_length": 5, "num_generations": 4, "missing_eos_penalty": 0.5, "beta": 0.3}
SHOWN = tuple(
    Demonstration(prompt=Prompt(id="p", text="ask"), reply=Reply(text=t))
    for t in ("good good", "good dull", "bad bad", "tell tell tell", "good good good", "dull")
)


def test_means_of_the_others_by_hand() -> None:
    """Scores 2, 6, 10 with weights 1, 3, 2 (a common factor cancels).

    Without the first (3 * 6 + 2 * 10) / 5 = 7.6, without the second (2 + 20) / 3, without the third (2 + 18) / 4 = 5.
    """
    score, weight = torch.tensor([2.0, 6.0, 10.0, 1.0, 2.0, 6.0]), [1.0, 3.0, 2.0]
    log_weight = torch.tensor([10.0 + math.log(w) for w in weight] + [-5.0] * 3)
    # the second prompt's weights are equal: 4, 3.5, 1.5
    wanted = [7.6, 22 / 3, 5.0, 4.0, 3.5, 1.5]
    assert mean_of_others(score, log_weight, 3).tolist() == pytest.approx(wanted, rel=1e-5)
    # shifting the scores of a prompt shifts its means alike, so that the advantage stays
    assert mean_of_others(score + 7.0, log_weight, 3).tolist() == pytest.approx([x + 7 for x in wanted], rel=1e-5)
    torch.testing.assert_close(score - mean_of_others(score, torch.zeros(6), 3), leave_one_out(score, 3))
    with pytest.raises(ValueError, match="at least 2"):
        mean_of_others(score, log_weight, 1)


def test_importance_weights_recover_the_reference() -> None:
    """Two replies, policy (0.8, 0.2), reference (0.5, 0.5), scores (1, 3): of samples in proportion the mean is 2, not 1.4.

    Of eleven samples without the last, ten are in proportion.
    """
    log_weight = torch.tensor([math.log(0.5 / 0.8)] * 8 + [math.log(0.5 / 0.2)] * 2 + [0.0])
    score = torch.tensor([1.0] * 8 + [3.0] * 2 + [9.0])
    assert mean_of_others(score, log_weight, 11)[-1].item() == pytest.approx(2.0)
    assert mean_of_others(score, torch.zeros(11), 11)[-1].item() == pytest.approx(1.4)


def nudged(module: torch.nn.Module, seed: int, size: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(torch.randn(p.shape, generator=generator) * size)


def away(**changes: Any) -> Parts:
    parts = replace(tiny_parts(), demonstrations=SHOWN, **changes)
    nudged(parts.policy.model, 1, 0.05)
    return parts


def learner_of(parts: Parts | None = None, **settings: Any) -> AdvantageModelPPO:
    return AdvantageModelPPOConfig(**{**COMMON, **settings}).build(parts or away())


@pytest.mark.parametrize("center", ["reference", "group"])
def test_rewards_are_centred_within_prompts(center: str) -> None:
    """gamma = lambda = 1, values 0: the first token's target is the sum of the row's rewards."""
    parts = away()
    with torch.no_grad():
        e = learner_of(parts, center=center, lam=1.0, ptx_coef=0.0).collect(ASKED, Key(3))
    weight = [math.exp(-k) if center == "reference" else 1.0 for k in e.kl.tolist()]
    assert len(set(weight)) == 12 or center == "group"
    for i in range(12):
        group = [j for j in range(i // 4 * 4, i // 4 * 4 + 4) if j != i]
        expected = sum(weight[j] * e.score[j].item() for j in group) / sum(weight[j] for j in group)
        owed = e.score[i].item() - expected - 0.5 * (not e.finished[i]) - 0.3 * e.kl[i].item()
        assert e.target[i, 0].item() == pytest.approx(owed, abs=1e-5)


def test_scores_that_differ_by_prompt_alone_do_not_matter() -> None:
    with torch.no_grad():
        plain = learner_of(ptx_coef=0.0).collect(ASKED, Key(3))
        by_prompt = ProgrammedReward(lambda p, r: [g + 10.0 * len(str(q)) for g, q in zip(goodness(p, r), p, strict=True)])
        shifted = learner_of(away(reward=by_prompt), ptx_coef=0.0).collect(ASKED, Key(3))
        ppo = PPOConfig(**COMMON).build(away(reward=by_prompt)).collect(ASKED, Key(3))
    torch.testing.assert_close(shifted.advantage, plain.advantage, rtol=1e-3, atol=1e-4)
    assert (ppo.advantage - plain.advantage)[plain.sequences.mask].abs().max() > 0.1


def test_advantages_are_held_within_their_bound() -> None:
    with torch.no_grad():
        e = learner_of(center="group", bound=0.1, lam=1.0, beta=0.0, missing_eos_penalty=0.0, ptx_coef=0.0).collect(ASKED, Key(3))
    spread = leave_one_out(e.score, 4)
    assert spread.abs().max() > 0.1
    torch.testing.assert_close(e.target[:, 0], spread.clamp(-0.1, 0.1), rtol=1e-4, atol=1e-5)


def test_without_centring_and_rehearsal_it_is_ppo() -> None:
    ours, ppo = learner_of(center="none", ptx_coef=0.0), PPOConfig(**COMMON).build(away())
    with torch.no_grad():
        e, same = ours.collect(ASKED, Key(3)), ppo.collect(ASKED, Key(3))
    torch.testing.assert_close(e.advantage, same.advantage, rtol=1e-4, atol=1e-5)
    for a, b in zip(gradients(ours, e)[0], gradients(ppo, same)[0], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_the_best_of_each_cluster_by_hand() -> None:
    """Two clouds around 0 and around 10; the best two of each, equal scores by row."""
    vectors = np.array([[0.0], [10.0], [0.1], [10.1], [-0.1], [9.9]])
    score = np.array([1.0, 5.0, 3.0, 5.0, 2.0, 5.0])
    assert best_of_clusters(vectors, score, 2, 2, Key(0)) == (1, 2, 3, 4)
    assert best_of_clusters(vectors, score, 2, 1, Key(0)) == (1, 2)
    assert best_of_clusters(vectors, score, 1, 2, Key(0)) == (1, 3)
    assert best_of_clusters(vectors[:1], score[:1], 5, 2, Key(0)) == (0,)


def test_what_is_rehearsed_scores_best_and_is_kept() -> None:
    one = learner_of(clusters=1, per_cluster=2, ptx_coef=2.0)
    # shares of "good" are 2/5, 1/5, 0, 0, 3/5, 0
    assert one.rehearsed == (0, 4)
    assert json.loads(json.dumps(one.state_dict()))["rehearsed"] == [0, 4]
    with torch.no_grad():
        e = one.collect(ASKED, Key(3))
        drawn = {tuple(row[valid].tolist()) for row, valid in zip(e.demonstration.replies, e.demonstration.mask, strict=True)}
    assert drawn == {(3, 3, 1), (3, 3, 3, 1)}  # "good good" and "good good good", ended
    two = learner_of(clusters=2, per_cluster=1, ptx_coef=2.0)
    assert len(two.rehearsed) == 2
    assert 4 in two.rehearsed
    # a state holds the choice, even where the reward would choose otherwise by now
    worse = away(reward=ProgrammedReward(lambda p, r: [-g for g in goodness(p, r)]))
    other = learner_of(worse, clusters=1, per_cluster=2, ptx_coef=2.0)
    assert other.rehearsed == (2, 3)
    other.load_state_dict(one.state_dict())
    with torch.no_grad():
        again = other.collect(ASKED, Key(3))
    torch.testing.assert_close(again.demonstration.tokens, e.demonstration.tokens)


def test_what_is_refused() -> None:
    with pytest.raises(ValidationError, match="at least 2, got 1"):
        AdvantageModelPPOConfig(num_generations=1)
    assert AdvantageModelPPOConfig(num_generations=1, center="none").num_generations == 1
    with pytest.raises(UserError, match="this world has none"):
        AdvantageModelPPOConfig().build(tiny_parts())
