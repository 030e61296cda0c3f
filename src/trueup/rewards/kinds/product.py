"""Product of rewards that are never negative: one that is 0 vetoes the others."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from trueup.core.config import Config
from trueup.rewards.combine import Product
from trueup.rewards.config import AnyReward, RewardConfig, RewardSources
from trueup.rewards.protocol import Reward


class Factor(Config):
    """A reward and its exponent."""

    weight: float = Field(default=1.0, gt=0)
    """Exponent."""
    reward: AnyReward
    """A kind that is never negative: a check, or a reward model within ``sigmoid`` or ``clip``."""


class ProductConfig(RewardConfig):
    """The product of reward to the power of weight."""

    kind: Literal["product"] = "product"
    """This file."""
    parts: tuple[Factor, ...] = Field(min_length=1)
    """Rewards with their exponents."""

    def inner(self) -> tuple[RewardConfig, ...]:
        """The parts."""
        return tuple(p.reward for p in self.parts)

    def build(self, sources: RewardSources) -> Reward:
        """The product."""
        return Product([(p.weight, sources.build(p.reward)) for p in self.parts])
