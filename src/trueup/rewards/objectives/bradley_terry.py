"""Bradley–Terry reward modelling (Bradley & Terry 1952; Ouyang et al. 2022, arXiv:2203.02155, eq. 1).

Deviations:
1. "The Alignment Ceiling" prints eq. 1 with the sign reversed; this is the form that raises the chosen score.
2. An optional centring term (Eisenstein et al. 2023, arXiv:2312.09244, eq. 2) fixes the zero that preferences leave open.
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from trueup.rewards.objectives.protocol import ObjectiveConfig


class BradleyTerryConfig(ObjectiveConfig):
    """Log-likelihood that the chosen reply wins."""

    kind: Literal["bradley_terry"] = "bradley_terry"
    """This file."""
    center_rewards_coefficient: float = Field(default=0.0, ge=0)
    """Weight of the squared sum of a pair's scores; 0 leaves the zero of the score undetermined (TRL's name)."""

    def loss(self, chosen: Tensor, rejected: Tensor, margin: Tensor) -> Tensor:
        """[B] `bradley_terry_loss`, plus the centring term; stated margins are not used by this objective."""
        return bradley_terry_loss(chosen, rejected) + self.center_rewards_coefficient * (chosen + rejected) ** 2


def bradley_terry_loss(chosen: Tensor, rejected: Tensor) -> Tensor:
    """Negative log-likelihood that ``chosen`` wins: [B], [B] -> [B]. Unchanged by a shift of both scores; finite at any size."""
    return F.softplus(rejected - chosen)
