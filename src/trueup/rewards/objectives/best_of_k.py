"""The best of K replies, picked by an annotator who says nothing of the others (Ziegler et al. 2019, arXiv:1909.08593, eq. 1).

Deviations:
1. Several replies of the highest rating share the pick equally.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from trueup.rewards.objectives.protocol import Judgements, RankingConfig


class BestOfKConfig(RankingConfig):
    """Cross-entropy of the pick."""

    kind: Literal["best_of_k"] = "best_of_k"
    """This file."""

    def loss(self, output: Tensor, judged: Judgements) -> Tensor:
        """[B] `best_of_k_loss` of the first output."""
        return best_of_k_loss(output[..., 0], judged.rating, judged.present)


def best_of_k_loss(score: Tensor, rating: Tensor, present: Tensor) -> Tensor:
    """Cross-entropy between softmax(score) and the pick, the first factor of a ranking's likelihood.

    Args:
        score: [B, K].
        rating: [B, K] the highest is the pick.
        present: [B, K] bool, at least one True a row.

    Returns:
        [B] nats; log K with equal scores.
    """
    lowest = torch.full_like(score, -torch.inf)
    best = torch.where(present, rating.to(score.dtype), lowest)
    picked = present & (best == best.amax(1, keepdim=True))
    mean = torch.where(picked, score, torch.zeros_like(score)).sum(1) / picked.sum(1)
    return torch.where(present, score, lowest).logsumexp(1) - mean
