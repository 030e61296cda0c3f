"""A control for worlds with a truth: the same reward model, fitted to the same pairs ordered by gold."""

from __future__ import annotations

from typing import Literal

from trueup.rewards.config import RewardConfig, RewardSources
from trueup.rewards.protocol import Reward


class CleanConfig(RewardConfig):
    """The reward model without the annotators' errors."""

    kind: Literal["clean"] = "clean"
    """This file."""

    def build(self, sources: RewardSources) -> Reward:
        """The reward model in force, which in such an arm is the clean one."""
        return sources.model()
