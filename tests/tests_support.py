"""Small things several tests share: a table, tiny models, a policy with its parts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from trueup.core.rng import Key
from trueup.decoding.rollout import Rollout
from trueup.learn.table import Mean, Table
from trueup.models.policy import Policy, reference_of
from trueup.models.reward import TrunkReward, reward_from_policy
from trueup.models.tiny import tiny_llama, tiny_tokenizer
from trueup.optimizers.protocol import Parts
from trueup.rewards.combine import WeightedSum
from trueup.rewards.in_force import RewardInForce
from trueup.rewards.programmed import ProgrammedReward

WORDS = ("good", "bad", "dull", "ask", "tell")


@dataclass(frozen=True, kw_only=True)
class Numbers(Table):
    """One column."""

    x: torch.Tensor


def tiny_policy(seed: int = 0, spread: float = 1.0) -> Policy:
    """A Llama of a few thousand weights on five words."""
    tokenizer = tiny_tokenizer(WORDS)
    model = tiny_llama(len(tokenizer), 16, 1, 2, 32, key=Key(seed))
    with torch.no_grad():
        for p in model.parameters():
            if p.dim() > 1:
                p.mul_(spread * 8)  # far enough from uniform that every token matters
    return Policy(model, tokenizer)


def tiny_reward(seed: int = 1, outputs: int = 1) -> TrunkReward:
    """A reward model on the same words."""
    return reward_from_policy(tiny_policy(seed), Key(seed), outputs=outputs)


def goodness(prompts: object, replies: object) -> list[float]:
    """Share of 'good' among five words: the truth of the toy world."""
    return [r.text.split().count("good") / 5 for r in replies]  # type: ignore[attr-defined]


def tiny_parts(seed: int = 0) -> Parts:
    """Everything an optimizer is built from."""
    policy = tiny_policy(seed)
    return Parts(policy=policy, reference=reference_of(policy), reward=ProgrammedReward(goodness), rollout=Rollout(policy))


def brevity(prompts: object, replies: object) -> list[float]:
    """Minus the words of a reply, of six."""
    return [-len(r.text.split()) / 6 for r in replies]  # type: ignore[attr-defined]


def summed_parts(seed: int = 0) -> Parts:
    """The same with a reward of two parts."""
    reward = WeightedSum([(1.0, ProgrammedReward(goodness)), (0.5, ProgrammedReward(brevity))], ["good", "brief"])
    return replace(tiny_parts(seed), reward=RewardInForce(reward))


def parameters(learner: Any) -> list[torch.nn.Parameter]:
    """The weights that a learner trains."""
    return [p for m in learner.modules().values() for p in m.parameters()]


def gradients(learner: Any, e: Any, weight: torch.Tensor | None = None, micro: int = 10_000) -> tuple[list[torch.Tensor], dict[str, Mean]]:
    """Gradients of the weights that have one, and merged metrics, from all rows in micro-batches of ``micro``."""
    for p in parameters(learner):
        p.grad = None
    weight = learner.weigh(e, learner.totals(e)) if weight is None else weight
    metrics: dict[str, Mean] = {}
    for part in torch.arange(len(e)).split(micro):
        loss = learner.loss(e.take(part), weight[part])
        loss.value.backward()
        for k, m in loss.metrics.items():
            metrics[k] = metrics[k] + m if k in metrics else m
    return [p.grad.clone() for p in parameters(learner) if p.grad is not None], metrics
