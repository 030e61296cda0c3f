"""The run's reward model; refits replace it."""

from __future__ import annotations

from typing import Literal

from trueup.rewards.config import RewardConfig, RewardSources
from trueup.rewards.protocol import Reward


class LearnedConfig(RewardConfig):
    """The reward model that the run fits."""

    kind: Literal["learned"] = "learned"
    """This file."""

    def build(self, sources: RewardSources) -> Reward:
        """The reward model in force."""
        return sources.model()
