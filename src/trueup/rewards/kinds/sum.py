"""Weighted sum of rewards: a reward model and a check, say."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from trueup.core.config import Config
from trueup.rewards.combine import WeightedSum
from trueup.rewards.config import AnyReward, RewardConfig, RewardSources
from trueup.rewards.protocol import Reward


class Term(Config):
    """A reward and what it counts."""

    weight: float = 1.0
    """Of the reward; a reward model's scores have deviation 1 on replies of the SFT policy, a check gives 1 or 0."""
    reward: AnyReward
    """Any kind."""


class SumConfig(RewardConfig):
    """The sum of weight times reward."""

    kind: Literal["sum"] = "sum"
    """This file."""
    parts: tuple[Term, ...] = Field(min_length=1)
    """Rewards with their weights."""

    def inner(self) -> tuple[RewardConfig, ...]:
        """The parts."""
        return tuple(p.reward for p in self.parts)

    def build(self, sources: RewardSources) -> Reward:
        """The sum."""
        return WeightedSum([(p.weight, sources.build(p.reward)) for p in self.parts])
