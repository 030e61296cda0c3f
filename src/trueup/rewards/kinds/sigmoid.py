"""The chance to win against the SFT policy's own replies, between 0 and 1 (PAR, Fu et al. 2025, arXiv:2502.18770)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from trueup.rewards.config import AnyReward, RewardConfig, RewardSources
from trueup.rewards.kinds.learned import LearnedConfig
from trueup.rewards.protocol import Reward
from trueup.rewards.shaping import SigmoidToReference


class SigmoidConfig(RewardConfig):
    """Mean of sigmoid(reward minus reward of a reference reply)."""

    kind: Literal["sigmoid"] = "sigmoid"
    """This file."""
    reward: AnyReward = LearnedConfig()
    """What is shaped."""
    references: int = Field(default=4, ge=1)
    """Replies of the SFT policy to each prompt."""

    def inner(self) -> tuple[RewardConfig, ...]:
        """What is shaped."""
        return (self.reward,)

    def build(self, sources: RewardSources) -> Reward:
        """The bounded reward."""
        return SigmoidToReference(sources.build(self.reward), sources.references(self.references))
