"""Action values of every next token, beside the value of the state, on a trunk of their own."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from trueup.core.rng import Key
from trueup.data.tokens import Sequences
from trueup.models.loading import seeded
from trueup.models.policy import Policy
from trueup.models.value import ValueModel, value_from_policy

TWINS = 2


class QValues(NamedTuple):
    """Of n reply tokens, each seen from before it is written."""

    q: Tensor
    """[2, n, V] of both heads."""
    slow: Tensor
    """[n, V] the lesser of the slow copies of both heads; constant."""
    v: Tensor
    """[n] of the state."""


class QModel(nn.Module):
    """Two heads of action values with slow copies, and a head of state values. The first values are 0.

    Args:
        value: trunk with the head of state values.
        width: of the trunk's states.
        vocabulary: tokens, V.
        key: of the heads' first layers.
    """

    def __init__(self, value: ValueModel, width: int, vocabulary: int, key: Key) -> None:
        super().__init__()
        self.value = value
        with seeded(key):
            self.heads = nn.ModuleList(_head(width, vocabulary) for _ in range(TWINS))
        for i, head in enumerate(self.heads):
            for name, p in head.named_parameters():
                self.register_buffer(_slow(i, name), p.detach().clone())

    def forward(self, sequences: Sequences) -> QValues:
        """Values at reply tokens, in the order of ``sequences.mask``; differentiable but for the slow ones."""
        states = self.value.states(sequences)[sequences.mask]
        q = torch.stack([head(states) for head in self.heads]).float()
        v = self.value.head(states)[:, 0].float().clone()  # no view: see `ValueModel.forward`
        return QValues(q, self._slow_values(states.detach()), v)

    @torch.no_grad()
    def follow(self, share: float) -> None:
        """Move the slow copies that share of the way to the heads (Polyak averaging)."""
        for i, head in enumerate(self.heads):
            for name, p in head.named_parameters():
                self.get_buffer(_slow(i, name)).lerp_(p, share)

    @torch.no_grad()
    def _slow_values(self, states: Tensor) -> Tensor:
        found = []
        for i, head in enumerate(self.heads):
            weights = {name: self.get_buffer(_slow(i, name)) for name, _ in head.named_parameters()}
            found.append(functional_call(head, weights, (states,)))
        return torch.stack(found).amin(0).float()


def q_from_policy(policy: Policy, key: Key) -> QModel:
    """Heads on a copy of the policy's trunk."""
    config = policy.model.config
    value = value_from_policy(policy)
    return QModel(value, config.hidden_size, config.vocab_size, key).to(policy.model.device).eval()


def _head(width: int, vocabulary: int) -> nn.Sequential:
    """Two layers, the second 0."""
    last = nn.Linear(2 * width, vocabulary)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(width, 2 * width), nn.ReLU(), last)


def _slow(head: int, name: str) -> str:
    """Name of a slow copy; buffers have no dots."""
    return f"slow_{head}_{name.replace('.', '_')}"
