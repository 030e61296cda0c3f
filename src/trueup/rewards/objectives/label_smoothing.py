"""Bradley–Terry with smoothed labels: each label is taken to be wrong with a stated probability (the "conservative" loss of Mitchell 2023).

Scores of a pair settle at log((1 - e) / e) apart, so they stay finite on labels without noise.

Deviations: none.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor

from trueup.rewards.objectives.bradley_terry import bradley_terry_loss
from trueup.rewards.objectives.protocol import PairwiseConfig


class LabelSmoothingConfig(PairwiseConfig):
    """Cross-entropy against smoothed labels."""

    kind: Literal["label_smoothing"] = "label_smoothing"
    """This file."""
    label_smoothing: float = Field(default=0.1, ge=0, lt=0.5)
    """Probability that a label is taken to be wrong (TRL's name); 0 is Bradley–Terry."""

    def pair_loss(self, chosen: Tensor, rejected: Tensor, margin: Tensor) -> Tensor:
        """[n] `smoothed_loss`."""
        return smoothed_loss(chosen, rejected, self.label_smoothing)


def smoothed_loss(chosen: Tensor, rejected: Tensor, wrong: float) -> Tensor:
    """(1 - e) loss(chosen, rejected) + e loss(rejected, chosen): [n], [n] -> [n]; its least value is the entropy of e."""
    return (1 - wrong) * bradley_terry_loss(chosen, rejected) + wrong * bradley_terry_loss(rejected, chosen)
