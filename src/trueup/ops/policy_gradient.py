"""Policy-gradient surrogates and baselines. Shapes: B replies, T reply tokens, K replies a prompt. Log-probabilities in nats."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from trueup.ops.masking import keep


class Surrogate(NamedTuple):
    """A clipped importance-weighted objective, negated, and what it did."""

    loss: Tensor
    """[...] Per-element loss, to be minimised."""
    log_ratio: Tensor
    """[...] log pi/pi_old; 0 where masked."""
    clipped: Tensor
    """[...] True where clipping removed the gradient."""


def clipped_surrogate(
    logp: Float[Tensor, "*shape"],
    logp_old: Float[Tensor, "*shape"],
    advantage: Float[Tensor, "*shape"],
    mask: Bool[Tensor, "*shape"],
    clip: float,
) -> Surrogate:
    """Pessimistic clipped objective (Schulman et al. 2017, arXiv:1707.06347, eq. 7), negated.

    Args:
        logp: [B, T] current policy, or [B] whole replies.
        logp_old: same shape; the policy that sampled; constant.
        advantage: same shape; constant.
        mask: same shape; True where an element counts.
        clip: half-width of the ratio's interval, above 0.
    """
    log_ratio = keep(logp - logp_old, mask)
    ratio = log_ratio.exp()
    advantage = keep(advantage, mask)
    free, clamped = -advantage * ratio, -advantage * ratio.clamp(1 - clip, 1 + clip)
    return Surrogate(torch.maximum(free, clamped), log_ratio, clamped > free)


def reinforce(logp: Float[Tensor, " B"], advantage: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
    """Minus advantage times log-probability of the whole reply (Williams 1992): [B], [B] -> [B]."""
    return -advantage * logp


def leave_one_out(reward: Float[Tensor, " PK"], group: int) -> Float[Tensor, " PK"]:
    """Reward minus the mean of the other replies to the same prompt (Ahmadian et al. 2024, arXiv:2402.14740, eq. 6).

    Args:
        reward: [P*K] the K replies of a prompt are neighbours.
        group: K, at least 2.

    Returns:
        [P*K] sums to 0 in each group; unchanged by any shift that depends on the prompt alone.
    """
    if group < 2:
        raise ValueError(f"a leave-one-out baseline needs at least 2 replies a prompt, got {group}")
    grid = reward.view(-1, group)
    return (grid - (grid.sum(1, keepdim=True) - grid) / (group - 1)).flatten()


def value_loss(
    value: Float[Tensor, "B T"], value_old: Float[Tensor, "B T"], target: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"], clip: float
) -> Float[Tensor, "B T"]:
    """Half the larger of the plain and the clipped squared error (Ziegler et al. 2019): [B, T] each -> [B, T]."""
    value, value_old, target = keep(value, mask), keep(value_old, mask), keep(target, mask)
    clipped = value_old + (value - value_old).clamp(-clip, clip)
    return 0.5 * torch.maximum((value - target) ** 2, (clipped - target) ** 2)
