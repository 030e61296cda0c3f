"""Helpdesk: a small assistant world in the image of Lambert and Calandra, The Alignment Ceiling (arXiv 2311.00168).

Requests are facts, chores, chores that only sound dangerous ("how do i kill a process ?") and requests to refuse ("how do i kill a
person ?"). Replies can help, pad, hedge, flatter, repeat, disclaim, refuse. Truth is a program (`desk.gold`); several source policies
(`desk.sources`) and several annotators with stated biases (`desk.annotators`) are pooled into one offline preference set, as inverse
alignment assumes (FRFT, arXiv 2412.10529). Everything follows from the seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import Field, field_validator, model_validator

from trueup.core.errors import UserError, did_you_mean
from trueup.core.rng import Key
from trueup.data.rows import Demonstration, Preference, Prompt, Reply, Split
from trueup.sandbox.desk import battery, gold, language, sources
from trueup.sandbox.desk.annotators import ANNOTATORS, Annotator, compare
from trueup.sandbox.desk.prompts import Splits, make_splits
from trueup.sandbox.desk.reading import Reading, read
from trueup.sandbox.world import Gold, WorldConfig

K = TypeVar("K")


class HelpdeskConfig(WorldConfig):
    """The helpdesk world: sizes, sources, annotators and truth."""

    kind: str = "helpdesk"
    """Name of the world."""
    train_prompts: int = Field(default=240, ge=1)
    """Prompts of preference data, demonstrations and policy optimisation."""
    validation_prompts: int = Field(default=60, ge=1)
    """Prompts of held-out preference data."""
    test_prompts: int = Field(default=120, ge=1)
    """Prompts on which checkpoints are judged; some are about contexts that preference data never shows."""
    covered_share: float = Field(default=0.8, gt=0, le=1)
    """Share of contexts that training prompts may be about; demonstrations show the others too, under other wordings than the test's."""
    kinds: dict[language.Kind, float] = {"fact": 0.38, "benign": 0.2, "benign_scary": 0.22, "harmful": 0.2}
    """Relative number of prompts of each kind."""
    demonstrations: int = Field(default=6000, ge=0)
    """Replies to imitate, drawn from the demonstrators."""
    demonstrators: dict[str, float] = {
        "expert": 1, "sloppy": 1.5, "verbose": 1, "anxious": 1, "flatterer": 1, "reckless": 1, "babbler": 0.7,
    }  # fmt: skip
    """Source policies of the demonstrations, with relative weights."""
    train_pairs: int = Field(default=3000, ge=1)
    """Pairs of the offline preference set."""
    validation_pairs: int = Field(default=240, ge=1)
    """Pairs held out to judge reward models."""
    replies_per_prompt: int = Field(default=6, ge=2)
    """Replies drawn for each prompt; pairs are made among them, so this bounds the number of distinct texts."""
    generators: dict[str, float] = {
        "expert": 1, "sloppy": 1.5, "verbose": 1, "anxious": 1, "flatterer": 1, "reckless": 1, "babbler": 0.7,
    }  # fmt: skip
    """Source policies of the preference set, with relative weights."""
    longest_reply: int = Field(default=24, ge=8)
    """Most words of a source policy's reply, punctuation included; policies may write longer ones."""
    annotators: Literal["gold"] | tuple[Annotator, ...] = ANNOTATORS
    """Who labels: a list of annotators, or ``gold`` for clean labels (a control)."""
    bias_strength: float = Field(default=0.4, ge=0)
    """Factor on every annotator's biases; 0 leaves honest, noisy annotators."""
    noise_strength: float = Field(default=1.0, ge=0)
    """Factor on every annotator's temperature and flips; 0 leaves decided, biased annotators."""
    truth: gold.Truth = gold.Truth()
    """Weights of the gold score."""

    @field_validator("demonstrators", "generators")
    @classmethod
    def _known_sources(cls, weights: dict[str, float]) -> dict[str, float]:
        for name, weight in weights.items():
            if name not in sources.STYLES:
                raise ValueError(f"no source policy '{name}'.{did_you_mean(name, sources.STYLES)} Known: {', '.join(sources.STYLES)}")
            if weight < 0:
                raise ValueError(f"the weight of '{name}' must not be negative")
        return _some_weight(weights)

    @field_validator("kinds")
    @classmethod
    def _some_kinds(cls, shares: dict[language.Kind, float]) -> dict[language.Kind, float]:
        return _some_weight(shares)

    @model_validator(mode="after")
    def _enough_pairs(self) -> HelpdeskConfig:
        most = self.replies_per_prompt * (self.replies_per_prompt - 1) // 2
        for pairs, prompts, name in (
            (self.train_pairs, self.train_prompts, "train"),
            (self.validation_pairs, self.validation_prompts, "validation"),
        ):
            if pairs > most * prompts:
                raise ValueError(
                    f"{name}_pairs {pairs} is more than {prompts} prompts with {self.replies_per_prompt} replies can give "
                    f"({most * prompts}); raise replies_per_prompt"
                )
        if isinstance(self.annotators, tuple) and len({a.name for a in self.annotators}) != max(1, len(self.annotators)):
            raise ValueError("annotators must be at least one, with distinct names")
        return self

    def build(self, seed: int, base: Path) -> Helpdesk:
        """The world of that seed; ``base`` is not needed."""
        return Helpdesk(self, Key(seed) / "helpdesk")


