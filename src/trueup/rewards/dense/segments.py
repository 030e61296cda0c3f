"""Segments classified at their last token, as fine-grained rewards are (Wu et al. 2023, arXiv:2306.01693).

Deviations:
1. The trunk is causal and read at a segment's last token; Wu et al. read a bidirectional one at a separator before the segment.
2. One trunk has one output a category; theirs is a model a category. The loss is the mean over categories of the mean over a category's
   segments, so that one with few segments weighs as much as one with many.
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from trueup.rewards.dense.protocol import DenseObjectiveConfig, SegmentTargets, at_ends, targets


class SegmentsConfig(DenseObjectiveConfig):
    """Binary cross-entropy at the end of each segment."""

    kind: Literal["segments"] = "segments"
    """This file."""

    def loss(self, output: Tensor, segments: SegmentTargets) -> Tensor:
        """[B, S] cross-entropy of each segment's label."""
        return F.binary_cross_entropy_with_logits(at_ends(output, segments), targets(output, segments), reduction="none")
