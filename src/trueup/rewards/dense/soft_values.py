"""Every prefix learns its soft value ``(1 / strength) log E[exp(strength R) | prefix]``, by linear-exponential loss (Varian 1975; Zellner
1986).

``(exp(g) - g - 1) / strength^2`` with g = strength (R - V) is convex in V; on replies of the policy its derivative vanishes where
E[exp(strength (R - V))] = 1. Tokens tilted by these values have the law of the KL-regularised optimum (`controlled`); tokens tilted by
mean values have not. As strength falls to 0 it becomes half the squared error.

Deviations:
1. g is held below ``most``: beyond it the loss goes on as a straight line, so that one reply cannot decide a step.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from trueup.ops.masking import keep
from trueup.rewards.dense.protocol import DenseObjectiveConfig, SegmentTargets, at_tokens, targets, token_count, within


class SoftValuesConfig(DenseObjectiveConfig):
    """Linear-exponential loss at every token; tokens count the same."""

    classifies: ClassVar[bool] = False
    kind: Literal["soft_values"] = "soft_values"
    """This file."""
    strength: float = Field(default=1.0, gt=0)
    """Lambda, nats a unit of R: that of the decoding which will use the values."""
    most: float = Field(default=5.0, gt=0)
    """Nats of strength (R - V) beyond which the loss is a straight line."""

    def loss(self, output: Tensor, segments: SegmentTargets) -> Tensor:
        """[B, S] sum over the segment's tokens."""
        gap = self.strength * (targets(output, segments)[..., None] - at_tokens(output, segments))
        gap = keep(gap, within(segments, output.shape[1]).to(output.device))
        held = gap.clamp(max=self.most)
        grown = held.exp() + math.exp(self.most) * (gap - held)
        return ((grown - gap - 1) / self.strength**2).sum(-1)

    def elements(self, segments: SegmentTargets) -> Tensor:
        """[B, S] tokens of each segment."""
        return token_count(segments)
