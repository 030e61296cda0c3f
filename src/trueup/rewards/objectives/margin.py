"""Bradley–Terry with a margin that grows with the preference's stated strength (Llama 2, Touvron et al. 2023, arXiv:2307.09288, eq. 2).

The fit is miscalibrated by design: where replies win with probability p, differences settle where p / (1 - p) =
(1 + e^(d - m)) / (1 + e^(-d - m)), beyond logit(p). Calibrate it before reading probabilities from it.

Deviations:
1. The paper gives one of four discrete margins a pair; here any stated strength is scaled by ``margin_scale``.
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from trueup.rewards.objectives.protocol import PairwiseConfig


class MarginConfig(PairwiseConfig):
    """The chosen score must lead by the stated margin."""

    kind: Literal["margin"] = "margin"
    """This file."""
    margin_scale: float = Field(default=1.0, ge=0)
    """Score units per unit of stated strength; 0 is Bradley–Terry."""

    def pair_loss(self, chosen: Tensor, rejected: Tensor, margin: Tensor) -> Tensor:
        """[n] `margin_loss` of the scaled margin."""
        return margin_loss(chosen, rejected, self.margin_scale * margin)


def margin_loss(chosen: Tensor, rejected: Tensor, margin: Tensor) -> Tensor:
    """-log sigmoid(chosen - rejected - margin): [n], [n], [n] -> [n]."""
    return F.softplus(margin - (chosen - rejected))
