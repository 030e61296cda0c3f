"""Several reward models as one, with or without pessimism where they disagree (Coste et al. 2023, arXiv:2310.02743; Eisenstein et al.
2023, arXiv:2312.09244).

Deviations:
1. Members that differ by pretraining also differ by head and order of the data; nothing but their data is shared.
2. Each member is rescaled on the same samples before the rule, so the coefficient is in deviations of a member's scores.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from trueup.ops.ensembles import Aggregate
from trueup.rewards.config import Differ, MembersConfig, RewardSources
from trueup.rewards.ensemble import EnsembleReward
from trueup.rewards.protocol import Reward


class EnsembleConfig(MembersConfig):
    """Members of the run's reward settings; the first is the run's own reward model."""

    kind: Literal["ensemble"] = "ensemble"
    """This file."""
    differ: Differ = "head"
    """What tells members apart: ``head`` (its first weights), ``order`` (of the data), ``adapter`` (its first weights; needs
    reward.model.lora), or ``pretraining`` (own small policy, SFT, head and order; or own ``trunks``)."""
    rule: Aggregate = "mean"
    """``min`` is WCO, ``uwo`` the mean minus coefficient times variance, ``mean_std`` the same with the deviation, ``soft_min`` between
    mean and min."""
    coefficient: float = Field(default=0.5, ge=0)
    """Price of disagreement in ``uwo``, ``mean_std`` and ``soft_min``."""

    def build(self, sources: RewardSources) -> Reward:
        """The members under the rule."""
        return EnsembleReward(sources.members(self.differ, self.members, self.trunks), self.rule, self.coefficient)
