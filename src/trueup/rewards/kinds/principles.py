"""A reward model asked about every prompt with principles behind it (SALMON; Sun et al. 2023, arXiv:2310.05910)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from trueup.rewards.config import AnyReward, RewardConfig, RewardSources
from trueup.rewards.kinds.learned import LearnedConfig
from trueup.rewards.principles import PrincipleReward
from trueup.rewards.protocol import Reward


class PrinciplesConfig(RewardConfig):
    """A reward steered by principles."""

    kind: Literal["principles"] = "principles"
    """This file."""
    reward: AnyReward = LearnedConfig()
    """What is asked; fitted to rows of `trueup.data.principles.principle_preferences`."""
    principles: tuple[str, ...] = Field(min_length=1)
    """In the words that it was fitted to; other ones than in fitting steer it otherwise."""

    def inner(self) -> tuple[RewardConfig, ...]:
        """What is asked."""
        return (self.reward,)

    def build(self, sources: RewardSources) -> Reward:
        """The steered reward."""
        return PrincipleReward(sources.build(self.reward), self.principles)
