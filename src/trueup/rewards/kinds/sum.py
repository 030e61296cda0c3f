"""Weighted sum of rewards: a reward model and a check, say."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from trueup.core.config import Config
from trueup.rewards.combine import WeightedSum
from trueup.rewards.config import AnyReward, RewardConfig, RewardSources
from trueup.rewards.protocol import Reward


class Term(Config):
    """A reward and what it counts."""

    weight: float = 1.0
    """Of the reward; a reward model's scores have deviation 1 on replies of the SFT policy, a check gives 1 or 0."""
    reward: AnyReward
    """Any kind."""
    name: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    """By which an optimizer with several objectives (``constrained``) knows it; its kind if left out, numbered where a kind comes twice."""


class SumConfig(RewardConfig):
    """The sum of weight times reward."""

    kind: Literal["sum"] = "sum"
    """This file."""
    parts: tuple[Term, ...] = Field(min_length=1)
    """Rewards with their weights."""

    @model_validator(mode="after")
    def _distinct(self) -> SumConfig:
        names = self.names()
        if len(set(names)) < len(names):
            raise ValueError(f"parts need distinct names, got {names}")
        return self

    def names(self) -> list[str]:
        """One a part."""
        kinds = [p.reward.kind for p in self.parts]
        numbered = [k if kinds.count(k) == 1 else f"{k}_{kinds[: i + 1].count(k)}" for i, k in enumerate(kinds)]
        return [p.name or made for p, made in zip(self.parts, numbered, strict=True)]

    def inner(self) -> tuple[RewardConfig, ...]:
        """The parts."""
        return tuple(p.reward for p in self.parts)

    def build(self, sources: RewardSources) -> Reward:
        """The sum."""
        return WeightedSum([(p.weight, sources.build(p.reward)) for p in self.parts], self.names())
