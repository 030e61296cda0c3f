"""Supervised fine-tuning: next-token cross-entropy on demonstrations, prompt tokens not counted.

Deviation: the mean is over all reply tokens of the minibatch (over all processes), so gradient accumulation adds up exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from trueup.core.rng import Key
from trueup.data.rows import Demonstration
from trueup.data.tokens import Sequences
from trueup.learn.learner import Stateless
from trueup.learn.table import Examples, Loss, Table
from trueup.models.policy import Policy
from trueup.ops.masking import mean_of, weighted_sum
from trueup.ops.weights import counts, token_mean
from trueup.optimizers.pretraining import encoded
from trueup.optimizers.protocol import Data, OptimizerConfig, Parts


class SFTConfig(OptimizerConfig):
    """Cross-entropy on demonstrations."""

    learns_from: ClassVar[Data] = "demonstrations"
    uses_reward: ClassVar[bool] = False
    kind: Literal["sft"] = "sft"
    """This file."""

    def build(self, parts: Parts) -> SFT:
        """The learner; it needs the policy alone."""
        return SFT(parts.policy)


@dataclass(frozen=True, kw_only=True)
class SFTExperience(Table):
    """Encoded demonstrations."""

    sequences: Sequences


class SFT(Stateless):
    """Imitates demonstrations."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy

    def modules(self) -> dict[str, nn.Module]:
        """The policy."""
        return {"policy": self.policy.model}

    def collect(self, batch: Examples[Demonstration], key: Key) -> SFTExperience:
        """Encode prompts and replies."""
        return SFTExperience(sequences=encoded(self.policy, batch.example))

    def totals(self, experience: SFTExperience) -> Tensor:
        """[2] rows and reply tokens."""
        return counts(experience.sequences.mask)

    def weigh(self, experience: SFTExperience, totals: Tensor) -> Tensor:
        """[B, T] every reply token counts the same."""
        return token_mean(experience.sequences.mask, totals[1].item())

    def loss(self, experience: SFTExperience, weight: Tensor) -> Loss:
        """Weighted sum of minus log-probability."""
        mask = experience.sequences.mask
        logp = self.policy.logprobs(experience.sequences)
        return Loss(
            weighted_sum(-logp, weight, mask),
            {"nll_nats": mean_of(-logp, mask), "completions/mean_length": mean_of(torch.sum(mask, 1))},
        )
