"""A reward model that judges segments, each where it ends (Wu et al. 2023, arXiv:2306.01693)."""

from __future__ import annotations

from typing import Literal

from trueup.rewards.combine import WeightedSum
from trueup.rewards.config import RewardConfig, RewardSources
from trueup.rewards.protocol import Reward


class DenseConfig(RewardConfig):
    """A dense reward model, divided by the deviation of its scores on replies of the SFT policy; not shifted: a shift has no place."""

    kind: Literal["dense"] = "dense"
    """This file."""
    path: str
    """Folder written by `trueup.rewards.dense_reward.save_dense`."""

    def build(self, sources: RewardSources) -> Reward:
        """The model, to scale."""
        reward = sources.dense(self.path)
        return WeightedSum([(1 / sources.deviation(reward), reward)], ["dense"])
