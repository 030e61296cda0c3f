"""Pairwise proximal policy optimisation (Wu et al. 2023, arXiv:2310.00212): two replies push each other, and no value is learned.

Deviations:
1. ``num_generations`` above 2 makes pairs of neighbours; no reply is in two pairs.
2. ``clipping: separate`` (V1) weighs each reply by the other's present ratio, held constant, so that without clipping the gradient is
   the pairwise one; no public code states it.
3. The KL penalty is inside the reward, as in the paper, or in another form that ``kl_penalty`` names.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from trueup.core.rng import Key
from trueup.data.tokens import Sequences
from trueup.learn.learner import Stateless
from trueup.learn.table import Loss, Table
from trueup.ops.masking import mean_of, sequence_sum, weighted_sum
from trueup.ops.policy_gradient import pair_joint, pair_separate
from trueup.ops.weights import row_mean
from trueup.optimizers.experience import PromptBatch, importance_weight, reference_gap, sample_and_score, sampling_gap
from trueup.optimizers.protocol import Parts
from trueup.optimizers.whole_reply import PenalisedConfig, kl_in_loss, penalised_reward


class P3OConfig(PenalisedConfig):
    """Pairwise policy gradient with clipping."""

    kind: Literal["p3o"] = "p3o"
    """This file."""
    num_generations: int = Field(default=2, ge=2)
    """Replies sampled for each prompt; an even number."""
    clipping: Literal["separate", "joint"] = "joint"
    """Each reply's ratio by itself (the paper's V1), or the pair's difference of log-probabilities (V2)."""
    epsilon: float = Field(default=0.2, gt=0)
    """Half-width of the clipped interval: of the ratio, or of the difference in nats."""

    @model_validator(mode="after")
    def _pairs(self) -> P3OConfig:
        if self.num_generations % 2:
            raise ValueError(f"pairs need an even num_generations, got {self.num_generations}")
        return self

    def build(self, parts: Parts) -> P3O:
        """The learner."""
        return P3O(self, parts)


@dataclass(frozen=True, kw_only=True)
class P3OExperience(Table):
    """Pairs of replies to one prompt."""

    sequences: Sequences
    """Every column [N, 2, ...]."""
    logp_old: Tensor
    """[N, 2] of whole replies under the policy that sampled, in training precision; nats."""
    logp_ref: Tensor
    """[N, 2] nats."""
    reward: Tensor
    """[N, 2] score less penalties."""
    importance: Tensor
    """[N, 2]"""
    score: Tensor
    """[N, 2]"""
    finished: Tensor
    """[N, 2]"""
    kl: Tensor
    """[N, 2] log pi - log pi_ref of the reply (k1), nats."""
    sampling_gap: Tensor
    """[N, 2] nats."""


class P3O(Stateless):
    """Samples pairs and moves probability from the worse reply to the better one."""

    def __init__(self, config: P3OConfig, parts: Parts) -> None:
        self.config, self.parts = config, parts

    def modules(self) -> dict[str, nn.Module]:
        """The policy."""
        return {"policy": self.parts.policy.model}

    def collect(self, batch: PromptBatch, key: Key) -> P3OExperience:
        """Sample, score, pair up."""
        samples = sample_and_score(self.parts, self.config, batch, key)
        reward = penalised_reward(samples, self.config, self.parts.sum_over_processes)

        def paired(x: Tensor) -> Tensor:
            return x.unflatten(0, (-1, 2))

        return P3OExperience(
            sequences=samples.sequences.stacked(2),
            logp_old=paired(sequence_sum(samples.logp, samples.mask)),
            logp_ref=paired(sequence_sum(samples.logp_ref, samples.mask)),
            reward=paired(reward),
            importance=paired(importance_weight(samples, self.config)),
            score=paired(samples.score),
            finished=paired(samples.finished),
            kl=paired(reference_gap(samples).sum(1)),
            sampling_gap=paired(sampling_gap(samples)),
        )

    def totals(self, experience: P3OExperience) -> Tensor:
        """[1] pairs."""
        return torch.tensor([float(len(experience))], dtype=torch.float64)

    def weigh(self, experience: P3OExperience, totals: Tensor) -> Tensor:
        """[N] every pair counts the same, times the importance weights of both replies."""
        return row_mean(experience.reward, totals[0].item()) * experience.importance.prod(1)

    def loss(self, experience: P3OExperience, weight: Tensor) -> Loss:
        """Weighted sum of clipped pairwise surrogates."""
        e, cfg = experience, self.config
        flat = e.sequences.unstacked()
        tokens = self.parts.policy.logprobs(flat, cfg.temperature)
        logp = sequence_sum(tokens, flat.mask).unflatten(0, (-1, 2))
        surrogate = pair_separate if cfg.clipping == "separate" else pair_joint
        value, clipped = surrogate(logp, e.logp_old, e.reward, cfg.epsilon)
        penalty = kl_in_loss(logp - e.logp_ref, cfg).mean(1)
        return Loss(
            weighted_sum(value + penalty, weight),
            {
                "reward": mean_of(e.score),
                "objective/kl": mean_of(e.kl),
                "objective/rlhf_reward": mean_of(e.score - cfg.beta * e.kl),
                "rewards/margins": mean_of((e.reward[:, 0] - e.reward[:, 1]).abs()),
                "policy/clip_ratio": mean_of(clipped),
                "policy/entropy_sampled": mean_of(-tokens, flat.mask),
                "completions/mean_length": mean_of(flat.mask.sum(1)),
                "completions/clipped_ratio": mean_of(~e.finished),
                "sampling_gap_nats": mean_of(e.sampling_gap),
            },
        )
