"""Every prefix learns the number of the whole: values as in FUDGE (Yang and Klein 2021, arXiv:2104.05218), which controlled decoding
regresses (Mudgal et al. 2024, arXiv:2310.17022, section 3.1).

On replies of the policy, ``sum_t (V_t - R)^2`` is least at V = E[R | prefix].

Deviations:
1. The mean over all tokens of a batch; the paper's is a sum over a reply's.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor

from trueup.ops.masking import keep
from trueup.rewards.dense.protocol import DenseObjectiveConfig, SegmentTargets, at_tokens, targets, token_count, within


class FudgeConfig(DenseObjectiveConfig):
    """Squared error at every token; tokens count the same."""

    classifies: ClassVar[bool] = False
    kind: Literal["fudge"] = "fudge"
    """This file."""

    def loss(self, output: Tensor, segments: SegmentTargets) -> Tensor:
        """[B, S] sum over the segment's tokens."""
        gap = at_tokens(output, segments) - targets(output, segments)[..., None]
        return (keep(gap, within(segments, output.shape[1]).to(output.device)) ** 2).sum(-1)

    def elements(self, segments: SegmentTargets) -> Tensor:
        """[B, S] tokens of each segment."""
        return token_count(segments)
