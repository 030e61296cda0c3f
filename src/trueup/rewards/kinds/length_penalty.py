"""A reward minus a price for words (after Singhal et al. 2023, arXiv:2310.03716, section 4).

Deviations:
1. A linear price for words beyond a free number, instead of normalisation by length.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from trueup.rewards.config import AnyReward, RewardConfig, RewardSources
from trueup.rewards.kinds.learned import LearnedConfig
from trueup.rewards.protocol import Reward
from trueup.rewards.shaping import LengthPenalty


class LengthPenaltyConfig(RewardConfig):
    """A reward with a price for length."""

    kind: Literal["length_penalty"] = "length_penalty"
    """This file."""
    reward: AnyReward = LearnedConfig()
    """What is shaped."""
    per_word: float = Field(default=0.01, ge=0)
    """Price of a word, score units."""
    free_words: int = Field(default=0, ge=0)
    """Words that cost nothing."""

    def inner(self) -> tuple[RewardConfig, ...]:
        """What is shaped."""
        return (self.reward,)

    def build(self, sources: RewardSources) -> Reward:
        """The reward less the price."""
        return LengthPenalty(sources.build(self.reward), self.per_word, self.free_words)
