"""What optimizers share that weigh whole replies: how far the policy may leave the reference, their columns, their loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

import torch
from pydantic import Field
from torch import Tensor, nn

from trueup.core.rng import Key
from trueup.data.tokens import Sequences
from trueup.learn.table import Loss, Mean, Table
from trueup.models.policy import Policy
from trueup.ops.kl import chi2_term, kl_k1, kl_k2, kl_k3, sqrt_chi2_penalty
from trueup.ops.masking import keep, mean_of, sequence_sum, weighted_sum
from trueup.ops.policy_gradient import clipped_surrogate
from trueup.ops.weights import row_mean
from trueup.optimizers.experience import PromptBatch, Samples, importance_weight, penalised_score, reference_gap, sampling_gap
from trueup.optimizers.protocol import OnlineConfig, Parts

MOST_NATS = 20.0
"""Log-ratios beyond this count as this in chi^2, so that one reply cannot overflow it."""
_IN_LOSS = {"k1": kl_k1, "k2": kl_k2, "k3": kl_k3}


class PenalisedConfig(OnlineConfig):
    """Settings of optimizers that can hold the policy near the reference in several ways."""

    kl_penalty: Literal["reward", "k1", "k2", "k3", "sqrt_chi2"] = "reward"
    """What ``beta`` multiplies. ``reward`` takes log pi/pi_ref off the reward and ``k2`` adds half its square to the loss: both have the
    gradient of KL(pi‖pi_ref). ``k3`` in the loss has that of KL(pi_ref‖pi); ``k1`` in the loss has gradient 0 on average.
    ``sqrt_chi2``, in the reward, has the gradient of the root of chi^2(pi‖pi_ref). All of whole replies, but in grpo's loss of tokens."""

    @property
    def in_loss(self) -> bool:
        """Whether the penalty is a term of the loss and not of the reward."""
        return self.kl_penalty in _IN_LOSS


class ClippedConfig(PenalisedConfig):
    """Settings of optimizers that clip the ratio of whole replies."""

    epsilon: float = Field(default=0.2, gt=0)
    """Half-width of the interval the sequence ratio is clipped to."""


C = TypeVar("C", bound=ClippedConfig)


@dataclass(frozen=True, kw_only=True)
class WholeReplies(Table):
    """Scored replies with one advantage each."""

    sequences: Sequences
    logp_old: Tensor
    """[B, T] the policy that sampled, in training precision; nats."""
    logp_ref: Tensor
    """[B, T] nats."""
    advantage: Tensor
    """[B]"""
    importance: Tensor
    """[B]"""
    score: Tensor
    """[B]"""
    finished: Tensor
    """[B]"""
    kl: Tensor
    """[B] log pi - log pi_ref of the reply (k1), nats."""
    kl_k3: Tensor
    """[B] sum over tokens of the k3 estimate, nats."""
    sampling_gap: Tensor
    """[B] nats."""


class WholeReplyLearner(ABC, Generic[C]):
    """Pushes whole replies by their advantages, ratios clipped; how a reply gets its advantage is `collect`, the algorithm's own.

    Args:
        config: settings.
        parts: models.
    """

    def __init__(self, config: C, parts: Parts) -> None:
        self.config, self.parts = config, parts

    def modules(self) -> dict[str, nn.Module]:
        """The policy."""
        return {"policy": self.parts.policy.model}

    @abstractmethod
    def collect(self, batch: PromptBatch, key: Key) -> WholeReplies:
        """Sample, score, compare."""

    def totals(self, experience: WholeReplies) -> Tensor:
        """[1] replies."""
        return torch.tensor([float(len(experience))], dtype=torch.float64)

    def weigh(self, experience: WholeReplies, totals: Tensor) -> Tensor:
        """[B] every reply counts the same, times its importance weight."""
        return row_mean(experience.advantage, totals[0].item()) * experience.importance

    def loss(self, experience: WholeReplies, weight: Tensor) -> Loss:
        """Weighted sum of clipped sequence surrogates."""
        return whole_reply_loss(self.parts.policy, experience, weight, self.config)


