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
    clip_high: float | None = None,
) -> Surrogate:
    """Pessimistic clipped objective (Schulman et al. 2017, arXiv:1707.06347, eq. 7), negated.

    Args:
        logp: [B, T] current policy, or [B] whole replies.
        logp_old: same shape; the policy that sampled; constant.
        advantage: same shape; constant.
        mask: same shape; True where an element counts.
        clip: half-width of the ratio's interval, above 0.
        clip_high: its width above 1 where that differs (Yu et al. 2025, arXiv:2503.14476).
    """
    log_ratio = keep(logp - logp_old, mask)
    ratio = log_ratio.exp()
    advantage = keep(advantage, mask)
    free, clamped = -advantage * ratio, -advantage * ratio.clamp(1 - clip, 1 + (clip if clip_high is None else clip_high))
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


def group_standardised(reward: Float[Tensor, " PK"], group: int, epsilon: float = 1e-4) -> Float[Tensor, " PK"]:
    """Reward minus the group's mean, over its sample deviation (Shao et al. 2024, arXiv:2402.03300, section 4.1.2).

    Args:
        reward: [P*K] the K replies of a prompt are neighbours.
        group: K, at least 2.
        epsilon: added to the deviation, so that a group of equal rewards gives 0.
    """
    grid = reward.view(-1, group)
    return ((grid - grid.mean(1, keepdim=True)) / (grid.std(1, keepdim=True) + epsilon)).flatten()


def pair_separate(
    logp: Float[Tensor, "N 2"], logp_old: Float[Tensor, "N 2"], reward: Float[Tensor, "N 2"], clip: float
) -> tuple[Float[Tensor, " N"], Bool[Tensor, "N 2"]]:
    """Pairwise policy gradient with each reply's ratio clipped by itself (Wu et al. 2023, arXiv:2310.00212, P3O-V1), negated.

    Args:
        logp: [N, 2] log-probability of both replies, differentiable; nats.
        logp_old: [N, 2] under the policy that sampled.
        reward: [N, 2] constant; only differences matter.
        clip: half-width of the interval of ratios.

    Returns:
        [N] loss of each pair, and [N, 2] where clipping removed the gradient.
    """
    ratio = (logp - logp_old).exp()
    gain = (reward - reward.flip(1)) * ratio.detach().flip(1)
    free, clamped = gain * ratio, gain * ratio.clamp(1 - clip, 1 + clip)
    return -0.5 * torch.minimum(free, clamped).sum(1), clamped < free


def pair_joint(
    logp: Float[Tensor, "N 2"], logp_old: Float[Tensor, "N 2"], reward: Float[Tensor, "N 2"], clip: float
) -> tuple[Float[Tensor, " N"], Bool[Tensor, " N"]]:
    """Pairwise policy gradient with the pair's difference of log-probabilities clipped (Wu et al. 2023, arXiv:2310.00212, P3O-V2), negated.

    Args:
        logp: [N, 2] log-probability of both replies, differentiable; nats.
        logp_old: [N, 2] under the policy that sampled.
        reward: [N, 2] constant; only the difference matters.
        clip: how far the difference of log-probabilities may move, nats.

    Returns:
        [N] loss of each pair, counted from the old difference, and [N] where clipping removed the gradient.
    """
    gain = (reward[:, 0] - reward[:, 1]) * (logp - logp_old).detach().sum(1).exp()
    moved = (logp[:, 0] - logp[:, 1]) - (logp_old[:, 0] - logp_old[:, 1])
    free, clamped = gain * moved, gain * moved.clamp(-clip, clip)
    return -0.5 * torch.minimum(free, clamped), clamped < free


def value_loss(
    value: Float[Tensor, "B T"], value_old: Float[Tensor, "B T"], target: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"], clip: float
) -> Float[Tensor, "B T"]:
    """Half the larger of the plain and the clipped squared error (Ziegler et al. 2019): [B, T] each -> [B, T]."""
    value, value_old, target = keep(value, mask), keep(value_old, mask), keep(target, mask)
    clipped = value_old + (value - value_old).clamp(-clip, clip)
    return 0.5 * torch.maximum((value - target) ** 2, (clipped - target) ** 2)
