"""What every policy optimizer is built from, and the settings that those which sample share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import Field
from torch import Tensor

from trueup.core.config import Component
from trueup.decoding.rollout import Rollout
from trueup.learn.learner import Learner
from trueup.models.policy import Policy, Reference
from trueup.rewards.protocol import Reward


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What the pipeline hands to an optimizer."""

    policy: Policy
    reference: Reference
    reward: Reward
    rollout: Rollout
    sum_over_processes: Callable[[Tensor], Tensor] = lambda x: x
    """Adds a tensor over processes; the identity in one."""


class OptimizerConfig(Component):
    """Settings of a policy optimizer; the file's one subclass adds its own."""

    @abstractmethod
    def build(self, parts: Parts) -> Learner[Any, Any]:
        """The learner of these settings."""


class OnlineConfig(OptimizerConfig):
    """Settings of optimizers that sample the policy. Names follow TRL."""

    num_generations: int = Field(default=4, ge=1)
    """Replies sampled for each prompt (K)."""
    max_completion_length: int = Field(default=48, ge=1)
    """Longest reply, tokens."""
    temperature: float = Field(default=1.0, gt=0)
    """Divides the logits, alike in sampling and in scoring."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Nucleus of the sampling distribution; below 1 the policy that samples is not the one that is scored."""
    beta: float = Field(default=0.05, ge=0)
    """KL coefficient: reward units per nat of log pi/pi_ref."""
    missing_eos_penalty: float = Field(default=0.0, ge=0)
    """Subtracted from the score of a reply that did not end."""
    importance_cap: float | None = Field(default=None, gt=0)
    """Weigh replies by min(cap, pi_training/pi_sampling), which corrects for a sampler of lower precision; off if left out."""
