"""What a policy may be optimised against, as configurations: one file a kind in `rewards/kinds` and `rewards/verifiable`, or a dotted
module of yours with one subclass of `RewardConfig`."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Literal, Protocol, Self, runtime_checkable

from pydantic import BeforeValidator, Field, SerializeAsAny, model_validator
from torch import Tensor

from trueup.core.component import offered
from trueup.core.config import Component, resolve
from trueup.core.errors import did_you_mean
from trueup.data.rows import Conversation, Reply
from trueup.data.tokens import Sequences
from trueup.models.embedding_reward import Features
from trueup.models.reward import RewardModel
from trueup.rewards.dense_reward import SegmentReward
from trueup.rewards.learned import LearnedReward, Scale
from trueup.rewards.protocol import Reward

PACKAGES = ("trueup.rewards.kinds", "trueup.rewards.verifiable")
Differ = Literal["head", "order", "adapter", "pretraining"]
"""What tells members apart: the first weights of the head, the order of the data, those of the adapter, or trunk, head and order alike."""


class RewardSources(Protocol):
    """What a run has to make rewards of; it is handed to `RewardConfig.build`."""

    def build(self, config: RewardConfig) -> Reward:
        """A reward that is part of another."""
        ...

    def model(self) -> Reward:
        """The reward model in force, rescaled."""
        ...

    def gold(self) -> Reward:
        """The world's truth, rescaled."""
        ...

    def members(self, differ: Differ, count: int, trunks: Sequence[str] | None) -> list[LearnedReward]:
        """So many reward models of the run's settings, the first of which is the run's own, each rescaled on the same samples."""
        ...

    def shared_trunk(self, count: int, seen_share: float) -> tuple[RewardModel, list[Scale]]:
        """One model with so many heads, and the scale of each."""
        ...

    def average(self, differ: Differ, count: int, trunks: Sequence[str] | None) -> Reward:
        """One model with the mean of the weights of so many, rescaled."""
        ...

    def last_layer(self, features: Features, references: int, deviations: float) -> Reward:
        """A Bayesian linear head on frozen embeddings, rescaled."""
        ...

    def dense(self, path: str) -> SegmentReward:
        """A dense reward model from a folder, which knows the policy's tokens."""
        ...

    def deviation(self, reward: Reward) -> float:
        """Deviation of a reward's scores on the replies of the SFT policy that all are rescaled on; 1 where they do not vary."""
        ...

    def known(self, tag: str) -> Mapping[str, str]:
        """What the world knows of its prompts under a tag: by text, or by `trueup.data.turns.prompt_id` of messages."""
        ...

    def references(self, count: int) -> Mapping[str, Sequence[Reply]]:
        """So many replies of the SFT policy to each prompt that the run may ask about, by the same names."""
        ...


@runtime_checkable
class Uncertain(Protocol):
    """A reward that says how far its members, or its posterior, disagree about a reply."""

    def spread(self, prompts: Sequence[Conversation], replies: Sequence[Reply], sequences: Sequences | None = None) -> Tensor:
        """[B] standard deviation, score units."""
        ...


@runtime_checkable
class NamedParts(Protocol):
    """Settings of a reward that is a sum of named parts; see `trueup.rewards.protocol.Composed`."""

    def names(self) -> list[str]:
        """One a part."""
        ...


class RewardConfig(Component):
    """Settings of a reward; the file's one subclass adds its own and implements `build`."""

    @abstractmethod
    def build(self, sources: RewardSources) -> Reward:
        """The reward of these settings.

        Raises:
            UserError: the run lacks what it needs.
        """

    def inner(self) -> tuple[RewardConfig, ...]:
        """Rewards that it is made of."""
        return ()

    def tags(self) -> tuple[str, ...]:
        """Tags that every prompt must carry, such as its answer."""
        return ()


class MembersConfig(RewardConfig):
    """Settings of what is made of several reward models; the file's one subclass says how."""

    members: int = Field(default=4, ge=2)
    """Reward models, the run's own included."""
    differ: Differ
    """What tells members apart: ``head`` (its first weights), ``order`` (of the data), ``adapter`` (its first weights; needs
    reward.model.lora), or ``pretraining`` (own small policy, SFT, head and order; or own ``trunks``)."""
    trunks: tuple[str, ...] | None = None
    """For ``pretraining``: a pretrained trunk (folder or hub name) for each member but the first."""

    @model_validator(mode="after")
    def _one_trunk_each(self) -> Self:
        if self.trunks is not None and self.differ != "pretraining":
            raise ValueError("'trunks' belong to differ: pretraining")
        if self.trunks is not None and len(self.trunks) != self.members - 1:
            raise ValueError(f"{self.members} members need {self.members - 1} 'trunks' beside the run's own, got {len(self.trunks)}")
        return self


def every(config: RewardConfig) -> Iterator[RewardConfig]:
    """The reward and all that it is made of."""
    yield config
    for part in config.inner():
        yield from every(part)


def kinds_of_rewards() -> tuple[str, ...]:
    """All kinds, sorted."""
    return tuple(sorted(k for package in PACKAGES for k in offered(package, RewardConfig)))


def _resolved(value: object) -> RewardConfig:
    kind = value if isinstance(value, str) else value.get("kind") if isinstance(value, dict) else None
    home = next((p for p in PACKAGES if kind in offered(p, RewardConfig)), None)
    if home is None and isinstance(kind, str) and "." not in kind:
        known = kinds_of_rewards()
        raise ValueError(f"no reward '{kind}'.{did_you_mean(kind, known)} Available: {', '.join(known)}, or a dotted module name")
    return resolve(home or PACKAGES[0], RewardConfig, value)  # type: ignore[type-abstract]


AnyReward = Annotated[SerializeAsAny[RewardConfig], BeforeValidator(_resolved)]
