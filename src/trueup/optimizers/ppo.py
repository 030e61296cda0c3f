"""Proximal policy optimisation with a learned critic (Schulman et al. 2017, arXiv:1707.06347; Ziegler et al. 2019, arXiv:1909.08593).

Deviations:
1. The reward is the score, on the last token or where a dense reward puts its parts, minus a per-token KL penalty to a frozen reference;
   ``gamma`` 1 by default.
2. Advantages are standardised once over the whole rollout (masked, population variance), not per minibatch; targets are taken before that.
3. Rewards may be divided by their deviation without moving their mean (``whiten_rewards``), as in Ziegler's code.
4. The critic is a model of its own (a copy of the policy's trunk with a zero head, or of the reward model), so that no coefficient
   trades policy against value in shared weights; it is clipped like the policy, with its own half-width.
5. The KL coefficient may adapt towards a target (Ziegler, section 2.2).
6. Demonstrations may be mixed in (``ptx_coef``; `trueup.optimizers.pretraining`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from trueup.core.rng import Key
from trueup.data.tokens import Sequences
from trueup.learn.table import Loss, Table
from trueup.models.value import ValueModel
from trueup.ops.kl import adapted_beta
from trueup.ops.masking import keep, mean_of, weighted_sum
from trueup.ops.policy_gradient import clipped_surrogate, value_loss
from trueup.ops.returns import gae, moments, rescale, shaped_reward, standardise
from trueup.optimizers.actor_critic import PPOSettings, first_critic, mixed_counts, mixed_mean, mixed_parts
from trueup.optimizers.experience import (
    PromptBatch,
    Samples,
    importance_weight,
    penalised_score,
    reference_gap,
    sample_and_score,
    sampling_gap,
)
from trueup.optimizers.pretraining import PretrainingMix, sampled_rows
from trueup.optimizers.protocol import Parts


class PPOConfig(PPOSettings):
    """Clipped surrogate with a learned critic."""

    kind: Literal["ppo"] = "ppo"
    """This file."""

    def build(self, parts: Parts) -> PPO:
        """The learner."""
        return PPO(self, parts, first_critic(parts, self.critic))


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
    demonstration: Sequences
    """One a reply; without columns where none are mixed in."""


class PPO:
    """Policy and critic, trained together on clipped objectives."""

    def __init__(self, config: PPOSettings, parts: Parts, critic: ValueModel) -> None:
        self.config, self.parts, self.critic = config, parts, critic
        self.mix = PretrainingMix(parts.policy, parts.demonstrations, config.ptx_coef)
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
        samples = sample_and_score(self.parts, self.config, batch, key)
        return self.experience(samples, self.mix.draw(key, sampled_rows(batch, self.config)))

    def experience(self, samples: Samples, demonstration: Sequences) -> PPOExperience:
        """What is learned from these samples; the KL coefficient adapts after they were used."""
        cfg, add = self.config, self.parts.sum_over_processes
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
            demonstration=demonstration,
        )

    def totals(self, experience: PPOExperience) -> Tensor:
        """[3] replies, their tokens, tokens of demonstrations."""
        return mixed_counts(experience.sequences, experience.demonstration)

    def weigh(self, experience: PPOExperience, totals: Tensor) -> Tensor:
        """[B, T + D] every token counts the same, times its reply's importance weight; then the tokens of demonstrations."""
        return mixed_mean(experience.sequences, experience.demonstration, totals, experience.importance)

    def loss(self, experience: PPOExperience, weight: Tensor) -> Loss:
        """Weighted sum of policy and value losses, and of the demonstrations' cross-entropy."""
        e, cfg, mask = experience, self.config, experience.sequences.mask
        logp = self.parts.policy.logprobs(e.sequences, cfg.temperature)
        surrogate = clipped_surrogate(logp, e.logp_old, e.advantage, mask, cfg.cliprange)
        critic = value_loss(self.critic(e.sequences), e.value_old, e.target, mask, cfg.cliprange_value)
        shown = self.mix.loss(e.demonstration)
        tokens, demonstrated = mixed_parts(weight, e.sequences)
        return Loss(
            weighted_sum(surrogate.loss + cfg.vf_coef * critic, tokens, mask) + weighted_sum(shown, demonstrated),
            {
                "reward": mean_of(e.score),
                "objective/kl": mean_of(e.kl),
                "objective/rlhf_reward": mean_of(e.score - self.beta * e.kl),
                "objective/beta": mean_of(torch.full_like(e.score, self.beta)),
                "policy/clip_ratio": mean_of(surrogate.clipped, mask),
                "policy/approxkl_k3": mean_of(surrogate.log_ratio.exp() - 1 - surrogate.log_ratio, mask),
                "policy/entropy_sampled": mean_of(-logp, mask),
                "loss/policy": mean_of(surrogate.loss, mask),
                "loss/value": mean_of(critic, mask),
                **({"loss/ptx": mean_of(shown, e.demonstration.mask)} if cfg.ptx_coef else {}),
                "completions/mean_length": mean_of(mask.sum(1)),
                "completions/clipped_ratio": mean_of(~e.finished),
                "sampling_gap_nats": mean_of(e.sampling_gap),
            },
        )
