"""Rankings of K replies, each choice the best of what is left (Plackett 1975; Luce 1959).

Deviations:
1. Replies of equal rating share the set they are chosen from (Breslow 1974), which the ranking model itself leaves open.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from trueup.rewards.objectives.protocol import Judgements, RankingConfig


class PlackettLuceConfig(RankingConfig):
    """Log-likelihood of the whole ranking."""

    kind: Literal["plackett_luce"] = "plackett_luce"
    """This file."""

    def loss(self, output: Tensor, judged: Judgements) -> Tensor:
        """[B] `plackett_luce_loss` of the first output."""
        return plackett_luce_loss(output[..., 0], judged.rating, judged.present)


def plackett_luce_loss(score: Tensor, rating: Tensor, present: Tensor) -> Tensor:
    """Negative log-likelihood of a ranking: the sum over replies of logsumexp(scores not rated above it) minus its score.

    Args:
        score: [B, K].
        rating: [B, K] higher is better.
        present: [B, K] bool.

    Returns:
        [B] nats; with K = 2 it is the Bradley–Terry loss, with equal scores log K!.
    """
    below = (rating[:, None, :] <= rating[:, :, None]) & present[:, None, :]
    left = torch.where(below, score[:, None, :], torch.full_like(score[:, None, :], -torch.inf)).masked_fill(~present[:, :, None], 0.0)
    return torch.where(present, left.logsumexp(-1) - score, torch.zeros_like(score)).sum(-1)
