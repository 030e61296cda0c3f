"""A world that is only files: somebody's prompts, preferences and demonstrations, and no truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal

from pydantic import model_validator

from trueup.core.errors import UserError
from trueup.core.rng import Key
from trueup.data.demonstrations import read_demonstrations
from trueup.data.judgements import read_judged
from trueup.data.pairs import pairs_of
from trueup.data.preferences import read_preferences
from trueup.data.prompts import read_prompts
from trueup.data.rows import Demonstration, Judged, Preference, Prompt, Reply, Split
from trueup.data.splits import split_rows
from trueup.sandbox.text import surface
from trueup.sandbox.world import Gold, WorldConfig


class FilesConfig(WorldConfig):
    """Preference rows, prompts and demonstrations from files or hub data sets."""

    kind: Literal["files"] = "files"
    """Name of the world."""
    preferences: str | None = None
    """Preference rows (JSONL, JSON, CSV, Parquet, also gzipped), relative to the configuration, or a hub data set."""
    judgements: str | None = None
    """Instead of ``preferences``: judged groups of replies, such as rankings and ratings, that a reward model learns from whole."""
    prompts: str | None = None
    """Prompts of the policy phase; those of the preference set if left out."""
    tags: tuple[str, ...] = ()
    """Fields of the prompts file that rewards need to know, such as ``answer``."""
    demonstrations: str | None = None
    """Replies to imitate; no supervised fine-tuning if left out."""
    on_bad: Literal["error", "skip"] = "error"
    """What to do with rows that cannot be used: stop, or leave them out."""

    @model_validator(mode="after")
    def _something(self) -> FilesConfig:
        if self.preferences is not None and self.judgements is not None:
            raise ValueError("give 'preferences' or 'judgements', not both")
        if self.tags and self.prompts is None:
            raise ValueError("'tags' are fields of the 'prompts' file")
        return self

    def build(self, seed: int, base: Path) -> Files:
        """The world of that seed, which decides the splits.

        Raises:
            UserError: no file is named.
        """
        if self.preferences is None and self.judgements is None and self.prompts is None:
            raise UserError("the world 'files' needs 'preferences', 'judgements' or 'prompts', a file each.", where="world")
        return Files(self, Key(seed) / "files", base)


class Files:
    """See `trueup.sandbox.world.World` for its methods."""

    def __init__(self, config: FilesConfig, key: Key, base: Path) -> None:
        self.config, self.key, self.base = config, key, base

    def _at(self, name: str) -> str:
        here = self.base / name
        return str(here) if here.exists() or name.startswith((".", "/")) or Path(name).suffix else name

    @cached_property
    def _judgements(self) -> Mapping[Split, Sequence[Judged]]:
        if self.config.judgements is None:
            return {}
        rows = read_judged(self._at(self.config.judgements), on_bad=self.config.on_bad).rows
        return split_rows(rows, self.key / "preferences")

    @cached_property
    def _preferences(self) -> Mapping[Split, Sequence[Preference]]:
        if self.config.preferences is None:
            return {split: pairs_of(rows) for split, rows in self._judgements.items()}
        rows = read_preferences(self._at(self.config.preferences), on_bad=self.config.on_bad)
        return split_rows(rows, self.key / "preferences")

    @cached_property
    def _prompts(self) -> Mapping[Split, Sequence[Prompt]]:
        if self.config.prompts is None:
            return {split: list({p.prompt.id: p.prompt for p in rows}.values()) for split, rows in self._preferences.items()}
        return split_rows(read_prompts(self._at(self.config.prompts), tags=self.config.tags), self.key / "prompts")

    def prompts(self, split: Split) -> Sequence[Prompt]:
        """Prompts of a split; no opening turn is in two of them."""
        return self._prompts[split]

    def demonstrations(self) -> Sequence[Demonstration]:
        """The file's rows, or none."""
        return [] if self.config.demonstrations is None else read_demonstrations(self._at(self.config.demonstrations))

    def preferences(self, split: Split) -> Sequence[Preference]:
        """The file's rows of a split, those of judged groups pair by pair; none without such a file.

        Raises:
            UserError: the split is empty.
        """
        rows = self._preferences.get(split, ())
        file = self.config.preferences or self.config.judgements
        if not rows and split == "train" and file is not None:
            raise UserError("holds no usable training pair.", where=file)
        return rows

    def judgements(self, split: Split) -> Sequence[Judged]:
        """Judged groups of a split, where the world has a file of them."""
        return self._judgements.get(split, ())

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
