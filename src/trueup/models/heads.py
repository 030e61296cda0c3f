"""Scalar heads."""

from __future__ import annotations

import math

import torch
from torch import nn

from trueup.core.rng import Key


def fresh_head(head: nn.Linear, key: Key) -> None:
    """Draw a scalar head's weights from N(0, 1 / (d + 1)), bias 0 (Stiennon et al. 2020, arXiv 2009.01325, as its code has it)."""
    generator = torch.Generator().manual_seed(key.integer())
    with torch.no_grad():
        head.weight.copy_(torch.randn(head.weight.shape, generator=generator) / math.sqrt(head.in_features + 1))
        if head.bias is not None:
            head.bias.zero_()
