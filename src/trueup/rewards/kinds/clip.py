"""A reward held between two values."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from trueup.rewards.config import AnyReward, RewardConfig, RewardSources
from trueup.rewards.kinds.learned import LearnedConfig
from trueup.rewards.protocol import Reward
from trueup.rewards.shaping import Clipped


class ClipConfig(RewardConfig):
    """A clipped reward."""

    kind: Literal["clip"] = "clip"
    """This file."""
    reward: AnyReward = LearnedConfig()
    """What is clipped."""
    low: float = -3.0
    """Least value."""
    high: float = 3.0
    """Largest value."""

    @model_validator(mode="after")
    def _ordered(self) -> ClipConfig:
        if not self.low < self.high:
            raise ValueError(f"low {self.low} must be below high {self.high}")
        return self

    def inner(self) -> tuple[RewardConfig, ...]:
        """What is clipped."""
        return (self.reward,)

    def build(self, sources: RewardSources) -> Reward:
        """The clipped reward."""
        return Clipped(sources.build(self.reward), self.low, self.high)
