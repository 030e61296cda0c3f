"""Sums over valid elements. ``mask`` is True where an element counts, everywhere in this code base."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from trueup.learn.table import Mean


def keep(x: Shaped[Tensor, "*shape"], mask: Bool[Tensor, ...], fill: float = 0.0) -> Shaped[Tensor, "*shape"]:
    """``x`` where ``mask``, ``fill`` elsewhere. Safe for NaN and inf in the masked part, gradients included.

    Apply it to the *inputs* of exp, log and division: masking their outputs leaks NaN gradients.
    """
    return torch.where(mask, x, torch.full_like(x, fill))


def weighted_sum(
    x: Float[Tensor, "*shape"], weight: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"] | None = None
) -> Float[Tensor, ""]:
    """[] Sum of ``weight * x`` over valid elements."""
    return (weight * (x if mask is None else keep(x, mask))).sum()


def mean_of(x: Shaped[Tensor, "*shape"], mask: Bool[Tensor, "*shape"] | None = None) -> Mean:
    """Mergeable mean of the valid elements (of all, without a mask), detached."""
    x = x.detach().double()
    if mask is None:
        return Mean(x.sum().item(), float(x.numel()))
    return Mean(keep(x, mask).sum().item(), float(mask.sum().item()))


def sequence_sum(x: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"]) -> Float[Tensor, " B"]:
    """Sum over the valid tokens of each row: [B, T], [B, T] -> [B]."""
    return keep(x, mask).sum(-1)


def last_valid(mask: Bool[Tensor, "B T"]) -> Int[Tensor, " B"]:
    """[B] Position of the last True of each row; -1 where there is none. [B, T] -> [B]."""
    positions = torch.arange(1, mask.shape[1] + 1, device=mask.device)
    return (mask * positions).amax(1) - 1
