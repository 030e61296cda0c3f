"""Rewards to advantages: placing the score, discounting, whitening. All [B, T], masked."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from trueup.ops.masking import keep, last_valid


def shaped_reward(
    score: Float[Tensor, " B"], log_ratio_ref: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"], beta: float
) -> Float[Tensor, "B T"]:
    """What the optimizer sees per token: minus ``beta`` times log pi/pi_ref, plus the score on the last valid token.

    Args:
        score: [B] one number a reply.
        log_ratio_ref: [B, T] log pi - log pi_ref, nats.
        mask: [B, T] every row has at least one True.
        beta: KL coefficient, score units per nat.

    Source: Ziegler et al. 2019 (arXiv:1909.08593, eq. 2), per token.
    """
    reward = -beta * keep(log_ratio_ref, mask)
    return reward + on_last(score, mask)


def on_last(score: Float[Tensor, " B"], mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    """A number a reply on its last valid token, 0 elsewhere: [B], [B, T] -> [B, T]."""
    place = torch.arange(mask.shape[1], device=mask.device) == last_valid(mask)[:, None]
    return keep(score[:, None].expand(mask.shape), place)


def gae(
    reward: Float[Tensor, "B T"], value: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"], gamma: float, lam: float
) -> Float[Tensor, "B T"]:
    """Generalised advantage estimate (Schulman et al. 2016, arXiv:1506.02438, eq. 16); the value after the last valid token is 0."""
    reward, value = keep(reward, mask), keep(value, mask)
    steps = reward.shape[1]
    advantage, running = torch.zeros_like(reward), torch.zeros_like(reward[:, 0])
    for t in reversed(range(steps)):
        following = value[:, t + 1] if t + 1 < steps else torch.zeros_like(running)
        delta = reward[:, t] + gamma * following - value[:, t]
        running = keep(delta + gamma * lam * running, mask[:, t])
        advantage[:, t] = running
    return advantage


def moments(x: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"]) -> Float[Tensor, "3"]:
    """[3] Count, sum and sum of squares of the valid elements, float64: they add over processes."""
    valid = x[mask].double()
    return torch.stack([torch.tensor(float(valid.numel()), dtype=torch.float64, device=x.device), valid.sum(), (valid**2).sum()])


def standardise(
    x: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"], totals: Float[Tensor, "3"], epsilon: float = 1e-8
) -> Float[Tensor, "*shape"]:
    """Zero mean and unit (population) variance over all valid elements; 0 elsewhere. ``totals`` are the summed `moments`."""
    mean, variance = _mean_and_variance(totals)
    return keep(((x.double() - mean) / (variance + epsilon).sqrt()).to(x.dtype), mask)


def rescale(
    x: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"], totals: Float[Tensor, "3"], epsilon: float = 1e-8
) -> Float[Tensor, "*shape"]:
    """Unit (population) variance around the same mean; 0 elsewhere (Ziegler's whitening with shift_mean=False)."""
    mean, _ = _mean_and_variance(totals)
    return keep(standardise(x, mask, totals, epsilon) + mean.to(x.dtype), mask)


def _mean_and_variance(totals: Tensor) -> tuple[Tensor, Tensor]:
    mean = totals[1] / totals[0]
    return mean, (totals[2] / totals[0] - mean**2).clamp(min=0)
