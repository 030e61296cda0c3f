"""The one contract between algorithms and the loop: policies, DPO-like methods and reward models all implement it."""

from __future__ import annotations

from typing import Any, Protocol, TypeVar

from torch import Tensor, nn

from trueup.core.rng import Key
from trueup.learn.table import Loss, Table

B = TypeVar("B", bound=Table, contravariant=True)
E = TypeVar("E", bound=Table)


class Learner(Protocol[B, E]):
    """An algorithm as the loop sees it: gather experience, weigh it, score it. It holds no arithmetic of its own."""

    def modules(self) -> dict[str, nn.Module]:
        """What the loop prepares, wraps, optimises and saves, by name. Frozen models do not belong here."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """State that is not a weight (an adaptive coefficient, a multiplier): JSON numbers and strings only."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        ...

    def collect(self, batch: B, key: Key) -> E:
        """Turn a batch of data into experience, without gradients; every draw comes from ``key`` and the batch's global row numbers."""
        ...

    def totals(self, experience: E) -> Tensor:
        """[N] The counts a reduction needs (rows, valid tokens). The loop sums them over processes before `weigh`."""
        ...

    def weigh(self, experience: E, totals: Tensor) -> Tensor:
        """[B] or [B, T] The reduction, made explicit: weights of one (whole, global) minibatch, of which micro-batches take their rows."""
        ...

    def loss(self, experience: E, weight: Tensor) -> Loss:
        """The weighted sum of per-element losses, differentiable, and mergeable metrics."""
        ...


class Stateless:
    """What a learner inherits that keeps nothing between steps but its weights."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing beside weights."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing beside weights."""
