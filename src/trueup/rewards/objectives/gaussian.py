"""Utilities with their own noise: each reply has a mean and a variance, and a pair's label is a comparison of two draws (Thurstone 1927).

The model that an annotator's doubt differs from reply to reply absorbs noisy labels into variance instead of into the mean.

Deviations:
1. The logistic link has no closed form; its usual approximation sigmoid(d / sqrt(1 + pi s^2 / 8)) is used (MacKay 1992).
2. Variance is softplus of the second output plus 1e-6, so it is positive without bounds to tune.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor, special

from trueup.rewards.objectives.protocol import ComparisonConfig, Judgements, over_pairs


class GaussianConfig(ComparisonConfig):
    """A mean and a variance a reply; the reward is the mean."""

    heads: ClassVar[int] = 2
    kind: Literal["gaussian"] = "gaussian"
    """This file."""
    link: Literal["logistic", "probit"] = "logistic"
    """``probit`` is exact for normal utilities; ``logistic`` adds Bradley–Terry's own noise."""

    def loss(self, output: Tensor, judged: Judgements) -> Tensor:
        """[B] Mean negative log-likelihood over the pairs of a group."""

        def pair_loss(chosen: Tensor, rejected: Tensor, margin: Tensor) -> Tensor:
            gap = chosen[..., 0] - rejected[..., 0]
            return gaussian_loss(gap, variance(chosen[..., 1]) + variance(rejected[..., 1]), self.link)

        return over_pairs(output, judged, pair_loss, self.ties)


def variance(raw: Tensor) -> Tensor:
    """The variance that a raw output stands for, above 0; any shape."""
    return F.softplus(raw) + 1e-6


def gaussian_loss(gap: Tensor, spread: Tensor, link: Literal["logistic", "probit"]) -> Tensor:
    """-log P(chosen wins): [n] difference of means, [n] variance of the difference -> [n]; ln 2 where the variance is large."""
    if link == "probit":
        return -special.log_ndtr(gap / spread.sqrt())
    return F.softplus(-gap / (1 + math.pi * spread / 8).sqrt())
