"""A control for worlds with a truth: gold itself."""

from __future__ import annotations

from typing import Literal

from trueup.rewards.config import RewardConfig, RewardSources
from trueup.rewards.protocol import Reward


class GoldConfig(RewardConfig):
    """The world's truth, on the scale of a reward model's scores."""

    kind: Literal["gold"] = "gold"
    """This file."""

    def build(self, sources: RewardSources) -> Reward:
        """Gold, rescaled on the reference samples."""
        return sources.gold()
