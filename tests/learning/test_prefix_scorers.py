"""Scorers of prefixes that learn from a policy's replies, and what the policy then writes, in a world that is listed whole."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from oracle.decoding_world import TableTree, Tokens
from oracle.enumerated import PROMPTS, World, make_world
from trueup.core.rng import Key
from trueup.data.tokens import decode_replies
from trueup.decoding.methods.controlled import ControlledConfig
from trueup.decoding.methods.tree_search_bfs import TreeSearchBfsConfig
from trueup.decoding.protocol import Asked, Decoded, DecodingConfig, DecodingParts
from trueup.decoding.rollout import Rollout
from trueup.decoding.tree import policy_tree, reward_tree
from trueup.loop.config import LoopConfig
from trueup.loop.train import train
from trueup.models.reward import TrunkReward, reward_from_policy
from trueup.ops.tilt import soft_value
from trueup.rewards.dense.cd_q import CdQConfig
from trueup.rewards.dense.fudge import FudgeConfig
from trueup.rewards.dense.protocol import DenseObjectiveConfig
from trueup.rewards.dense.soft_values import SoftValuesConfig
from trueup.rewards.fit_prefix import PrefixLearner, ScoredReplies
from trueup.rewards.programmed import ProgrammedReward
from trueup.sandbox.exact import expectation, optimum


def parts_of(world: World, prefix: Any) -> DecodingParts:
    return DecodingParts(
        tokenizer=world.reference.tokenizer,
        policy=lambda: policy_tree(world.reference),
        max_tokens=world.limits["max_completion_length"],
        reward=ProgrammedReward(world.score),
        prefix=prefix,
    )


def decoded(world: World, config: DecodingConfig, prefix: Any, samples: int) -> Decoded:
    return config.decode(parts_of(world, prefix), Asked(prompts=PROMPTS, ids=world.ids, key=Key(3), num_samples=samples))


def places(world: World, found: Decoded) -> list[tuple[int, int]]:
    """Prompt and reply of each row in the world's tables."""
    replies = decode_replies(world.reference.tokenizer, found.sequences.replies, found.sequences.mask)
    index, each = world.space.index(), len(found) // len(PROMPTS)
    return [(i // each, index[r]) for i, r in enumerate(replies)]


def exact(world: World, strength: float) -> Any:
    """Soft values by summing over all replies that begin so."""
    ids, seq = world.ids, world.sequences
    rows = [tuple(t[m].tolist()) for t, m in zip(seq.replies, seq.mask, strict=True)]
    count = len(world.space.replies)

    def value(prompt: Tokens, prefix: Tokens) -> torch.Tensor:
        p = ids.index(prompt)
        here = [i for i in range(count) if rows[p * count + i][: len(prefix)] == prefix]
        return soft_value(torch.tensor(world.logp_ref[p, here]), torch.tensor(world.reward[p, here]), strength)[None]

    return lambda: TableTree(value)


def test_soft_values_tilt_a_real_model() -> None:
    # the reference in float64: a reply's log-probability is that of ref * exp(reward / beta) / Z to a millionth
    world, beta = make_world(2), 0.5
    world.reference.model.double()
    world.logp_ref[:] = world.reference.logprobs(world.sequences).sum(1).detach().view(len(PROMPTS), -1).numpy()
    found = decoded(world, ControlledConfig(strength=1 / beta), exact(world, 1 / beta), 100)
    best = world.best(beta)
    assert found.logp.tolist() == pytest.approx([best[p, r] for p, r in places(world, found)], abs=1e-6)


def fitted(world: World, objective: DenseObjectiveConfig, steps: int) -> TrunkReward:
    """A scorer that learned from fresh replies of the reference at every step."""
    model, rollout, key = reward_from_policy(world.reference, Key(4)), Rollout(world.reference), Key(5)
    rewards = ProgrammedReward(world.score)

    def batch_of(step: int) -> ScoredReplies:
        drawn = rollout.sample(
            [list(i) for i in world.ids], num_samples=256, max_tokens=world.limits["max_completion_length"], key=key / step
        )
        replies = decode_replies(world.reference.tokenizer, drawn.sequences.replies, drawn.sequences.mask)
        return ScoredReplies(sequences=drawn.sequences, score=rewards.score([p for p in PROMPTS for _ in range(256)], replies))

    settings = LoopConfig(learning_rate=2e-3, lr_scheduler_type="cosine")
    for _ in train(PrefixLearner(objective, model), batch_of, steps=steps, config=settings, key=key, accelerator=Accelerator(cpu=True)):
        pass
    return model


def share(world: World, found: Decoded, beta: float) -> float:
    """(J - J_ref) / (J* - J_ref) from what was drawn: J is the mean of reward - beta log(method / policy)."""
    reward = np.array([world.reward[p, r] for p, r in places(world, found)])
    here = float((reward - beta * (found.logp - found.logp_base).numpy()).mean())
    home, best = float(expectation(world.logp_ref, world.reward).mean()), float(optimum(world.logp_ref, world.reward, beta).mean())
    return (here - home) / (best - home)


def test_learned_soft_values_come_near_the_optimum() -> None:
    world, beta = make_world(0), 1.0
    model = fitted(world, SoftValuesConfig(strength=1 / beta), 150)
    found = decoded(world, ControlledConfig(strength=1 / beta), lambda: reward_tree(model), 1500)
    assert share(world, found, beta) > 0.97


@pytest.mark.parametrize("objective", [FudgeConfig(), CdQConfig()], ids=["fudge", "cd_q"])
def test_learned_means_guide_a_search(objective: DenseObjectiveConfig) -> None:
    world = make_world(1)
    model = fitted(world, objective, 100)
    home = float(expectation(world.logp_ref, world.reward).mean())
    for config in (TreeSearchBfsConfig(width=6, beam=3, segment_tokens=1), ControlledConfig(strength=8.0)):
        found = decoded(world, config, lambda: reward_tree(model), 100)
        # rewards have deviation 1; a scorer that has learned nothing gains 0.9 and 0.6 here, the first since the reward values ends
        assert np.mean([world.reward[p, r] for p, r in places(world, found)]) > home + 1.2
