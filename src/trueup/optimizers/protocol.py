"""What every policy optimizer is built from, and the settings that those which sample share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

from pydantic import Field
from torch import Tensor

from trueup.core.config import Component
from trueup.data.rows import Demonstration
from trueup.decoding.rollout import Rollout
from trueup.learn.learner import Learner
from trueup.models.policy import Policy, Reference
from trueup.rewards.config import RewardConfig
from trueup.rewards.protocol import Reward

Data = Literal["prompts", "preferences", "demonstrations"]


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What the pipeline hands to an optimizer."""

    policy: Policy
    reference: Reference
    reward: Reward
    rollout: Rollout
    sum_over_processes: Callable[[Tensor], Tensor] = lambda x: x
    """Adds a tensor over processes; the identity in one."""
    demonstrations: tuple[Demonstration, ...] = ()
    """Of the world, for optimizers that mix them in."""


class OptimizerConfig(Component):
    """Settings of a policy optimizer; the file's one subclass adds its own."""

    learns_from: ClassVar[Data] = "prompts"
    """What the pipeline feeds it: `PromptBatch`, or `Examples` of `Judged` pairs or of `Demonstration`."""
    uses_reward: ClassVar[bool] = True
    """Whether it looks at the arm's reward; one that does not needs no reward model, and cannot be helped by a refit of it."""

    @abstractmethod
    def build(self, parts: Parts) -> Learner[Any, Any]:
        """The learner of these settings."""


@runtime_checkable
class ChecksReward(Protocol):
    """Settings of an optimizer that not every reward suits; it is asked before anything is trained."""

    def check_reward(self, reward: RewardConfig) -> None:
        """Nothing, where an arm's reward suits.

        Raises:
            UserError: it does not.
        """
        ...


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


class OfflineConfig(OptimizerConfig):
    """Settings of optimizers that learn from given preference pairs."""

    learns_from: ClassVar[Data] = "preferences"
    max_completion_length: int = Field(default=48, ge=1)
    """Longest reply where the policy is sampled, tokens: at probes, and for a baseline. Replies of the data are read whole."""
