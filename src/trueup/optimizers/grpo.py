"""Group-relative policy optimisation (Shao et al. 2024, arXiv:2402.03300) with the reductions of its successors.

Deviations:
1. Defaults are TRL's (8 replies, ``beta`` 0, ``loss_type: dapo``); the paper has 64 replies, ``beta`` 0.04 and ``loss_type: grpo``.
2. The penalty in the loss is k3 of each token, as in the paper. Its gradient is that of the per-token KL(pi_ref‖pi) at the states that
   the policy visits, not of KL(pi‖pi_ref); ``k2`` has the other direction, ``k1`` none on average.
3. ``dapo`` (Yu et al. 2025, arXiv:2503.14476) and ``bnpo`` are both the mean over tokens; here they are one, since counts are global.
4. ``dr_grpo`` (Liu et al. 2025, arXiv:2503.20783) divides by the longest reply allowed; it is meant with ``scale_rewards: none``.
5. A penalty inside the reward needs ``scale_rewards: none``: divided by a deviation, ``beta`` would mean something else at every prompt.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from trueup.core.rng import Key
from trueup.learn.learner import Stateless
from trueup.learn.table import Loss
from trueup.ops.masking import keep, mean_of, weighted_sum
from trueup.ops.policy_gradient import clipped_surrogate, group_standardised
from trueup.ops.returns import moments
from trueup.ops.weights import counts, sequence_mean, token_mean
from trueup.optimizers.experience import PromptBatch, sample_and_score
from trueup.optimizers.protocol import Parts
from trueup.optimizers.whole_reply import PenalisedConfig, WholeReplies, kl_in_loss, penalised_reward, reply_metrics, whole_replies

_EPSILON = 1e-4


class GRPOConfig(PenalisedConfig):
    """Advantages within groups, ratios clipped token by token."""

    kind: Literal["grpo"] = "grpo"
    """This file."""
    num_generations: int = Field(default=8, ge=1)
    """Replies sampled for each prompt (K)."""
    beta: float = Field(default=0.0, ge=0)
    """KL coefficient: advantage units per nat."""
    kl_penalty: Literal["reward", "k1", "k2", "k3", "sqrt_chi2"] = "k3"
    """What ``beta`` multiplies; k1, k2, k3 are of tokens here."""
    epsilon: float = Field(default=0.2, gt=0)
    """How far below 1 the token ratio is clipped, and above where ``epsilon_high`` is left out."""
    epsilon_high: float | None = Field(default=None, gt=0)
    """How far above 1 (0.28 in DAPO)."""
    scale_rewards: Literal["group", "batch", "none"] = "group"
    """Whose deviation divides the advantages."""
    loss_type: Literal["grpo", "dapo", "bnpo", "dr_grpo"] = "dapo"
    """The mean: ``grpo`` over tokens of a reply, then over replies; ``dapo`` and ``bnpo`` over all tokens; ``dr_grpo`` by a constant."""

    @model_validator(mode="after")
    def _combinations(self) -> GRPOConfig:
        if self.num_generations < 2:
            raise ValueError(f"a group's mean needs num_generations of at least 2, got {self.num_generations}")
        if self.beta > 0 and not self.in_loss and self.scale_rewards != "none":
            raise ValueError(
                f"kl_penalty '{self.kl_penalty}' is part of the reward, which scale_rewards '{self.scale_rewards}' divides by a deviation; "
                "set scale_rewards: none, or kl_penalty to k2 or k3"
            )
        return self

    def build(self, parts: Parts) -> GRPO:
        """The learner."""
        return GRPO(self, parts)


class GRPO(Stateless):
    """Samples K replies a prompt and pushes every token of each by how far it stands from the group's mean."""

    def __init__(self, config: GRPOConfig, parts: Parts) -> None:
        self.config, self.parts = config, parts

    def modules(self) -> dict[str, nn.Module]:
        """The policy."""
        return {"policy": self.parts.policy.model}

    def collect(self, batch: PromptBatch, key: Key) -> WholeReplies:
        """Sample, score, compare within prompts."""
        cfg, add = self.config, self.parts.sum_over_processes
        samples = sample_and_score(self.parts, cfg, batch, key)
        reward = penalised_reward(samples, cfg, add)
        if cfg.scale_rewards == "group":
            return whole_replies(samples, group_standardised(reward, cfg.num_generations, _EPSILON), cfg)
        grid = reward.view(-1, cfg.num_generations)
        advantage = (grid - grid.mean(1, keepdim=True)).flatten()
        if cfg.scale_rewards == "batch":
            rows, total, squares = add(moments(reward, torch.ones_like(reward, dtype=torch.bool)))
            advantage = advantage / (((squares - total**2 / rows) / (rows - 1)).clamp(min=0).sqrt() + _EPSILON).to(advantage)
        return whole_replies(samples, advantage, cfg)

    def totals(self, experience: WholeReplies) -> Tensor:
        """[2] replies and tokens."""
        return counts(experience.sequences.mask)

    def weigh(self, experience: WholeReplies, totals: Tensor) -> Tensor:
        """[B, T] as ``loss_type`` says, times the reply's importance weight."""
        mask, rows = experience.sequences.mask, totals[0].item()
        if self.config.loss_type == "grpo":
            weight = sequence_mean(mask, rows)
        elif self.config.loss_type == "dr_grpo":
            weight = mask.float() / (rows * self.config.max_completion_length)
        else:
            weight = token_mean(mask, totals[1].item())
        return weight * experience.importance[:, None]

    def loss(self, experience: WholeReplies, weight: Tensor) -> Loss:
        """Weighted sum of clipped token surrogates, and of the penalty where it is in the loss."""
        e, cfg, mask = experience, self.config, experience.sequences.mask
        logp = self.parts.policy.logprobs(e.sequences, cfg.temperature)
        advantage = e.advantage[:, None].expand(mask.shape)
        surrogate = clipped_surrogate(logp, e.logp_old, advantage, mask, cfg.epsilon, cfg.epsilon_high)
        penalty = kl_in_loss(keep(logp - e.logp_ref, mask), cfg)
        metrics = {**reply_metrics(e, cfg.beta), "policy/clip_ratio": mean_of(surrogate.clipped, mask)}
        metrics["policy/entropy_sampled"] = mean_of(-logp, mask)
        return Loss(weighted_sum(surrogate.loss + penalty, weight, mask), metrics)
