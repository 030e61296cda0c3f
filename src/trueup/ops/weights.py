"""Reductions as weights: a loss is always ``sum(weight * per_element)``, so micro-batches and processes simply add.

Each function takes the mask of one minibatch and the *global* counts (summed over processes), and returns weights.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor


def counts(mask: Bool[Tensor, "B T"]) -> Float[Tensor, "2"]:
    """[2] Rows and valid tokens of a mask, float64. [B, T] -> [2]."""
    return torch.tensor([float(mask.shape[0]), float(mask.sum().item())], dtype=torch.float64)


def token_mean(mask: Bool[Tensor, "B T"], tokens: float) -> Float[Tensor, "B T"]:
    """Every valid token counts the same: [B, T] bool -> [B, T], summing to 1 over all ``tokens``."""
    return mask.float() / max(tokens, 1.0)


def row_mean(like: Shaped[Tensor, "B ..."], rows: float) -> Float[Tensor, " B"]:
    """Every row counts the same: [B, ...] -> [B], summing to 1 over all ``rows``."""
    return torch.full((len(like),), 1.0 / max(rows, 1.0), device=like.device)


def sequence_mean(mask: Bool[Tensor, "B T"], rows: float) -> Float[Tensor, "B T"]:
    """Every sequence counts the same and its tokens share its part: [B, T] bool -> [B, T]."""
    return mask.float() / mask.sum(1, keepdim=True).clamp(min=1) / max(rows, 1.0)
