"""Several heads on one trunk, each fitted to its own part of the data: an ensemble that costs little more than one model.

Heads start from different weights; beyond that each leaves out its own share of the groups (a subsample drawn without replacement, as in
bagging, Breiman 1996), since heads on one trunk that see the same data agree too much to say where they are unsure.

Deviations:
1. Which groups a head leaves out follows from the group's row number, so it is the same in every epoch, batch and process.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from trueup.rewards.objectives.bradley_terry import bradley_terry_over_pairs
from trueup.rewards.objectives.protocol import ComparisonConfig, Judgements


class HeadsConfig(ComparisonConfig):
    """Bradley–Terry for each of several heads. The reward is the first head; `trueup.rewards.ensemble.HeadsReward` reads all."""

    kind: Literal["heads"] = "heads"
    """This file."""
    members: int = Field(default=5, ge=1)
    """Heads."""
    seen_share: float = Field(default=0.8, gt=0, le=1)
    """Share of the groups that each head learns from."""

    @property
    def outputs(self) -> int:
        """One output a member."""
        return self.members

    def loss(self, output: Tensor, judged: Judgements) -> Tensor:
        """[B] Mean over heads of Bradley–Terry, where the head sees the group."""
        seen = sees(judged.row, self.members, self.seen_share).to(output.dtype)
        losses = [bradley_terry_over_pairs(output[..., h : h + 1], judged, self.ties) for h in range(self.members)]
        return (torch.stack(losses, 1) * seen).sum(1) / (self.members * self.seen_share)


def sees(row: Tensor, members: int, share: float) -> Tensor:
    """[B, M] bool: which head sees which row, by a hash of both (the finaliser of MurmurHash3 on 32 bits)."""
    low = (1 << 32) - 1
    x = (row[:, None] * 0x9E3779B1 + torch.arange(1, members + 1, device=row.device) * 0x85EBCA77) & low
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
        x = ((x ^ (x >> shift)) * factor) & low
    return x.double() / (low + 1) < share
