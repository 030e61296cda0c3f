"""Which replies are worth imitating. Shapes: P prompts, K replies a prompt, N replies."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def best_of_groups(reward: Float[Tensor, " PK"], group: int) -> Bool[Tensor, " PK"]:
    """True on the highest reward of each group of ``group`` neighbours, on the first of equal ones: [P*K] -> [P*K]."""
    grid = reward.view(-1, group)
    best = (grid == grid.amax(1, keepdim=True)).long().argmax(1)  # argmax of booleans as integers is the first True
    return torch.nn.functional.one_hot(best, group).bool().flatten()


def best_share(reward: Float[Tensor, " N"], share: float) -> Bool[Tensor, " N"]:
    """True on the ceil(share * N) highest rewards; of equal ones at the border, on the first: [N] -> [N].

    Args:
        reward: what ranks.
        share: above 0, at most 1.
    """
    kept = torch.zeros_like(reward, dtype=torch.bool)
    # exact products such as 0.1 * 30 come out a little above the whole number
    size = math.ceil(share * len(reward) - 1e-9)
    kept[torch.sort(reward, descending=True, stable=True).indices[: max(size, 1)]] = True
    return kept
