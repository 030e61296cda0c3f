"""Every token classified: it bears the label of its segment (Cobbe et al. 2021, arXiv:2110.14168).

With the unit ``reply`` this is an outcome reward model, which says at each token how the whole reply will be judged; with lines or
sentences it is a process reward model read at every token.
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from trueup.ops.masking import keep
from trueup.rewards.dense.protocol import DenseObjectiveConfig, SegmentTargets, targets, within


class TokensConfig(DenseObjectiveConfig):
    """Binary cross-entropy at every token of each segment; tokens count the same."""

    kind: Literal["tokens"] = "tokens"
    """This file."""

    def loss(self, output: Tensor, segments: SegmentTargets) -> Tensor:
        """[B, S] sum over the segment's tokens."""
        rows, size = segments.category.shape
        width = output.shape[1]
        category = segments.category.to(output.device)[..., None].expand(rows, size, width)
        logits = output.transpose(1, 2).gather(1, category)
        inside = within(segments, width).to(output.device)
        target = targets(output, segments)[..., None].expand(logits.shape)
        return keep(F.binary_cross_entropy_with_logits(logits, target, reduction="none"), inside).sum(-1)

    def elements(self, segments: SegmentTargets) -> Tensor:
        """[B, S] tokens of each segment."""
        return ((segments.last - segments.first + 1).clamp(min=0) * segments.present).float()
