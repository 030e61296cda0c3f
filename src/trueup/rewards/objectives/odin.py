"""Quality and length apart: two heads on one trunk, the reward keeps the one without length (ODIN, Chen et al. 2024, arXiv:2402.07319).

Loss: Bradley–Terry on the sum of both outputs, plus ``length_coefficient`` times |corr(quality, length)| - corr(length head, length) over
the batch, plus ``orthogonal_coefficient`` times |w_quality . w_length|.

Deviations:
1. Correlations are over the whole global batch, however it is cut: their gradient is taken at the sums of all replies and enters
   linearised, so micro-batches and processes add up exactly.
2. Length is counted in characters, so that it means the same for every tokenizer.
3. None of the paper's training schedule; only its loss.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from trueup.ops.correlation import correlation_gradient, paired_moments
from trueup.rewards.objectives.bradley_terry import bradley_terry_over_pairs
from trueup.rewards.objectives.protocol import ComparisonConfig, Judgements


class ODINConfig(ComparisonConfig):
    """Bradley–Terry whose length part sits in a head of its own; the reward is the first head."""

    heads: ClassVar[int] = 2
    kind: Literal["odin"] = "odin"
    """This file."""
    length_coefficient: float = Field(default=1.0, ge=0)
    """Weight of the correlations; 0 with ``orthogonal_coefficient`` 0 is Bradley–Terry on a sum of two heads."""
    orthogonal_coefficient: float = Field(default=1.0, ge=0)
    """Weight of the overlap of the two heads."""

    def loss(self, output: Tensor, judged: Judgements) -> Tensor:
        """[B] Bradley–Terry of the summed outputs; the correlations come in by `coupling`."""
        return bradley_terry_over_pairs(output.sum(-1, keepdim=True), judged, self.ties)

    def moments(self, output: Tensor, judged: Judgements) -> Tensor:
        """[12] `paired_moments` of (quality, length) and of (length head, length)."""
        length = judged.length.to(output.dtype)
        return torch.cat([paired_moments(output[..., h], length, judged.present) for h in (0, 1)])

    def coupling(self, output: Tensor, judged: Judgements, moments: Tensor) -> Tensor:
        """[B, K, 2] gradient of length_coefficient (|corr(quality, length)| - corr(length head, length))."""
        length, (quality, heads) = judged.length.to(output.dtype), (moments[:6], moments[6:])
        toward, grad_quality = correlation_gradient(output[..., 0], length, judged.present, quality)
        _, grad_length = correlation_gradient(output[..., 1], length, judged.present, heads)
        sign = 1.0 if toward > 0 else -1.0 if toward < 0 else 0.0
        return self.length_coefficient * torch.stack([sign * grad_quality, -grad_length], -1)

    def regulariser(self, head: Tensor) -> Tensor | None:
        """[] orthogonal_coefficient |w_quality . w_length|."""
        return self.orthogonal_coefficient * (head[0] @ head[1]).abs()
