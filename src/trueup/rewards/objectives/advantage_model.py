"""Advantage model: a score that is bounded and centred on what the policy writes (Peng et al. 2023, arXiv:2309.10202).

Bradley–Terry plus a barrier -log(m - a(chosen)) - log(m + a(rejected)) that keeps scores inside (-m, m), so that prompts of different
tasks get comparable scores.

Deviations:
1. The expected score e(x) under the policy is the mean over the group's replies (``center: group``) instead of a head of its own;
   groups then should hold samples of the policy. Without centring the model learns the offset by itself.
2. The barrier goes on as a straight line close to and beyond its pole, so that it stays finite at any score.
3. Its weight is a setting; the paper's is 1.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from trueup.rewards.objectives.bradley_terry import bradley_terry_loss
from trueup.rewards.objectives.protocol import ComparisonConfig, Judgements, over_pairs

NEAR = 0.02
"""Share of the bound, from its end, where the straight line begins."""


class AdvantageModelConfig(ComparisonConfig):
    """Bounded, centred Bradley–Terry."""

    kind: Literal["advantage_model"] = "advantage_model"
    """This file."""
    bound: float = Field(default=3.0, gt=0)
    """m, the size that scores should stay below."""
    barrier_coefficient: float = Field(default=1.0, ge=0)
    """Weight of the barrier; 0 is Bradley–Terry."""
    center: Literal["none", "group"] = "none"
    """Which expectation is taken off: none, or the mean of the group."""

    def loss(self, output: Tensor, judged: Judgements) -> Tensor:
        """[B] Bradley–Terry plus barrier, mean over the pairs of a group."""
        score = output[..., :1]
        if self.center == "group":
            present = judged.present[..., None]
            total = torch.where(present, score, torch.zeros_like(score)).sum(1, keepdim=True)
            score = score - total / present.sum(1, keepdim=True).clamp(min=1)

        def pair_loss(chosen: Tensor, rejected: Tensor, margin: Tensor) -> Tensor:
            a, b = chosen.squeeze(-1), rejected.squeeze(-1)
            return bradley_terry_loss(a, b) + self.barrier_coefficient * (barrier(a, self.bound) + barrier(-b, self.bound))

        return over_pairs(score, judged, pair_loss, self.ties)


def barrier(score: Tensor, bound: float) -> Tensor:
    """-log(bound - score), a straight line of the same value and slope from (1 - NEAR) bound on: any shape."""
    last = bound * NEAR
    inside = (bound - score).clamp(min=last)
    beyond = (score - (bound - last)).clamp(min=0)
    return -inside.log() + beyond / last
