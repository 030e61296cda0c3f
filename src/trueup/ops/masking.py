"""Sums over valid elements. ``mask`` is True where an element counts, everywhere in this code base."""

from __future__ import annotations

import torch
from torch import Tensor

from trueup.learn.table import Mean


def keep(x: Tensor, mask: Tensor, fill: float = 0.0) -> Tensor:
    """``x`` where ``mask``, ``fill`` elsewhere. Safe for NaN and inf in the masked part, gradients included.

    Apply it to the *inputs* of exp, log and division: masking their outputs leaks NaN gradients.
    """
    return torch.where(mask, x, torch.full_like(x, fill))


def weighted_sum(x: Tensor, weight: Tensor, mask: Tensor | None = None) -> Tensor:
    """[] Sum of ``weight * x`` over valid elements."""
    return (weight * (x if mask is None else keep(x, mask))).sum()


def mean_of(x: Tensor, mask: Tensor | None = None) -> Mean:
    """Mergeable mean of the valid elements (of all, without a mask), detached."""
    x = x.detach().double()
    if mask is None:
        return Mean(x.sum().item(), float(x.numel()))
    return Mean(keep(x, mask).sum().item(), float(mask.sum().item()))


def sequence_sum(x: Tensor, mask: Tensor) -> Tensor:
    """Sum over the valid tokens of each row: [B, T], [B, T] -> [B]."""
    return keep(x, mask).sum(-1)


def last_valid(mask: Tensor) -> Tensor:
    """[B] Position of the last True of each row; -1 where there is none. [B, T] -> [B]."""
    positions = torch.arange(1, mask.shape[1] + 1, device=mask.device)
    return (mask * positions).amax(1) - 1
