"""Multipliers of constraints on mean rewards, and their ascent. N constraints; everything is float64 on lists of a few numbers."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

Squash = Literal["sigmoid", "tanh"]
"""``sigmoid``: multipliers between 0 and 1, for constraints of at least; ``tanh``: between -1 and 1, for equalities."""


def squashed(raw: Float[Tensor, " N"], squash: Squash) -> Float[Tensor, " N"]:
    """Multipliers nu from what ascent moves: [N] -> [N]."""
    return torch.sigmoid(raw) if squash == "sigmoid" else torch.tanh(raw)


def objective_weights(multiplier: Float[Tensor, " N"], own: Float[Tensor, " N"]) -> Float[Tensor, " N+1"]:
    """What each objective counts, the KL term first: ``N - sum(nu)``, then ``own + nu`` (Moskovitz et al. 2023, arXiv:2310.04373).

    Args:
        multiplier: [N] nu.
        own: [N] what a constrained reward counts by itself; 0 where it is constrained only.
    """
    return torch.cat([len(multiplier) - multiplier.sum(0, keepdim=True), own + multiplier])


def ascended(
    raw: Float[Tensor, " N"], velocity: Float[Tensor, " N"], slack: Float[Tensor, " N"], squash: Squash, rate: float, momentum: float
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    """One step of gradient descent with momentum on ``sum(nu * slack)``: multipliers rise where a mean is below its threshold.

    Args:
        raw: [N] before squashing.
        velocity: [N] running gradient of the steps before.
        slack: [N] mean less threshold.
        squash: see `Squash`.
        rate: step size.
        momentum: share of the running gradient that is kept.

    Returns:
        the new ``raw`` and ``velocity``.
    """
    nu = squashed(raw, squash)
    slope = nu * (1 - nu) if squash == "sigmoid" else 1 - nu**2
    velocity = momentum * velocity + slope * slack
    return raw - rate * velocity, velocity
