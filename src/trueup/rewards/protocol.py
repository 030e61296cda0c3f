"""What an optimizer asks of a reward: one number a reply, from text; of a dense one, where in the reply it falls; of a sum, its parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from torch import Tensor

from trueup.data.rows import Conversation, Reply
from trueup.data.tokens import Sequences


class Reward(Protocol):
    """Anything that scores replies: a learned model, a program, a sum of several."""

    def score(self, prompts: Sequence[Conversation], replies: Sequence[Reply], sequences: Sequences | None = None) -> Tensor:
        """[B] Scores of replies to prompts, row by row, without gradient.

        Args:
            prompts: one a row.
            replies: one a row.
            sequences: the same rows as the policy's tokens; a reward that shares the policy's tokenizer may use them to save encoding.
        """
        ...


@runtime_checkable
class DenseReward(Reward, Protocol):
    """A reward that is given at several tokens of a reply; its `score` is their sum."""

    def token_rewards(self, prompts: Sequence[Conversation], replies: Sequence[Reply], sequences: Sequences) -> Tensor:
        """[B, T] Rewards at the policy's reply tokens, without gradient; 0 in padding.

        Args:
            prompts: one a row.
            replies: one a row.
            sequences: the same rows as the policy's tokens.
        """
        ...


class Component(NamedTuple):
    """A reward that is part of a sum."""

    weight: float
    """What it counts there."""
    reward: Reward
    """Without the weight."""


@runtime_checkable
class Composed(Reward, Protocol):
    """A reward that is a sum of named ones, which some optimizers want to see apart."""

    def components(self) -> Mapping[str, Component]:
        """The parts by name; empty where the reward is of one piece after all."""
        ...


def components_of(reward: Reward) -> dict[str, Component]:
    """What a reward is made of, by name; empty where it is of one piece."""
    return dict(reward.components()) if isinstance(reward, Composed) else {}