def penalised_reward(samples: Samples, config: PenalisedConfig, add: Callable[[Tensor], Tensor]) -> Tensor:
    """[B] Score less penalties: for replies that did not end, and for leaving the reference where that is part of the reward.

    Args:
        samples: replies.
        config: coefficients.
        add: sums over processes; chi^2 is that of the whole batch.
    """
    score, gap = penalised_score(samples, config), reference_gap(samples).sum(1)
    if config.kl_penalty == "reward":
        return score - config.beta * gap
    if config.kl_penalty == "sqrt_chi2" and config.beta > 0:
        near = gap.clamp(-MOST_NATS, MOST_NATS)
        plain, even, rows = add(torch.stack([near.expm1().sum(), chi2_term(near).sum(), gap.new_tensor(float(len(gap)))]))
        # the even estimate has less noise near the reference, but misses replies that the policy no longer writes
        return score - config.beta * sqrt_chi2_penalty(near, torch.maximum(plain, even) / rows)
    return score


def whole_replies(samples: Samples, advantage: Tensor, config: OnlineConfig) -> WholeReplies:
    """The columns of scored replies.

    Args:
        samples: replies.
        advantage: [B]
        config: settings of the importance weight.
    """
    gap = reference_gap(samples)
    return WholeReplies(
        sequences=samples.sequences,
        logp_old=samples.logp,
        logp_ref=samples.logp_ref,
        advantage=advantage,
        importance=importance_weight(samples, config),
        score=samples.score,
        finished=samples.finished,
        kl=gap.sum(1),
        kl_k3=sequence_sum(kl_k3(gap), samples.mask),
        sampling_gap=sampling_gap(samples),
    )


def kl_in_loss(log_ratio: Tensor, config: PenalisedConfig) -> Tensor:
    """What the penalty adds to the loss, differentiable; 0 where it is in the reward. Any shape -> the same.

    Args:
        log_ratio: log pi - log pi_ref of replies or of tokens, nats.
        config: its form and coefficient.
    """
    if not config.in_loss or config.beta == 0:
        return torch.zeros_like(log_ratio)
    return config.beta * _IN_LOSS[config.kl_penalty](log_ratio)


def whole_reply_loss(policy: Policy, experience: WholeReplies, weight: Tensor, config: ClippedConfig) -> Loss:
    """Weighted sum of clipped surrogates of whole replies, and of the penalty where it is in the loss.

    Args:
        policy: differentiable.
        experience: its replies.
        weight: [B]
        config: clip, temperature, penalty.
    """
    e, mask = experience, experience.sequences.mask
    logp = policy.logprobs(e.sequences, config.temperature)
    rows = torch.ones_like(e.score, dtype=torch.bool)
    surrogate = clipped_surrogate(sequence_sum(logp, mask), sequence_sum(e.logp_old, mask), e.advantage, rows, config.epsilon)
    penalty = kl_in_loss(sequence_sum(logp - keep(e.logp_ref, mask), mask), config)
    metrics = {**reply_metrics(e, config.beta), "policy/clip_ratio": mean_of(surrogate.clipped)}
    metrics["policy/entropy_sampled"] = mean_of(-logp, mask)
    return Loss(weighted_sum(surrogate.loss + penalty, weight), metrics)


def reply_metrics(experience: WholeReplies, beta: float) -> dict[str, Mean]:
    """What all optimizers of whole replies report of their samples.

    Args:
        experience: replies.
        beta: KL coefficient.
    """
    e = experience
    return {
        "reward": mean_of(e.score),
        "objective/kl": mean_of(e.kl),
        "objective/kl_k3": mean_of(e.kl_k3),
        "objective/rlhf_reward": mean_of(e.score - beta * e.kl),
        "completions/mean_length": mean_of(e.sequences.mask.sum(1)),
        "completions/clipped_ratio": mean_of(~e.finished),
        "advantage_abs": mean_of(e.advantage.abs()),
        "sampling_gap_nats": mean_of(e.sampling_gap),
    }
