"""Unbiased Bradley–Terry under flipped labels: its mean over flips is the loss of the clean labels (Natarajan et al. 2013; Chowdhury et al.
2024, arXiv:2403.00409, eq. 12).

Deviations:
1. The loss is unbounded below, so a flexible model can drive it to minus infinity on single pairs; ``floor`` stops a pair's loss there.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor

from trueup.rewards.objectives.bradley_terry import bradley_terry_loss
from trueup.rewards.objectives.protocol import PairwiseConfig


class FlipNoiseConfig(PairwiseConfig):
    """Bradley–Terry, corrected for a known share of flipped labels."""

    kind: Literal["flip_noise"] = "flip_noise"
    """This file."""
    flip_probability: float = Field(default=0.1, ge=0, lt=0.5)
    """Share of labels that are flipped; 0 is Bradley–Terry."""
    floor: float | None = -2.0
    """Least loss of a pair, below which it has no gradient; null for none, as in the papers."""

    def pair_loss(self, chosen: Tensor, rejected: Tensor, margin: Tensor) -> Tensor:
        """[n] `unbiased_loss`, not below the floor."""
        found = unbiased_loss(chosen, rejected, self.flip_probability)
        return found if self.floor is None else found.clamp(min=self.floor)


def unbiased_loss(chosen: Tensor, rejected: Tensor, flip: float) -> Tensor:
    """((1 - e) loss(chosen, rejected) - e loss(rejected, chosen)) / (1 - 2 e): [n], [n] -> [n]."""
    return ((1 - flip) * bradley_terry_loss(chosen, rejected) - flip * bradley_terry_loss(rejected, chosen)) / (1 - 2 * flip)
