"""Inclusive learning: the policy is its own reward model (Xu et al. 2023, arXiv:2305.11455).

A reply is preferred with chance P(chosen) / (P(chosen) + P(rejected)), Luce's choice with the policy's own probabilities. Preferences that
come from a population therefore lead to the population's proportions, not to its favourite.

Deviations:
1. Closeness to the base model is ``closeness / 2`` times the squared log-ratio of each reply of the data, a normal prior on their
   log-probabilities; the paper's abstract asks for closeness and leaves the form open.
2. Pairs are given; the paper's exploration, which chooses what to ask, is not here.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor

from trueup.ops.kl import kl_k2
from trueup.ops.preference import luce_loss
from trueup.optimizers.offline import PairConfig


class InclusiveConfig(PairConfig):
    """Luce's choice rule on the policy's probabilities."""

    kind: Literal["inclusive"] = "inclusive"
    """This file."""
    closeness: float = Field(default=0.01, ge=0)
    """Precision of the prior that replies keep the log-probability they have under the base model; per square nat."""

    def pair_loss(self, logp: Tensor, logp_ref: Tensor, tokens: Tensor) -> Tensor:
        """[B] see `PairConfig.pair_loss`."""
        return luce_loss(logp) + self.closeness * kl_k2(logp - logp_ref).sum(1)

    def implicit_reward(self, logp: Tensor, logp_ref: Tensor) -> Tensor:
        """[B, 2] see `PairConfig.implicit_reward`."""
        return logp
