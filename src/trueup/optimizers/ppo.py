"""Proximal policy optimisation with a learned critic (Schulman et al. 2017, arXiv:1707.06347; Ziegler et al. 2019, arXiv:1909.08593).

Deviations:
1. The reward is the score, on the last token or where a dense reward puts its parts, minus a per-token KL penalty to a frozen reference;
   ``gamma`` 1 by default.
2. Advantages are standardised once over the whole rollout (masked, population variance), not per minibatch; targets are taken before that.
3. Rewards may be divided by their deviation without moving their mean (``whiten_rewards``), as in Ziegler's code.
4. The critic is a model of its own (a copy of the policy's trunk with a zero head), so that no coefficient trades policy against value
   in shared weights; it is clipped like the policy, with its own half-width.
5. The KL coefficient may adapt towards a target (Ziegler, section 2.2).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from trueup.core.rng import Key
from trueup.data.tokens import Sequences
from trueup.learn.table import Loss, Table
from trueup.models.value import ValueModel, value_from_policy
from trueup.ops.kl import adapted_beta
from trueup.ops.masking import keep, mean_of, weighted_sum
from trueup.ops.policy_gradient import clipped_surrogate, value_loss
from trueup.ops.returns import gae, moments, rescale, shaped_reward, standardise
from trueup.ops.weights import counts, token_mean
from trueup.optimizers.experience import PromptBatch, importance_weight, penalised_score, reference_gap, sample_and_score, sampling_gap
from trueup.optimizers.protocol import OnlineConfig, Parts


class PPOConfig(OnlineConfig):
    """Clipped surrogate with a learned critic."""

    kind: Literal["ppo"] = "ppo"
    """This file."""
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
    whiten_rewards: bool = False
    """Divide per-token rewards by their deviation, keeping their mean."""
    target_kl_nats: float | None = Field(default=None, gt=0)
    """Sequence KL that ``beta`` adapts towards; fixed ``beta`` if left out."""
    kl_horizon: int = Field(default=10_000, ge=1)
    """Replies over which ``beta`` adapts."""

    def build(self, parts: Parts) -> PPO:
        """The learner."""
        return PPO(self, parts, value_from_policy(parts.policy))


@dataclass(frozen=True, kw_only=True)
class PPOExperience(Table):
    """Scored replies with per-token advantages."""

    sequences: Sequences
    logp_old: Tensor
    """[B, T] nats."""
    value_old: Tensor
    """[B, T]"""
    advantage: Tensor
    """[B, T] standardised."""
    target: Tensor
    """[B, T] value target."""
    importance: Tensor
    """[B]"""
    score: Tensor
    """[B]"""
    finished: Tensor
    """[B]"""
    kl: Tensor
    """[B] log pi - log pi_ref of the reply (k1), nats."""
    sampling_gap: Tensor
    """[B] nats."""


class PPO:
    """Policy and critic, trained together on clipped objectives."""

    def __init__(self, config: PPOConfig, parts: Parts, critic: ValueModel) -> None:
        self.config, self.parts, self.critic = config, parts, critic
        self.beta = config.beta

    def modules(self) -> dict[str, nn.Module]:
        """The policy and the critic."""
        return {"policy": self.parts.policy.model, "critic": self.critic}

    def state_dict(self) -> dict[str, Any]:
        """The adaptive KL coefficient."""
        return {"beta": self.beta}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the KL coefficient."""
        self.beta = float(state["beta"])

    def collect(self, batch: PromptBatch, key: Key) -> PPOExperience:
        """Sample, score, estimate advantages; then adapt the KL coefficient for the next step."""
        cfg, add = self.config, self.parts.sum_over_processes
        samples = sample_and_score(self.parts, cfg, batch, key)
        mask, gap = samples.mask, reference_gap(samples)
        penalty = penalised_score(samples, cfg) - samples.score
        reward = shaped_reward(penalty, gap, mask, self.beta) + samples.token_score
        if cfg.whiten_rewards:
            reward = rescale(reward, mask, add(moments(reward, mask)))
        value = keep(self.critic(samples.sequences), mask)
        advantage = gae(reward, value, mask, cfg.gamma, cfg.lam)
        if cfg.target_kl_nats is not None:
            kl_sum, rows = add(torch.stack([gap.sum(), torch.tensor(float(len(samples)), device=gap.device)])).tolist()
            self.beta = adapted_beta(self.beta, kl_sum / rows, cfg.target_kl_nats, int(rows), cfg.kl_horizon)
        return PPOExperience(
            sequences=samples.sequences,
            logp_old=samples.logp,
            value_old=value,
            advantage=standardise(advantage, mask, add(moments(advantage, mask))),
            target=advantage + value,
            importance=importance_weight(samples, cfg),
            score=samples.score,
            finished=samples.finished,
            kl=gap.sum(1),
            sampling_gap=sampling_gap(samples),
        )

    def totals(self, experience: PPOExperience) -> Tensor:
        """[2] replies and tokens."""
        return counts(experience.sequences.mask)

    def weigh(self, experience: PPOExperience, totals: Tensor) -> Tensor:
        """[B, T] every token counts the same, times its reply's importance weight."""
        return token_mean(experience.sequences.mask, totals[1].item()) * experience.importance[:, None]

    def loss(self, experience: PPOExperience, weight: Tensor) -> Loss:
        """Weighted sum of policy and value losses."""
        e, cfg, mask = experience, self.config, experience.sequences.mask
        logp = self.parts.policy.logprobs(e.sequences, cfg.temperature)
        surrogate = clipped_surrogate(logp, e.logp_old, e.advantage, mask, cfg.cliprange)
        critic = value_loss(self.critic(e.sequences), e.value_old, e.target, mask, cfg.cliprange_value)
        return Loss(
            weighted_sum(surrogate.loss + cfg.vf_coef * critic, weight, mask),
            {
                "reward": mean_of(e.score),
                "objective/kl": mean_of(e.kl),
                "objective/rlhf_reward": mean_of(e.score - cfg.beta * e.kl),
                "objective/beta": mean_of(torch.full_like(e.score, self.beta)),
                "policy/clip_ratio": mean_of(surrogate.clipped, mask),
                "policy/approxkl_k3": mean_of(surrogate.log_ratio.exp() - 1 - surrogate.log_ratio, mask),
                "policy/entropy_sampled": mean_of(-logp, mask),
                "loss/policy": mean_of(surrogate.loss, mask),
                "loss/value": mean_of(critic, mask),
                "completions/mean_length": mean_of(mask.sum(1)),
                "completions/clipped_ratio": mean_of(~e.finished),
                "sampling_gap_nats": mean_of(e.sampling_gap),
            },
        )
