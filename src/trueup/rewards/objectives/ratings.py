"""Scalar ratings by regression: the rating itself, or the difference of two (Ziegler et al. 2019, arXiv:1909.08593, as its code has it).

Ratings are the one kind of judgement that fixes the score's zero and unit; ``difference`` leaves the zero open.

Deviations:
1. Ratings are shifted and scaled by stated constants, so that a fresh head starts near them.
2. Differences are taken over all pairs of a prompt, with the weight of one prompt.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from trueup.ops.masking import keep
from trueup.rewards.objectives.protocol import Judgements, ObjectiveConfig, over_pairs


class RatingsConfig(ObjectiveConfig):
    """Squared error to the rating, or to differences of ratings."""

    kind: Literal["ratings"] = "ratings"
    """This file."""
    target: Literal["rating", "difference"] = "rating"
    """What the score, or the difference of two scores, is to equal."""
    rating_mean: float = 0.0
    """Rating that the score 0 stands for."""
    rating_std: float = Field(default=1.0, gt=0)
    """Rating points of one score unit."""

    def loss(self, output: Tensor, judged: Judgements) -> Tensor:
        """[B] Mean squared error over the replies, or the pairs, of a group."""
        wanted = keep((judged.rating - self.rating_mean) / self.rating_std, judged.present).to(output.dtype)
        if self.target == "rating":
            error = torch.where(judged.present, (output[..., 0] - wanted) ** 2, torch.zeros_like(wanted))
            return error.sum(1) / judged.present.sum(1).clamp(min=1)
        both = torch.stack([output[..., 0], wanted], -1)
        return over_pairs(both, judged, _squared_difference, "half")

    def counted(self, judged: Judgements) -> Tensor:
        """[B] One rated reply is enough for the rating itself; a difference needs two."""
        return judged.present.sum(1) >= (1 if self.target == "rating" else 2)


def _squared_difference(chosen: Tensor, rejected: Tensor, margin: Tensor) -> Tensor:
    gap = chosen - rejected
    return (gap[..., 0] - gap[..., 1]) ** 2
