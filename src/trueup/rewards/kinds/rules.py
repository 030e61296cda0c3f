"""A set of named rules, each a pattern with a value: the reward is the sum of the values of those that hold."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from trueup.core.config import Config
from trueup.rewards.combine import WeightedSum
from trueup.rewards.config import RewardConfig, RewardSources
from trueup.rewards.protocol import Reward
from trueup.rewards.verifiable.pattern import Expression, Pattern


class Rule(Config):
    """What a reply should be like, or should not."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")
    """For messages, readers, and optimizers with several objectives (``constrained``)."""
    expression: Expression
    """Regular expression in Python's syntax; ``.`` matches line ends too."""
    whole: bool = False
    """The whole reply must match, not a part."""
    wanted: bool = True
    """False: the rule holds where nothing matches."""
    weight: float = 1.0
    """Value of a reply for which the rule holds; a penalty if negative."""


class RulesConfig(RewardConfig):
    """The sum of the weights of the rules that hold."""

    kind: Literal["rules"] = "rules"
    """This file."""
    rules: tuple[Rule, ...] = Field(min_length=1)
    """At least one, of distinct names."""

    @model_validator(mode="after")
    def _distinct(self) -> RulesConfig:
        names = self.names()
        if len(set(names)) < len(names):
            raise ValueError(f"rules need distinct names, got {names}")
        return self

    def names(self) -> list[str]:
        """One a rule."""
        return [r.name for r in self.rules]

    def build(self, sources: RewardSources) -> Reward:
        """The sum."""
        checks = [(r.weight, Pattern(r.expression, whole=r.whole, wanted=r.wanted)) for r in self.rules]
        return WeightedSum(checks, self.names())
