"""A Bayesian linear head on frozen sentence embeddings, careful where it is unsure (Yang et al. 2024, arXiv:2402.13210).

Deviations:
1. The features are frozen sentence embeddings, not those of a trained trunk.
2. A score is the lower bound of the difference to the mean of the SFT policy's replies to the same prompt, since preferences fix
   differences only.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from trueup.models.embedding_reward import Features
from trueup.rewards.config import RewardConfig, RewardSources
from trueup.rewards.protocol import Reward


class LastLayerConfig(RewardConfig):
    """Posterior of a linear head, its prior chosen by evidence."""

    kind: Literal["last_layer"] = "last_layer"
    """This file."""
    deviations: float = Field(default=1.0, ge=0)
    """Standard deviations of the difference that are taken off: pessimism; 0 is the posterior's mean."""
    features: Features = "joined"
    """What is embedded: the ``reply`` alone, prompt and reply ``joined``, or ``both``."""
    references: int = Field(default=4, ge=1)
    """Replies of the SFT policy to each prompt that scores are compared with."""

    def build(self, sources: RewardSources) -> Reward:
        """The pessimistic difference."""
        return sources.last_layer(self.features, self.references, self.deviations)
