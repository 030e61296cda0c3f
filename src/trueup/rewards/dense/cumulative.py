"""Every prefix learns the number of the whole, later tokens weighing more (Deng and Raffel 2023, arXiv:2310.09520, eq. 4).

The loss of a segment of l tokens is ``sum_t 2 t / (l (l + 1)) (r_t - R)^2``: the weights sum to 1. It makes the scorer that `rad` wants,
with R between 0 and 1.

Deviations:
1. Any segment may be learned so; the paper's are whole texts.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor

from trueup.ops.masking import keep
from trueup.rewards.dense.protocol import DenseObjectiveConfig, SegmentTargets, at_tokens, targets, token_count, within


class CumulativeConfig(DenseObjectiveConfig):
    """Squared error at every token, weighed by its place."""

    classifies: ClassVar[bool] = False
    kind: Literal["cumulative"] = "cumulative"
    """This file."""

    def loss(self, output: Tensor, segments: SegmentTargets) -> Tensor:
        """[B, S] weighted mean over the segment's tokens."""
        inside = within(segments, output.shape[1]).to(output.device)
        length = token_count(segments).to(output)[..., None].clamp(min=1)
        weight = 2 * inside.cumsum(-1) / (length * (length + 1))
        gap = at_tokens(output, segments) - targets(output, segments)[..., None]
        return keep(weight * keep(gap, inside) ** 2, inside).sum(-1)
