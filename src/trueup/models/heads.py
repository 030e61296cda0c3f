"""Heads of reward models: one output, the score, or several, of which the first is the score."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from trueup.core.rng import Key


def fresh_head(head: nn.Linear, key: Key) -> None:
    """Draw a head's weights from N(0, 1 / (d + 1)), bias 0 (Stiennon et al. 2020, arXiv 2009.01325, as its code has it)."""
    generator = torch.Generator().manual_seed(key.integer())
    with torch.no_grad():
        head.weight.copy_(torch.randn(head.weight.shape, generator=generator) / math.sqrt(head.in_features + 1))
        if head.bias is not None:
            head.bias.zero_()


def given_head(weight: NDArray[Any]) -> nn.Linear:
    """One output without bias that has these weights, [D]."""
    head = nn.Linear(len(weight), 1, bias=False)
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(np.asarray(weight, dtype=np.float32))[None])
    return head


def set_outputs(config: Any, outputs: int) -> None:
    """Give a model's configuration so many labels; several are noted, lest a classifier of classes be taken for a reward model."""
    config.num_labels = outputs
    if outputs > 1:
        config.trueup_outputs = outputs


def last_linear(model: nn.Module, outputs: int) -> nn.Linear:
    """The head: the last linear layer with so many outputs."""
    return [m for m in model.modules() if isinstance(m, nn.Linear) and m.out_features == outputs][-1]
