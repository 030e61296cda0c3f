"""What a dense objective is: a loss for each judged segment of a reply, from the model's outputs at the reply's tokens."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from trueup.core.config import Component
from trueup.learn.table import Table
from trueup.ops.masking import keep


@dataclass(frozen=True, kw_only=True)
class SegmentTargets(Table):
    """What was said of the segments of B replies; S is the largest number of them. Positions count reply tokens from 0."""

    first: Tensor
    """[B, S] int64 first token."""
    last: Tensor
    """[B, S] int64 last token; before `first` where the segment shares its only token with the one before."""
    category: Tensor
    """[B, S] int64 position among the categories, which is the model's output that speaks of it."""
    target: Tensor
    """[B, S] float, degree to which the segment bears the label; meaningless where absent."""
    present: Tensor
    """[B, S] bool, False in the padding of replies with fewer segments."""


class DenseObjectiveConfig(Component):
    """Settings of a dense objective; the file's one subclass implements `loss`."""

    classifies: ClassVar[bool] = True
    """Whether outputs are log-odds and targets lie between 0 and 1."""

    @abstractmethod
    def loss(self, output: Tensor, segments: SegmentTargets) -> Tensor:
        """Per-segment loss.

        Args:
            output: [B, T, C] what the model says at each reply token, one output a category.
            segments: what annotators said.

        Returns:
            [B, S] sum over the segment's elements, to be minimised; anything where absent.
        """

    def elements(self, segments: SegmentTargets) -> Tensor:
        """[B, S] how many equal parts each segment has in the mean of its category: one, unless the file says otherwise; 0 where absent."""
        return segments.present.float()


def at_ends(output: Tensor, segments: SegmentTargets) -> Tensor:
    """[B, S] The output of each segment's category at its last token; that of some token where absent.

    Args:
        output: [B, T, C].
        segments: whose `last` and `category` are read.
    """
    rows = torch.arange(len(output), device=output.device)[:, None]
    last = segments.last.to(output.device).clamp(0, output.shape[1] - 1)
    return output[rows, last, segments.category.to(output.device)]


def at_tokens(output: Tensor, segments: SegmentTargets) -> Tensor:
    """[B, S, T] The output of each segment's category at every reply token.

    Args:
        output: [B, T, C].
        segments: whose `category` is read.
    """
    rows, size = segments.category.shape
    category = segments.category.to(output.device)[..., None].expand(rows, size, output.shape[1])
    return output.transpose(1, 2).gather(1, category)


def token_count(segments: SegmentTargets) -> Tensor:
    """[B, S] tokens of each segment; 0 where absent."""
    return ((segments.last - segments.first + 1).clamp(min=0) * segments.present).float()


def targets(output: Tensor, segments: SegmentTargets) -> Tensor:
    """[B, S] Targets in the outputs' type and place, 0 where absent: what stands there must not reach a gradient."""
    return keep(segments.target.to(output), segments.present.to(output.device))


def within(segments: SegmentTargets, width: int) -> Tensor:
    """[B, S, T] bool: tokens of each present segment, of ``width`` reply columns."""
    column = torch.arange(width, device=segments.first.device)
    inside = (column >= segments.first[..., None]) & (column <= segments.last[..., None])
    return inside & segments.present[..., None]
