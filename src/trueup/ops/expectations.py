"""Means under one policy from samples of another."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


def group_mean(score: Float[Tensor, " PK"], log_weight: Float[Tensor, " PK"], group: int) -> Float[Tensor, " PK"]:
    """Self-normalised importance estimate of a prompt's mean score, the same number for all its replies.

    Args:
        score: [P*K] the K replies of a prompt are neighbours.
        log_weight: [P*K] log of the wanted policy's probability of the reply over the sampling policy's, nats; 0 for the plain mean.
        group: K.
    """
    weight = log_weight.view(-1, group).softmax(1)
    mean = (weight * score.view(-1, group)).sum(1, keepdim=True)
    return mean.expand(-1, group).flatten()
