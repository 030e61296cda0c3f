"""The row types that go in and come out: prompts, demonstrations, preferences. Strings or chat messages alike."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple, TypedDict

Split = Literal["train", "validation", "test"]


class Message(TypedDict):
    """One chat turn."""

    role: str
    content: str


Conversation = str | tuple[Message, ...]
"""A prompt: plain text, or the turns so far."""


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """A request to answer."""

    id: str
    text: Conversation
    split: Split = "train"
    tags: dict[str, str] = field(default_factory=dict)
    """What is known of it, such as ``kind: benign_scary``; evaluations and worlds may read it."""


@dataclass(frozen=True, kw_only=True)
class Reply:
    """A text and whether its writer ended it (decoding loses the end-of-sequence token)."""

    text: str
    finished: bool = True


@dataclass(frozen=True, kw_only=True)
class Demonstration:
    """A prompt with a reply to imitate."""

    prompt: Prompt
    reply: Reply
    source: str = ""


@dataclass(frozen=True, kw_only=True)
class Preference:
    """Two replies to one prompt, and which one an annotator preferred."""

    id: str
    prompt: Prompt
    chosen: Reply
    rejected: Reply
    chosen_source: str = ""
    """What wrote the chosen reply; empty where unknown."""
    rejected_source: str = ""
    annotator: str = ""
    margin: float | None = None
    where: str = ""
    """File and line it came from, for messages."""


class Vote(NamedTuple):
    """What one annotator said of a pair."""

    annotator: str
    sign: int
    """1 for the first reply, -1 for the second, 0 for a tie."""


@dataclass(frozen=True, kw_only=True)
class Judged:
    """Several replies to one prompt and what an annotator said of them; a preference is the case of two."""

    id: str
    prompt: Prompt
    replies: tuple[Reply, ...]
    ratings: tuple[float, ...]
    """One a reply, higher is better, equal is a tie; of a ranking only the order means something."""
    margin: float | None = None
    """Stated strength of a pair's preference."""
    annotator: str = ""
    domain: str = ""
    """Part of the data set, such as ``chat``; results are told apart by it."""
    styles: tuple[str, ...] = ()
    """One a reply where the data set names its style, such as ``concise``."""
    votes: tuple[Vote, ...] = ()
    """Of each annotator of a pair, where they are known; ``ratings`` then are the majority's."""
    where: str = ""
    """File and line it came from, for messages."""


def judged(pair: Preference) -> Judged:
    """A pair as a group of two, the chosen reply first."""
    return Judged(
        id=pair.id, prompt=pair.prompt, replies=(pair.chosen, pair.rejected), ratings=(1.0, 0.0), margin=pair.margin,
        annotator=pair.annotator, where=pair.where,
    )  # fmt: skip


def swapped(pair: Preference) -> Preference:
    """The pair with chosen and rejected exchanged."""
    return replace(pair, chosen=pair.rejected, rejected=pair.chosen, chosen_source=pair.rejected_source, rejected_source=pair.chosen_source)
