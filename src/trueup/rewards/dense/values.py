"""Segments rated by regression: the output at a segment's last token is the annotator's number, as for steps rated by degree.

It is to segments what the objective ``ratings`` is to whole replies.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor

from trueup.rewards.dense.protocol import DenseObjectiveConfig, SegmentTargets, at_ends, targets


class ValuesConfig(DenseObjectiveConfig):
    """Squared error at the end of each segment."""

    classifies: ClassVar[bool] = False
    kind: Literal["values"] = "values"
    """This file."""

    def loss(self, output: Tensor, segments: SegmentTargets) -> Tensor:
        """[B, S] squared difference of output and target."""
        return (at_ends(output, segments) - targets(output, segments)) ** 2
