"""Preference optimisation on the policy's own pairs (Guo et al. 2024, arXiv:2402.04792, "OAIF"), ordered by the reward.

Deviations:
1. The reward model orders the pair instead of a prompted judge.
2. A tied pair teaches nothing (its weight is 0); TRL takes the first reply as chosen.
3. A reply that did not end loses ``missing_eos_penalty`` before the pair is ordered, as in TRL.
4. An order without doubt leaves ``sigmoid`` no finite optimum: it goes on to the best reply. ``ipo`` has one: pi(y) proportional to
   pi_ref(y) exp(P(y beats a sample of pi) / beta) (Calandriello et al. 2024, arXiv:2403.08635).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from trueup.core.rng import Key
from trueup.data.tokens import Sequences
from trueup.learn.learner import Stateless
from trueup.learn.table import Loss, Table
from trueup.ops.masking import mean_of, sequence_sum, weighted_sum
from trueup.ops.preference import ipo_loss
from trueup.ops.weights import row_mean
from trueup.optimizers.experience import PromptBatch, importance_weight, penalised_score, reference_gap, sample_and_score, sampling_gap
from trueup.optimizers.offline import pair_metrics
from trueup.optimizers.protocol import OnlineConfig, Parts
from trueup.rewards.objectives.label_smoothing import smoothed_loss


class OnlineDPOConfig(OnlineConfig):
    """DPO or IPO on two samples a prompt."""

    kind: Literal["online_dpo"] = "online_dpo"
    """This file."""
    num_generations: int = Field(default=2, ge=2, le=2)
    """Replies sampled for each prompt: always a pair."""
    beta: float = Field(default=0.1, gt=0)
    """The larger, the closer to the reference: factor of the log-ratio in ``sigmoid``; in ``ipo`` its tau."""
    loss_type: Literal["sigmoid", "ipo"] = "sigmoid"
    """DPO's loss, or IPO's (TRL's names)."""

    def build(self, parts: Parts) -> OnlineDPO:
        """The learner."""
        return OnlineDPO(self, parts)


@dataclass(frozen=True, kw_only=True)
class OnlineDPOExperience(Table):
    """Pairs of the policy's own replies, the better one first."""

    sequences: Sequences
    """Every column [B, 2, ...]."""
    logp_ref: Tensor
    """[B, 2] of whole replies, nats."""
    untied: Tensor
    """[B] bool, the reward prefers one."""
    importance: Tensor
    """[B, 2]"""
    score: Tensor
    """[B, 2]"""
    finished: Tensor
    """[B, 2]"""
    kl: Tensor
    """[B, 2] log pi - log pi_ref of the reply (k1), nats."""
    sampling_gap: Tensor
    """[B, 2] nats."""


class OnlineDPO(Stateless):
    """Samples two replies a prompt, has the reward order them, and learns from the order."""

    def __init__(self, config: OnlineDPOConfig, parts: Parts) -> None:
        self.config, self.parts = config, parts

    def modules(self) -> dict[str, nn.Module]:
        """The policy."""
        return {"policy": self.parts.policy.model}

    def collect(self, batch: PromptBatch, key: Key) -> OnlineDPOExperience:
        """Sample, score, put the better reply first."""
        samples = sample_and_score(self.parts, self.config, batch, key)
        judged = penalised_score(samples, self.config).view(-1, 2)
        first = torch.arange(0, len(samples), 2, device=judged.device) + (judged[:, 1] > judged[:, 0]).long()
        order = torch.stack([first, first ^ 1], 1).flatten()  # neighbours differ in the last bit

        def paired(x: Tensor) -> Tensor:
            return x[order].unflatten(0, (-1, 2))

        return OnlineDPOExperience(
            sequences=samples.sequences.take(order).stacked(2),
            logp_ref=paired(sequence_sum(samples.logp_ref, samples.mask)),
            untied=judged[:, 0] != judged[:, 1],
            importance=paired(importance_weight(samples, self.config)),
            score=paired(samples.score),
            finished=paired(samples.finished),
            kl=paired(reference_gap(samples).sum(1)),
            sampling_gap=paired(sampling_gap(samples)),
        )

    def totals(self, experience: OnlineDPOExperience) -> Tensor:
        """[1] pairs, tied ones too."""
        return torch.tensor([float(len(experience))], dtype=torch.float64)

    def weigh(self, experience: OnlineDPOExperience, totals: Tensor) -> Tensor:
        """[B] every pair counts the same, times the importance weights of both replies; a tie counts nothing."""
        return row_mean(experience.score, totals[0].item()) * experience.importance.prod(1) * experience.untied

    def loss(self, experience: OnlineDPOExperience, weight: Tensor) -> Loss:
        """Weighted sum of the pairs' losses."""
        e, cfg = experience, self.config
        flat = e.sequences.unstacked()
        logp = sequence_sum(self.parts.policy.logprobs(flat, cfg.temperature), flat.mask).unflatten(0, (-1, 2))
        ratio = logp - e.logp_ref
        implicit = cfg.beta * ratio
        ipo = cfg.loss_type == "ipo"
        loss = ipo_loss(ratio[:, 0] - ratio[:, 1], cfg.beta) if ipo else smoothed_loss(implicit[:, 0], implicit[:, 1], 0.0)
        return Loss(
            weighted_sum(loss, weight),
            {
                **pair_metrics(logp, implicit),
                "reward": mean_of(e.score),
                "objective/kl": mean_of(e.kl),
                "objective/rlhf_reward": mean_of(e.score - cfg.beta * e.kl),
                "ties_share": mean_of(~e.untied),
                "completions/mean_length": mean_of(flat.mask.sum(1)),
                "completions/clipped_ratio": mean_of(~e.finished),
                "sampling_gap_nats": mean_of(e.sampling_gap),
            },
        )
