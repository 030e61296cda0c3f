"""What a world is: prompts, an offline preference set, and (in a sandbox) the truth, as programs.

An outside world is a module with one subclass of `WorldConfig` whose ``build`` returns an object with these methods; name it in a
configuration as ``world: {kind: mypackage.myworld}``.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

from trueup.core.config import Component
from trueup.core.rng import Key
from trueup.data.rows import Demonstration, Judged, Preference, Prompt, Reply, Split


@dataclass(frozen=True, kw_only=True)
class Gold:
    """The truth about one reply: its score and the named components it is the sum of."""

    score: float
    components: dict[str, float] = field(default_factory=dict)


class World(Protocol):
    """Where prompts, data and truth come from. Everything is a pure function of the configuration and the seed."""

    def prompts(self, split: Split) -> Sequence[Prompt]:
        """Disjoint prompts of a split."""
        ...

    def demonstrations(self) -> Sequence[Demonstration]:
        """Replies to imitate in supervised fine-tuning; empty where the policy needs none."""
        ...

    def preferences(self, split: Split) -> Sequence[Preference]:
        """The offline preference set (``train``) and its held-out part (``validation``); empty where a labeller makes it (see `label`)."""
        ...

    def gold(self, prompts: Sequence[Prompt], replies: Sequence[Reply]) -> Sequence[Gold] | None:
        """The truth about replies, row by row; None where nobody knows it."""
        ...

    def label(self, prompt: Prompt, first: Reply, second: Reply, key: Key) -> tuple[str, float] | None:
        """One noisy comparison by the world's annotators: (annotator, 1 if ``first`` wins, 0 if not, 0.5 a tie); None without any."""
        ...

    def evaluations(self, prompts: Sequence[Prompt], replies: Sequence[Reply]) -> Mapping[str, Sequence[float | None]]:
        """The battery people care about, apart from gold: name -> one value a row, None where it does not apply to that row."""
        ...

    def vocabulary(self) -> Sequence[str] | None:
        """All words, where the world's language is closed and a tokenizer may be made from it; None otherwise."""
        ...


@runtime_checkable
class JudgedWorld(Protocol):
    """A world may also hold judged groups, from which its pairs were made: reward models then learn from the groups."""

    def judgements(self, split: Split) -> Sequence[Judged]:
        """Groups of a split; empty where there are only pairs."""
        ...


class WorldConfig(Component):
    """Settings of a world; the file's one subclass adds its own."""

    @abstractmethod
    def build(self, seed: int, base: Path) -> World:
        """The world of that seed; relative paths in the settings are read from ``base``."""
