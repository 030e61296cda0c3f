"""Means under one policy from samples of another."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def mean_of_others(score: Float[Tensor, " PK"], log_weight: Float[Tensor, " PK"], group: int) -> Float[Tensor, " PK"]:
    """Self-normalised importance estimate of a prompt's mean score, for each reply from the other ones.

    A reply has no part in its own mean, so that taking the mean off leaves the expected policy gradient as it is.

    Args:
        score: [P*K] the K replies of a prompt are neighbours.
        log_weight: [P*K] log of the wanted policy's probability of the reply over the sampling policy's, nats; 0 for the plain mean.
        group: K, at least 2.
    """
    if group < 2:
        raise ValueError(f"a mean of the others needs at least 2 replies a prompt, got {group}")
    own = torch.eye(group, dtype=torch.bool, device=score.device)
    weight = log_weight.view(-1, 1, group).masked_fill(own, -torch.inf).softmax(2)
    return (weight * score.view(-1, 1, group)).sum(2).flatten()
