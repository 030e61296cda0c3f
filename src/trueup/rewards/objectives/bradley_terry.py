"""Bradley–Terry reward modelling (Bradley & Terry 1952; Ouyang et al. 2022, arXiv:2203.02155, eq. 1).

On groups of more than two ranked replies it is the all-pairs loss of section 3.5 of the same paper.

Deviations:
1. "The Alignment Ceiling" prints eq. 1 with the sign reversed; this is the form that raises the chosen score.
2. An optional centring term (Eisenstein et al. 2023, arXiv:2312.09244, eq. 2) fixes the zero that preferences leave open.
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from trueup.rewards.objectives.protocol import Judgements, PairwiseConfig, Ties, over_pairs


class BradleyTerryConfig(PairwiseConfig):
    """Log-likelihood that the chosen reply wins."""

    kind: Literal["bradley_terry"] = "bradley_terry"
    """This file."""

    def pair_loss(self, chosen: Tensor, rejected: Tensor, margin: Tensor) -> Tensor:
        """[n] `bradley_terry_loss`; stated margins are not used by this objective."""
        return bradley_terry_loss(chosen, rejected)


def bradley_terry_loss(chosen: Tensor, rejected: Tensor) -> Tensor:
    """Negative log-likelihood that ``chosen`` wins: [n], [n] -> [n]. Unchanged by a shift of both scores; finite at any size."""
    return F.softplus(rejected - chosen)


def bradley_terry_over_pairs(score: Tensor, judged: Judgements, ties: Ties) -> Tensor:
    """The mean of `bradley_terry_loss` over the pairs of each group: [B, K, 1] -> [B]; see `over_pairs`."""

    def pair_loss(chosen: Tensor, rejected: Tensor, margin: Tensor) -> Tensor:
        return bradley_terry_loss(chosen.squeeze(-1), rejected.squeeze(-1))

    return over_pairs(score, judged, pair_loss, ties)
