"""Every prefix learns what the model says one token later: CD-Q (Mudgal et al. 2024, arXiv:2310.17022, eq. 4).

``sum_t 1/2 (V_t - v_t)^2`` with v_t held constant: the value after the next token, and the number of the whole at the last one. On replies
of the policy it is least at V = E[R | prefix], with less noise in v_t than `fudge` has in R, but with what the model does not know yet.

Deviations:
1. v_t is the value after the token that was written; the paper takes the mean over all next tokens. The expected gradient is the same.
2. The mean over all tokens of a batch; the paper's is a sum over a reply's.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from trueup.ops.masking import keep
from trueup.rewards.dense.protocol import DenseObjectiveConfig, SegmentTargets, at_tokens, targets, token_count, within


class CdQConfig(DenseObjectiveConfig):
    """Squared error to the next token's value."""

    classifies: ClassVar[bool] = False
    kind: Literal["cd_q"] = "cd_q"
    """This file."""

    def loss(self, output: Tensor, segments: SegmentTargets) -> Tensor:
        """[B, S] sum over the segment's tokens."""
        said, inside = at_tokens(output, segments), within(segments, output.shape[1]).to(output.device)
        ends = inside & ~F.pad(inside, (0, 1))[..., 1:]
        later = torch.where(ends, targets(output, segments)[..., None], F.pad(said, (0, 1))[..., 1:]).detach()
        return 0.5 * (keep(said - later, inside) ** 2).sum(-1)

    def elements(self, segments: SegmentTargets) -> Tensor:
        """[B, S] tokens of each segment."""
        return token_count(segments)
