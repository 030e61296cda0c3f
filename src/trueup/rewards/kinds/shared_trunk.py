"""An ensemble of heads on one trunk, fitted together: little dearer than one reward model (see the objective ``heads``).

Deviations:
1. Bradley–Terry, whatever the run's objective.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from trueup.ops.ensembles import Aggregate
from trueup.rewards.config import RewardConfig, RewardSources
from trueup.rewards.ensemble import HeadsReward
from trueup.rewards.protocol import Reward


class SharedTrunkConfig(RewardConfig):
    """Heads that each leave out their own part of the data."""

    kind: Literal["shared_trunk"] = "shared_trunk"
    """This file."""
    members: int = Field(default=5, ge=2)
    """Heads."""
    seen_share: float = Field(default=0.8, gt=0, le=1)
    """Share of the groups that each head learns from."""
    rule: Aggregate = "mean"
    """As of an ensemble."""
    coefficient: float = Field(default=0.5, ge=0)
    """Price of disagreement, as of an ensemble."""

    def build(self, sources: RewardSources) -> Reward:
        """The heads under the rule."""
        model, scales = sources.shared_trunk(self.members, self.seen_share)
        return HeadsReward(model, scales, self.rule, self.coefficient)
