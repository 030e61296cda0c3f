"""What every way of decoding is built from, what it returns, and the settings it is chosen by."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Protocol

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from trueup.core.config import Component
from trueup.core.errors import UserError
from trueup.core.rng import Key
from trueup.data.rows import Conversation, Reply
from trueup.data.tokens import Ids, Sequences
from trueup.decoding.rollout import Rollout
from trueup.decoding.tree import TreeModel
from trueup.learn.table import Table

Need = Literal["reward", "prefix", "value"]
"""A reward that scores whole replies; a scorer of prefixes, token by token; the policy's own value model."""
FOR: dict[Need, str] = {
    "reward": "a reward model",
    "prefix": "a scorer of prefixes: a causal reward model with the policy's tokenizer",
    "value": "the policy's value model",
}


class Scores(Protocol):
    """Anything that scores whole replies, such as a `trueup.rewards.protocol.Reward`."""

    def score(self, prompts: Sequence[Conversation], replies: Sequence[Reply], sequences: Sequences | None = None) -> Tensor:
        """[B] Scores of replies to prompts."""
        ...


@dataclass(frozen=True, kw_only=True)
class DecodingParts:
    """The models that decoding may use. Makers give a fresh reader each, since a reader holds what it has read."""

    tokenizer: PreTrainedTokenizerFast
    policy: Callable[[], TreeModel]
    """Reads the policy: outputs are logits [.., V]."""
    max_tokens: int
    """Longest reply, its end counted."""
    temperature: float = 1.0
    """Divides the policy's logits: the policy at this temperature is what is guided, and what KL is measured from."""
    rollout: Rollout | None = None
    """The policy's inference copy, faster than ``policy`` for replies that nothing guides."""
    reward: Scores | None = None
    prefix: Callable[[], TreeModel] | None = None
    """Scores prefixes: outputs are [.., 1]."""
    value: Callable[[], TreeModel] | None = None
    """Values of states: outputs are [.., 1]."""
    reference: Callable[[], TreeModel] | None = None
    """Logits of the policy before its optimisation, where a method holds on to it."""
    context: int | None = None
    """Most tokens of prompt and reply."""

    def check(self, needs: Sequence[Need], kind: str) -> None:
        """Whether what a method needs is there.

        Raises:
            UserError: it is not.
        """
        for need in needs:
            if getattr(self, need) is None:
                raise UserError(f"needs {FOR[need]}. Give one.", where=f"decoding '{kind}'")

    def room(self, prompt_ids: Sequence[Ids]) -> None:
        """Whether replies fit behind the prompts.

        Raises:
            UserError: one prompt leaves no room.
        """
        for i, ids in enumerate(prompt_ids):
            if self.context is not None and len(ids) + self.max_tokens > self.context:
                raise UserError(
                    f"has {len(ids)} tokens, and with {self.max_tokens} of the reply that is more than the context of {self.context}. "
                    "Shorten the prompt or the replies.",
                    where=f"prompt {i}",
                )


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Prompts to answer, and which random streams their rows use."""

    prompts: tuple[Conversation, ...]
    ids: tuple[tuple[int, ...], ...]
    """Their tokens."""
    key: Key
    num_samples: int = 1
    """Replies a prompt; rows are the prompts, each repeated so often in a row."""
    first_row: int = 0
    """Global number of the first row."""

    def __len__(self) -> int:
        return len(self.ids) * self.num_samples

    @property
    def rows(self) -> range:
        """Global numbers of the rows."""
        return range(self.first_row, self.first_row + len(self))

    @property
    def prompt_ids(self) -> list[Ids]:
        """Tokens of the prompts as lists."""
        return [list(ids) for ids in self.ids]

    def repeated(self) -> tuple[Conversation, ...]:
        """The prompt of each row."""
        return tuple(p for p in self.prompts for _ in range(self.num_samples))


@dataclass(frozen=True, kw_only=True)
class Decoded(Table):
    """Replies with what they cost. A number that a method does not know is NaN."""

    sequences: Sequences
    logp: Tensor
    """[B] log-probability of the reply under the method itself, nats."""
    logp_base: Tensor
    """[B] the same under the policy that was guided; ``logp - logp_base`` is a sample of the KL."""
    kl: Tensor
    """[B] sum over positions of KL(method || policy), each over the whole vocabulary; nats."""
    kl_bound: Tensor
    """[B] what the KL of the method from the policy cannot exceed; nats."""
    policy_tokens: Tensor
    """[B] int64 next-token distributions of policies that were computed for the reply, rejected branches included."""
    reward_tokens: Tensor
    """[B] int64 reply tokens that reward and value models read for it. Prompts are read once by each model and not counted."""


def unknown(rows: int) -> Tensor:
    """[B] float64 NaN: a number that nobody knows."""
    return torch.full((rows,), torch.nan, dtype=torch.float64)


@dataclass
class Cost:
    """Tokens counted row by row while replies are written."""

    rows: int
    policy: Tensor = field(init=False)
    reward: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.policy, self.reward = (torch.zeros(self.rows, dtype=torch.int64) for _ in range(2))


class DecodingConfig(Component):
    """Settings of a way of decoding; the file's one subclass adds its own."""

    needs: ClassVar[tuple[Need, ...]] = ()
    """Models beside the policy that it cannot do without."""

    @abstractmethod
    def decode(self, parts: DecodingParts, asked: Asked) -> Decoded:
        """One reply a row, in the order of the rows. Draws come from ``asked.key`` and the rows' global numbers alone.

        Raises:
            UserError: a model is missing, or a prompt leaves no room.
        """
