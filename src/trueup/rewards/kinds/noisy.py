"""A reward as people would report it: coarse, skewed, uncertain, hostile, careless, or missing (Nguyen et al. 2017, arXiv:1707.07402)."""

from __future__ import annotations

from dataclasses import fields
from typing import Literal

from pydantic import Field, model_validator

from trueup.core.rng import Key
from trueup.rewards.config import AnyReward, RewardConfig, RewardSources
from trueup.rewards.feedback import Disturbance, NoisyFeedback
from trueup.rewards.kinds.learned import LearnedConfig
from trueup.rewards.protocol import Reward


class NoisyConfig(RewardConfig):
    """Noisy, skewed or partial feedback on a reward."""

    kind: Literal["noisy"] = "noisy"
    """This file."""
    reward: AnyReward = LearnedConfig()
    """What is rated."""
    low: float = -3.0
    """The reward that is rated 0; lower ones too."""
    high: float = 3.0
    """The reward that is rated 1; higher ones too."""
    granularity: int | None = Field(default=None, ge=1)
    """Steps of the scale: 1 is thumbs up or down, 4 are five stars; continuous if left out."""
    skew: float = Field(default=1.0, gt=0)
    """Power of the rating: above 1 harsh, below 1 generous."""
    variance: float = Field(default=0.0, ge=0)
    """Times the deviation that people were found to have: most in the middle of the scale, none at its ends."""
    adversarial: float = Field(default=0.0, ge=0, le=1)
    """Share of replies whose rating is turned upside down."""
    random: float = Field(default=0.0, ge=0, le=1)
    """Share of replies that are rated at random."""
    observed: float = Field(default=1.0, ge=0, le=1)
    """Share of replies that are rated at all."""
    unobserved: float | None = None
    """Reward of those that are not; the middle of low and high if left out."""
    noise_seed: int = 0
    """Of the noise, which depends on it, the prompt and the reply alone."""

    @model_validator(mode="after")
    def _ordered(self) -> NoisyConfig:
        if not self.low < self.high:
            raise ValueError(f"low {self.low} must be below high {self.high}")
        return self

    def inner(self) -> tuple[RewardConfig, ...]:
        """What is rated."""
        return (self.reward,)

    def build(self, sources: RewardSources) -> Reward:
        """The feedback."""
        disturbance = Disturbance(**self.model_dump(include={f.name for f in fields(Disturbance)}))
        return NoisyFeedback(sources.build(self.reward), disturbance, Key(self.noise_seed) / "feedback")
