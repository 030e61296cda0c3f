"""Feedback as people give it: coarse, skewed, uncertain, hostile, careless, or missing (Nguyen et al. 2017, arXiv:1707.07402, section 4).

All are functions of a rating between 0 and 1.

Deviations:
1. The reward may be any: it is mapped to 0..1 by a range (values beyond it count as its ends) and back.
2. Noise depends on seed, prompt and reply alone: who rates the same reply twice says the same twice. Runs so resume bit by bit; noise
   averages out over replies and seeds, not over repetitions.
3. Perturbations may be combined, in the order skew, variance, granularity, adversarial, random, partial.
4. Partial feedback is ours: some replies get no rating and count as ``unobserved``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from trueup.core.rng import Key
from trueup.data.rows import Conversation, Reply
from trueup.data.tokens import Sequences
from trueup.data.turns import prompt_id
from trueup.rewards.protocol import Reward


def granular(rating: Float[Tensor, " B"], steps: int) -> Float[Tensor, " B"]:
    """The nearest of ``steps`` + 1 equally spaced ratings, halves upwards: off by at most 1 / (2 steps). [B] -> [B]."""
    return (rating * steps + 0.5).floor() / steps


def skewed(rating: Float[Tensor, " B"], power: float) -> Float[Tensor, " B"]:
    """``rating ** power``: above 1 a harsh rater, below 1 a generous one; the order stays. [B] -> [B]."""
    return rating**power


def varied(rating: Float[Tensor, " B"], scale: float, normal: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
    """A normal draw around the rating, within 0 and 1: people agree on the extremes and differ in the middle.

    Args:
        rating: [B]
        scale: times min(0.64 rating, 0.67 (1 - rating)), the deviation that people were found to have.
        normal: [B] standard normal draws.
    """
    deviation = scale * torch.minimum(0.64 * rating, 0.67 * (1 - rating))
    return (rating + deviation * normal).clamp(0, 1)


@dataclass(frozen=True, kw_only=True)
class Disturbance:
    """How feedback differs from the reward; the defaults leave it as it is."""

    low: float = 0.0
    """The reward that is rated 0."""
    high: float = 1.0
    """The reward that is rated 1."""
    granularity: int | None = None
    """Steps of the scale; continuous if None."""
    skew: float = 1.0
    """See `skewed`."""
    variance: float = 0.0
    """See `varied`."""
    adversarial: float = 0.0
    """Share of replies rated 1 minus their rating."""
    random: float = 0.0
    """Share of replies rated by a uniform draw."""
    observed: float = 1.0
    """Share of replies that get a rating."""
    unobserved: float | None = None
    """The reward of those that get none; the middle of the range if None."""


class NoisyFeedback:
    """A reward as people would report it. It is one number a reply, given at its end; of a dense reward the sum is rated.

    Args:
        reward: what they rate.
        disturbance: how they err.
        key: of the noise.
    """

    def __init__(self, reward: Reward, disturbance: Disturbance, key: Key) -> None:
        if not disturbance.low < disturbance.high:
            raise ValueError(f"low {disturbance.low} must be below high {disturbance.high}")
        self.reward, self.disturbance, self.key = reward, disturbance, key

    def score(self, prompts: Sequence[Conversation], replies: Sequence[Reply], sequences: Sequences | None = None) -> Tensor:
        """[B] see `Reward.score`."""
        d, true = self.disturbance, self.reward.score(prompts, replies, sequences)
        rating = ((true.double() - d.low) / (d.high - d.low)).clamp(0, 1)
        normal, uniform = (x.to(true.device) for x in self._draws(prompts, replies))
        rating = varied(skewed(rating, d.skew), d.variance, normal)
        if d.granularity is not None:
            rating = granular(rating, d.granularity)
        rating = torch.where(uniform[0] < d.adversarial, 1 - rating, rating)
        rating = torch.where(uniform[1] < d.random, uniform[2], rating)
        missing = (d.low + d.high) / 2 if d.unobserved is None else d.unobserved
        found = torch.where(uniform[3] < d.observed, d.low + (d.high - d.low) * rating, torch.full_like(rating, missing))
        return found.to(true.dtype)

    def _draws(self, prompts: Sequence[Conversation], replies: Sequence[Reply]) -> tuple[Tensor, Tensor]:
        """[B] normal and [4, B] uniform draws of each reply."""
        rows = []
        for prompt, reply in zip(prompts, replies, strict=True):
            generator = (self.key / prompt_id(prompt) / reply.text / int(reply.finished)).generator()
            rows.append(np.concatenate([generator.standard_normal(1), generator.random(4)]))
        drawn = torch.from_numpy(np.stack(rows)) if rows else torch.zeros(0, 5, dtype=torch.float64)
        return drawn[:, 0], drawn[:, 1:].T
