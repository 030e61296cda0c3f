"""What optimizers with a critic share: settings, the critic's first weights, and weights of tokens beside those of demonstrations."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from trueup.core.errors import UserError
from trueup.data.tokens import Sequences
from trueup.models.value import ValueModel, value_from_policy, value_from_reward
from trueup.ops.weights import counts, token_mean
from trueup.optimizers.protocol import OnlineConfig, Parts
from trueup.rewards.config import RewardConfig
from trueup.rewards.in_force import in_force
from trueup.rewards.learned import LearnedReward


class ActorCriticConfig(OnlineConfig):
    """Settings of optimizers with a critic. Names follow TRL."""

    num_generations: int = Field(default=1, ge=1)
    """Replies sampled for each prompt."""
    cliprange: float = Field(default=0.2, gt=0)
    """Half-width of the interval the token ratio is clipped to (TRL's name)."""
    cliprange_value: float = Field(default=0.2, gt=0)
    """How far the value may move from its old value before the loss turns pessimistic."""
    vf_coef: float = Field(default=0.5, ge=0)
    """Weight of the value loss."""
    gamma: float = Field(default=1.0, gt=0, le=1)
    """Discount per token."""
    lam: float = Field(default=0.95, ge=0, le=1)
    """Trace decay of the advantage estimate."""
    ptx_coef: float = Field(default=0.0, ge=0)
    """Weight of the cross-entropy on the world's demonstrations, nats per token; 0 is off."""


class PPOSettings(ActorCriticConfig):
    """Settings of optimizers that maximise one reward with a critic."""

    critic: Literal["policy", "reward"] = "policy"
    """First weights of the critic: the policy's trunk with a zero head, or the reward model with its own."""
    whiten_rewards: bool = False
    """Divide per-token rewards by their deviation, keeping their mean."""
    target_kl_nats: float | None = Field(default=None, gt=0)
    """Sequence KL that ``beta`` adapts towards; fixed ``beta`` if left out."""
    kl_horizon: int = Field(default=10_000, ge=1)
    """Replies over which ``beta`` adapts."""

    def check_reward(self, reward: RewardConfig) -> None:
        """See `ChecksReward`; whether the reward model reads the policy's tokens is seen when both are loaded."""
        if self.critic == "reward" and "." not in reward.kind and reward.kind not in ("learned", "clean", "average"):
            raise UserError(
                f"a critic is a copy of one reward model, and the reward '{reward.kind}' is none. Use reward: learned, or critic: policy.",
                where="optimizer.critic",
            )


def first_critic(parts: Parts, source: Literal["policy", "reward"]) -> ValueModel:
    """The critic before its first step.

    Args:
        parts: of the optimizer.
        source: what it is copied from.

    Raises:
        UserError: ``reward``, but the reward is no reward model that reads the policy's tokens.
    """
    if source == "policy":
        return value_from_policy(parts.policy)
    reward = in_force(parts.reward)
    if not isinstance(reward, LearnedReward):
        raise UserError(
            f"a critic is a copy of one reward model, and {type(reward).__name__} is none. Use reward: learned, or critic: policy.",
            where="optimizer.critic",
        )
    return value_from_reward(reward.model, parts.policy, reward.scale.gain, reward.scale.shift)


def mixed_counts(sequences: Sequences, demonstration: Sequences) -> Tensor:
    """[3] Replies, their tokens, and tokens of demonstrations."""
    return torch.cat([counts(sequences.mask), counts(demonstration.mask)[1:]])


def mixed_mean(sequences: Sequences, demonstration: Sequences, totals: Tensor, importance: Tensor) -> Tensor:
    """[B, T + D] Every token counts the same among its like: replies (times their importance [B]) in T columns, then demonstrations."""
    tokens, shown = totals[1].item(), totals[2].item()
    replies = token_mean(sequences.mask, tokens) * importance[:, None]
    return torch.cat([replies, token_mean(demonstration.mask, shown)], 1)


def mixed_parts(weight: Tensor, sequences: Sequences) -> tuple[Tensor, Tensor]:
    """[B, T] and [B, D]: the weights of `mixed_mean` for replies and for demonstrations."""
    width = sequences.mask.shape[1]
    return weight[:, :width], weight[:, width:]
