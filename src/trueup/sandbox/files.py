"""A world that is only files: somebody's prompts, preferences and demonstrations, and no truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal

from trueup.core.errors import UserError
from trueup.core.rng import Key
from trueup.data.demonstrations import read_demonstrations
from trueup.data.preferences import read_preferences
from trueup.data.prompts import read_prompts
from trueup.data.rows import Demonstration, Preference, Prompt, Reply, Split
from trueup.data.splits import split_rows
from trueup.sandbox.text import surface
from trueup.sandbox.world import Gold, WorldConfig


class FilesConfig(WorldConfig):
    """Preference rows, prompts and demonstrations from files or hub data sets."""

    kind: Literal["files"] = "files"
    """Name of the world."""
    preferences: str
    """Preference rows (JSONL, JSON, CSV, Parquet, also gzipped), relative to the configuration, or a hub data set."""
    prompts: str | None = None
    """Prompts of the policy phase; the preference set's own if left out."""
    demonstrations: str | None = None
    """Replies to imitate; no supervised fine-tuning if left out."""
    on_bad: Literal["error", "skip"] = "error"
    """What to do with rows that cannot be used: stop, or leave them out."""

    def build(self, seed: int, base: Path) -> Files:
        """The world of that seed, which decides the splits."""
        return Files(self, Key(seed) / "files", base)


class Files:
    """See `trueup.sandbox.world.World` for its methods."""

    def __init__(self, config: FilesConfig, key: Key, base: Path) -> None:
        self.config, self.key, self.base = config, key, base

    def _at(self, name: str) -> str:
        here = self.base / name
        return str(here) if here.exists() or name.startswith((".", "/")) or Path(name).suffix else name

    @cached_property
    def _preferences(self) -> Mapping[Split, Sequence[Preference]]:
        rows = read_preferences(self._at(self.config.preferences), on_bad=self.config.on_bad)
        return split_rows(rows, self.key / "preferences")

    @cached_property
    def _prompts(self) -> Mapping[Split, Sequence[Prompt]]:
        if self.config.prompts is None:
            return {split: list({p.prompt.id: p.prompt for p in rows}.values()) for split, rows in self._preferences.items()}
        return split_rows(read_prompts(self._at(self.config.prompts)), self.key / "prompts")

    def prompts(self, split: Split) -> Sequence[Prompt]:
        """Prompts of a split; no opening turn is in two of them."""
        return self._prompts[split]

    def demonstrations(self) -> Sequence[Demonstration]:
        """The file's rows, or none."""
        return [] if self.config.demonstrations is None else read_demonstrations(self._at(self.config.demonstrations))

    def preferences(self, split: Split) -> Sequence[Preference]:
        """The file's rows of a split.

        Raises:
            UserError: the split is empty.
        """
        rows = self._preferences[split]
        if not rows and split == "train":
            raise UserError("holds no usable training pair.", where=self.config.preferences)
        return rows

    def gold(self, prompts: Sequence[Prompt], replies: Sequence[Reply]) -> Sequence[Gold] | None:
        """Nobody knows it."""
        return None

    def label(self, prompt: Prompt, first: Reply, second: Reply, key: Key) -> tuple[str, float] | None:
        """There are no annotators at hand."""
        return None

    def evaluations(self, prompts: Sequence[Prompt], replies: Sequence[Reply]) -> Mapping[str, Sequence[float | None]]:
        """What any text shows: length, repetition, variety, whether it ended."""
        return surface(replies)

    def vocabulary(self) -> Sequence[str] | None:
        """Open."""
        return None
