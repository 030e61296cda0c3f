"""One reward model with the mean of several models' weights (WARM, Ramé et al. 2024, arXiv:2401.12187).

The facts of its stage hold the linear-mode check: held-out accuracy along the line from the first member to each other one. Members that
do not share their beginning (``pretraining``) are the negative control.
"""

from __future__ import annotations

from typing import Literal

from trueup.rewards.config import Differ, MembersConfig, RewardSources
from trueup.rewards.protocol import Reward


class AverageConfig(MembersConfig):
    """Averaged weights: the price of one model to score."""

    kind: Literal["average"] = "average"
    """This file."""
    differ: Differ = "order"
    """What tells members apart, as of an ensemble."""

    def build(self, sources: RewardSources) -> Reward:
        """The averaged model."""
        return sources.average(self.differ, self.members, self.trunks)
