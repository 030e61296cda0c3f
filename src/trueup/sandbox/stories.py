"""Stories: a real pretrained story writer, with a sentiment lexicon as the truth.

Prompts are the first words of stories; gold is the compound score of VADER (Hutto & Gilbert 2014) on the continuation; annotators compare
two continuations by gold through a logistic with a temperature. There is no offline preference set: the pipeline samples pairs from the
policy and has them labelled here.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from trueup.core.errors import UserError
from trueup.core.rng import Key
from trueup.data.rows import Demonstration, Preference, Prompt, Reply, Split
from trueup.sandbox.sentiment import sentiment_analyser
from trueup.sandbox.text import surface
from trueup.sandbox.world import Gold, WorldConfig


class StoriesConfig(WorldConfig):
    """Story beginnings, and sentiment as gold."""

    kind: Literal["stories"] = "stories"
    """Name of the world."""
    path: str
    """JSONL file (also gzipped) with a ``story`` a row, relative to the configuration."""
    opening_words: int = Field(default=8, ge=2)
    """Words of a story that make the prompt."""
    train_prompts: int = Field(default=600, ge=1)
    """Prompts of preference pairs and of the policy phase."""
    validation_prompts: int = Field(default=150, ge=1)
    """Prompts of held-out pairs."""
    test_prompts: int = Field(default=150, ge=1)
    """Prompts on which checkpoints are judged."""
    temperature: float = Field(default=0.25, gt=0)
    """Annotators prefer the first of two continuations with probability sigma((gold difference) / temperature)."""

    def build(self, seed: int, base: Path) -> Stories:
        """The world of that seed, which decides the splits."""
        return Stories(self, Key(seed) / "stories", base)


class Stories:
    """See `trueup.sandbox.world.World` for its methods."""

    def __init__(self, config: StoriesConfig, key: Key, base: Path) -> None:
        self.config, self.key = config, key
        self.path = base / config.path

    @cached_property
    def _sentiment(self) -> Callable[[str], float]:
        return sentiment_analyser("world")

    @cached_property
    def _splits(self) -> Mapping[Split, Sequence[Prompt]]:
        c = self.config
        sizes: dict[Split, int] = {"train": c.train_prompts, "validation": c.validation_prompts, "test": c.test_prompts}
        openings = list(
            dict.fromkeys(" ".join(s.split()[: c.opening_words]) for s in _stories(self.path) if len(s.split()) > c.opening_words)
        )
        if len(openings) < sum(sizes.values()):
            raise UserError(
                f"gives {len(openings)} different openings of {c.opening_words} words, but the splits need {sum(sizes.values())}. "
                "Lower the prompt counts, or raise opening_words.",
                where=str(self.path),
            )
        order, found, start = (self.key / "splits").permutation(len(openings)), {}, 0
        for split, size in sizes.items():
            found[split] = [Prompt(id=f"story-{int(i)}", text=openings[int(i)], split=split) for i in order[start : start + size]]
            start += size
        return found

    def prompts(self, split: Split) -> Sequence[Prompt]:
        """Different openings in every split."""
        return self._splits[split]

    def demonstrations(self) -> Sequence[Demonstration]:
        """None: the policy is pretrained on stories."""
        return []

    def preferences(self, split: Split) -> Sequence[Preference]:
        """None: pairs are sampled from the policy."""
        return []

    def gold(self, prompts: Sequence[Prompt], replies: Sequence[Reply]) -> Sequence[Gold]:
        """Compound sentiment of each continuation, from -1 to 1."""
        scores = [self._sentiment(r.text) for r in replies]
        return [Gold(score=s, components={"sentiment": s}) for s in scores]

    def label(self, prompt: Prompt, first: Reply, second: Reply, key: Key) -> tuple[str, float] | None:
        """A noisy comparison by sentiment."""
        a, b = (g.score for g in self.gold([prompt, prompt], [first, second]))
        return "reader", float(key.generator().random() < 1 / (1 + np.exp(-(a - b) / self.config.temperature)))

    def evaluations(self, prompts: Sequence[Prompt], replies: Sequence[Reply]) -> Mapping[str, Sequence[float | None]]:
        """What any text shows: length, repetition, variety, whether it ended."""
        return surface(replies)

    def vocabulary(self) -> Sequence[str] | None:
        """Open."""
        return None


def _stories(path: Path) -> list[str]:
    """The texts of a file.

    Raises:
        UserError: no such file, or a line without a story; the line is named.
    """
    if not path.is_file():
        raise UserError('no such file. Give a JSONL file (also .gz) with {"story": "..."} rows.', where=str(path))
    out = []
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                story = json.loads(line)["story"]
            except (ValueError, KeyError, TypeError) as error:
                raise UserError('each line must be {"story": "..."}.', where=f"{path}, line {number}") from error
            if not isinstance(story, str):
                raise UserError(f"'story' must be text, got {type(story).__name__}.", where=f"{path}, line {number}")
            out.append(story)
    return out
