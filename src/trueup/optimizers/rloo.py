"""REINFORCE with a leave-one-out baseline (Ahmadian et al. 2024, arXiv:2402.14740).

Deviations:
1. The KL penalty is inside the reward, one number a reply, held constant: ``score - beta * sum_t(log pi - log pi_ref)`` (the
   paper's eq. 4).
2. The gradient goes through a clipped sequence-level ratio to the policy that sampled (as in TRL), so that several passes over one batch
   are sound; on the first pass the ratio is 1 and the gradient is REINFORCE's.
3. An optional truncated importance weight corrects for a sampler of lower precision.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from trueup.core.rng import Key
from trueup.data.tokens import Sequences
from trueup.learn.table import Loss, Table
from trueup.ops.kl import kl_k3
from trueup.ops.masking import mean_of, sequence_sum, weighted_sum
from trueup.ops.policy_gradient import clipped_surrogate, leave_one_out
from trueup.ops.weights import row_mean
from trueup.optimizers.experience import PromptBatch, importance_weight, penalised_score, reference_gap, sample_and_score, sampling_gap
from trueup.optimizers.protocol import OnlineConfig, Parts


class RLOOConfig(OnlineConfig):
    """REINFORCE with a leave-one-out baseline."""

    kind: Literal["rloo"] = "rloo"
    """This file."""
    epsilon: float = Field(default=0.2, gt=0)
    """Half-width of the interval the sequence ratio is clipped to."""

    @model_validator(mode="after")
    def _enough_samples(self) -> RLOOConfig:
        if self.num_generations < 2:
            raise ValueError(f"a leave-one-out baseline needs num_generations of at least 2, got {self.num_generations}")
        return self

    def build(self, parts: Parts) -> RLOO:
        """The learner."""
        return RLOO(self, parts)


@dataclass(frozen=True, kw_only=True)
class RLOOExperience(Table):
    """Scored replies with their advantages."""

    sequences: Sequences
    logp_old: Tensor
    """[B, T] the policy that sampled, in training precision; nats."""
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


class RLOO:
    """Samples K replies a prompt and pushes each by how much it beats its siblings."""

    def __init__(self, config: RLOOConfig, parts: Parts) -> None:
        self.config, self.parts = config, parts

    def modules(self) -> dict[str, nn.Module]:
        """The policy."""
        return {"policy": self.parts.policy.model}

    def state_dict(self) -> dict[str, Any]:
        """Nothing beside weights."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing beside weights."""

    def collect(self, batch: PromptBatch, key: Key) -> RLOOExperience:
        """Sample, score, compare within prompts."""
        samples = sample_and_score(self.parts, self.config, batch, key)
        gap = reference_gap(samples)
        reward = penalised_score(samples, self.config) - self.config.beta * gap.sum(1)
        return RLOOExperience(
            sequences=samples.sequences,
            logp_old=samples.logp,
            advantage=leave_one_out(reward, self.config.num_generations),
            importance=importance_weight(samples, self.config),
            score=samples.score,
            finished=samples.finished,
            kl=gap.sum(1),
            kl_k3=sequence_sum(kl_k3(gap), samples.mask),
            sampling_gap=sampling_gap(samples),
        )

    def totals(self, experience: RLOOExperience) -> Tensor:
        """[1] replies."""
        return torch.tensor([float(len(experience))], dtype=torch.float64)

    def weigh(self, experience: RLOOExperience, totals: Tensor) -> Tensor:
        """[B] every reply counts the same, times its importance weight."""
        return row_mean(experience.advantage, totals[0].item()) * experience.importance

    def loss(self, experience: RLOOExperience, weight: Tensor) -> Loss:
        """Weighted sum of clipped sequence surrogates."""
        e = experience
        mask = e.sequences.mask
        logp = self.parts.policy.logprobs(e.sequences, self.config.temperature)
        rows = torch.ones_like(e.score, dtype=torch.bool)
        surrogate = clipped_surrogate(sequence_sum(logp, mask), sequence_sum(e.logp_old, mask), e.advantage, rows, self.config.epsilon)
        return Loss(
            weighted_sum(surrogate.loss, weight),
            {
                "reward": mean_of(e.score),
                "objective/kl": mean_of(e.kl),
                "objective/kl_k3": mean_of(e.kl_k3),
                "objective/rlhf_reward": mean_of(e.score - self.config.beta * e.kl),
                "policy/clip_ratio": mean_of(surrogate.clipped),
                "policy/entropy_sampled": mean_of(-logp, mask),
                "completions/mean_length": mean_of(mask.sum(1)),
                "completions/clipped_ratio": mean_of(~e.finished),
                "advantage_abs": mean_of(e.advantage.abs()),
                "sampling_gap_nats": mean_of(e.sampling_gap),
            },
        )
