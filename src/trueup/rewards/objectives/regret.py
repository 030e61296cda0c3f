"""Preferences by regret: annotators compare how far each reply falls short of the best, not its reward (Knox et al. 2022, arXiv:2206.02231;
2023, arXiv:2310.02456).

With replies as single actions the advantage A*(x, y) = r(x, y) - max r(x, .) differs from the reward by a function of the prompt, so both
models order alike; what is learned here is A* itself, pinned to 0 at the best reply of each group, which a reward needs not be.

Deviations:
1. Regret of a whole reply, not of each of its tokens. `deterministic_regret` and `stochastic_regret` are there for segments of several
   steps, such as turns.
2. max A* = 0 is asked for by a squared term on the best score of each group, since only replies that are there can be pinned.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from trueup.rewards.objectives.bradley_terry import bradley_terry_over_pairs
from trueup.rewards.objectives.protocol import ComparisonConfig, Judgements


class RegretConfig(ComparisonConfig):
    """An advantage: Bradley–Terry on scores whose maximum in each group is held at 0."""

    kind: Literal["regret"] = "regret"
    """This file."""
    anchor_coefficient: float = Field(default=0.1, ge=0)
    """Weight of the squared best score of a group; 0 leaves the constant open, and with it whether ending early looks good or bad."""

    def loss(self, output: Tensor, judged: Judgements) -> Tensor:
        """[B] Mean over pairs of -log P(regret), plus the anchor."""
        score = output[..., 0]
        best = torch.where(judged.present, score, torch.full_like(score, -torch.inf)).amax(1)
        return bradley_terry_over_pairs(output[..., :1], judged, self.ties) + self.anchor_coefficient * best**2


def deterministic_regret(reward: Tensor, value_start: Tensor, value_end: Tensor, mask: Tensor) -> Tensor:
    """V*(first state) - (sum of rewards + V*(last state)), for deterministic transitions without discount.

    Args:
        reward: [n, T] of each step.
        value_start: [n] V* where the segment begins.
        value_end: [n] V* where it ends.
        mask: [n, T] valid steps.

    Returns:
        [n] 0 for optimal segments, else above.
    """
    return value_start - (torch.where(mask, reward, torch.zeros_like(reward)).sum(1) + value_end)


def stochastic_regret(advantage: Tensor, mask: Tensor) -> Tensor:
    """Minus the sum of A*(state, action) over a segment: [n, T], [n, T] -> [n]; never negative."""
    return -torch.where(mask, advantage, torch.zeros_like(advantage)).sum(1)