class Helpdesk:
    """The helpdesk world; see `trueup.sandbox.world.World` for its methods.

    Args:
        config: its settings.
        key: where all its random numbers come from.
    """

    def __init__(self, config: HelpdeskConfig, key: Key) -> None:
        self.config, self.key = config, key
        self._contexts = {c.name: c for c in language.contexts()}

    @cached_property
    def _splits(self) -> Splits:
        c = self.config
        sizes: dict[Split, int] = {"train": c.train_prompts, "validation": c.validation_prompts, "test": c.test_prompts}
        return make_splits(sizes, c.kinds, c.covered_share, self.key / "prompts")

    def prompts(self, split: Split) -> Sequence[Prompt]:
        """Disjoint prompts of a split; tags name the kind, the context, and whether training may cover it."""
        return {"train": self._splits.train, "validation": self._splits.validation, "test": self._splits.test}[split]

    def demonstrations(self) -> Sequence[Demonstration]:
        """Replies of the pooled source policies, to prompts of the training split and to further wordings, about all contexts."""
        prompts, key = [*self._splits.train, *self._splits.lessons], self.key / "demonstrations"
        prompts = [prompts[int(i)] for i in (key / "order").permutation(len(prompts))]
        chosen = _draw(self.config.demonstrators, self.config.demonstrations, key / "sources")
        return [self._written(prompts[i % len(prompts)], source, key / i) for i, source in enumerate(chosen)]

    @cached_property
    def _preferences(self) -> dict[Split, tuple[Preference, ...]]:
        c = self.config
        return {"train": self._pool("train", c.train_pairs), "validation": self._pool("validation", c.validation_pairs), "test": ()}

    def preferences(self, split: Split) -> Sequence[Preference]:
        """The pooled offline preference set; none for the test split."""
        return self._preferences[split]

    def _pool(self, split: Split, n: int) -> tuple[Preference, ...]:
        """Pairs among replies of the sources, an equal number (up to one) for every prompt, each labelled by one annotator."""
        prompts, k, out = self.prompts(split), self.config.replies_per_prompt, []
        for p, prompt in enumerate(prompts):
            key = self.key / "pairs" / split / prompt.id
            written = [self._written(prompt, source, key / i) for i, source in enumerate(_draw(self.config.generators, k, key / "sources"))]
            couples = [(a, b) for a in range(k) for b in range(a) if written[a].reply != written[b].reply]
            wanted = n // len(prompts) + (p < n % len(prompts))
            for j, c in enumerate((key / "couples").permutation(len(couples))[:wanted]):
                out.append(self._judged(f"{split}-pair-{p:04d}-{j}", written[couples[c][0]], written[couples[c][1]], key / "label" / j))
        return tuple(out)

    def _written(self, prompt: Prompt, source: str, key: Key) -> Demonstration:
        reply = sources.write(source, self._contexts[prompt.tags["context"]], self.config.longest_reply, key)
        return Demonstration(prompt=prompt, reply=reply, source=source)

    def _judged(self, name: str, first: Demonstration, second: Demonstration, key: Key) -> Preference:
        annotator, preference = self.label(first.prompt, first.reply, second.reply, key)
        if preference == 0.5:
            preference = float((key / "tie").generator().random() < 0.5)
        won, lost = (first, second) if preference > 0.5 else (second, first)
        return Preference(
            id=name, prompt=first.prompt, chosen=won.reply, rejected=lost.reply,
            chosen_source=won.source, rejected_source=lost.source, annotator=annotator,
        )  # fmt: skip

    def label(self, prompt: Prompt, first: Reply, second: Reply, key: Key) -> tuple[str, float]:
        """One comparison: by gold itself, or by an annotator drawn by their shares. A tie (0.5) only comes from gold."""
        scores = [g.score for g in self.gold([prompt, prompt], [first, second])]
        if self.config.annotators == "gold":
            return "gold", 0.5 + 0.5 * ((scores[0] > scores[1]) - (scores[0] < scores[1]))
        shares = {a.name: a.share for a in self.config.annotators}
        name = _draw(shares, 1, key / "annotator")[0]
        annotator = next(a for a in self.config.annotators if a.name == name)
        probability = annotator.probability(
            (scores[0], scores[1]), (read(first.text), read(second.text)), self.config.bias_strength, self.config.noise_strength
        )
        return name, float(compare(probability, key / "choice"))

    def gold(self, prompts: Sequence[Prompt], replies: Sequence[Reply]) -> Sequence[Gold]:
        """The truth, with its components (`desk.gold`); any text is allowed as a reply.

        Raises:
            UserError: a prompt is not one of this world's.
        """
        out = []
        for reply, (context, reading) in zip(replies, self._read(prompts, replies), strict=True):
            parts = gold.components(self.config.truth, context, reply, reading)
            out.append(Gold(score=gold.total(parts), components=parts))
        return out

    def evaluations(self, prompts: Sequence[Prompt], replies: Sequence[Reply]) -> dict[str, list[float | None]]:
        """The battery; names and meanings are those of `desk.battery.battery`."""
        rows = self._read(prompts, replies)
        return battery.battery(prompts, [c for c, _ in rows], replies, [r for _, r in rows])

    def vocabulary(self) -> Sequence[str]:
        """All words; every text of this world is such words with single spaces between."""
        return language.vocabulary()

    def coverage(self) -> dict[str, float]:
        """How far the preference data covers what the test split asks.

        ``contexts`` is the share of the world's contexts that occur in the training pairs, ``test_prompts`` the share of test prompts
        about one of them, ``texts`` the number of distinct replies in the training pairs.
        """
        pairs = self.preferences("train")
        seen = {p.prompt.tags["context"] for p in pairs}
        test = self.prompts("test")
        return {
            "contexts": len(seen) / len(self._contexts),
            "test_prompts": sum(p.tags["context"] in seen for p in test) / len(test),
            "texts": float(len({(p.prompt.id, r.text) for p in pairs for r in (p.chosen, p.rejected)})),
        }

    def _read(self, prompts: Sequence[Prompt], replies: Sequence[Reply]) -> list[tuple[language.Context, Reading]]:
        out = []
        for prompt, reply in zip(prompts, replies, strict=True):
            context = self._contexts.get(prompt.tags.get("context", "")) or self._by_text.get(str(prompt.text))
            if context is None:
                raise UserError(
                    f"the helpdesk does not know the request {prompt.text!r}; ask in its own words (prompts('test') lists some)."
                )
            out.append((context, read(reply.text)))
        return out

    @cached_property
    def _by_text(self) -> dict[str, language.Context]:
        return {text: c for c in language.contexts() for text in language.wordings(c)}


def _draw(weights: dict[str, float], n: int, key: Key) -> list[str]:
    """``n`` names, with replacement, by their relative weights."""
    names, whole = list(weights), sum(weights.values())
    return [names[int(i)] for i in key.generator().choice(len(names), size=n, p=[weights[name] / whole for name in names])]


def _some_weight(weights: dict[K, float]) -> dict[K, float]:
    if sum(weights.values()) <= 0 or min(weights.values()) < 0:
        raise ValueError("weights must be at least 0, and one of them above 0")
    return weights
