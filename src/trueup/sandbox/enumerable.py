"""Enumerable: prompts by at most ten thousand replies, so that every expectation is a sum (`exact`).

A prompt names two topics, and each topic values some words. Gold adds up the values of the distinct words of a reply, less a cost
for each word, for each *odd* word, which the reference hardly ever writes, and for a reply that does not end. The proxy is gold plus
a bonus for length, a bonus for odd words (the exploit out of the reference's support), and noise frozen for each prompt and reply.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import permutations
from pathlib import Path

import numpy as np
from pydantic import Field

from trueup.core.errors import UserError
from trueup.core.rng import Key
from trueup.data.rows import Demonstration, Preference, Prompt, Reply, Split
from trueup.sandbox.exact import Floats, Space, enumerate_replies, markov_logprobs
from trueup.sandbox.world import Gold, WorldConfig

ODD = "odd"


class EnumerableConfig(WorldConfig):
    """A world small enough to enumerate."""

    kind: str = "enumerable"
    """Name of the world."""
    words: int = Field(default=4, ge=1, le=100)
    """Ordinary words of a reply; one odd word comes on top."""
    max_tokens: int = Field(default=5, ge=2, le=13)
    """Most tokens of a reply, its end counted; words and tokens together may give at most 10,000 replies."""
    topics: int = Field(default=8, ge=2, le=100)
    """Topics; a prompt is an ordered pair of different ones."""
    train_prompts: int = Field(default=32, ge=1)
    """Prompts of preference data and policy optimisation."""
    validation_prompts: int = Field(default=8, ge=1)
    """Prompts of held-out pairs."""
    test_prompts: int = Field(default=16, ge=1)
    """Prompts on which checkpoints are judged."""
    demonstrations: int = Field(default=1000, ge=0)
    """Replies of the reference to imitate."""
    train_pairs: int = Field(default=500, ge=1)
    """Pairs of the offline preference set: replies of the reference, compared by the proxy."""
    validation_pairs: int = Field(default=100, ge=1)
    """Pairs held out."""
    temperature: float = Field(default=0.5, gt=0)
    """The first of two replies is preferred with probability sigma((difference of the proxy) / temperature)."""
    noise: float = Field(default=0.2, ge=0)
    """Standard deviation of the proxy's frozen noise."""
    length_bonus: float = Field(default=0.3, ge=-10, le=10)
    """What the proxy adds for each word."""
    odd_bonus: float = Field(default=1.5, ge=-10, le=10)
    """What the proxy adds for each odd word."""
    length_cost: float = Field(default=0.2, ge=-10, le=10)
    """What gold takes off for each word."""
    odd_cost: float = Field(default=0.5, ge=-10, le=10)
    """What gold takes off for each odd word."""
    unfinished_cost: float = Field(default=0.5, ge=-10, le=10)
    """What gold takes off for a reply that does not end."""
    rarity: float = Field(default=4.0, ge=0, le=50)
    """How much less the reference's logit of the odd word is than that of ordinary words, nats."""

    def build(self, seed: int, base: Path) -> Enumerable:
        """The world of that seed; ``base`` is not needed.

        Raises:
            UserError: too many replies to enumerate, or fewer pairs of topics than prompts.
        """
        asked, known = self.train_prompts + self.validation_prompts + self.test_prompts, self.topics * (self.topics - 1)
        if asked > known:
            raise UserError(f"{asked} prompts are wanted, {self.topics} topics give {known}. Raise topics.", where="world")
        return Enumerable(self, Key(seed) / "enumerable")


class Enumerable:
    """The enumerable world; see `trueup.sandbox.world.World` for the methods it shares with other worlds.

    Args:
        config: its settings.
        key: where all its random numbers come from.
    """

    def __init__(self, config: EnumerableConfig, key: Key) -> None:
        self.config, self.key = config, key
        self.words = (*(f"w{i}" for i in range(config.words)), ODD)
        self.space: Space = enumerate_replies(self.words, config.max_tokens)
        self._index = self.space.index()
        self._values = (key / "values").generator().normal(size=(config.topics, config.words))

    @cached_property
    def _prompts(self) -> dict[Split, tuple[Prompt, ...]]:
        c, pairs = self.config, list(permutations(range(self.config.topics), 2))
        order, found, start = (self.key / "prompts").permutation(len(pairs)), {}, 0
        sizes: dict[Split, int] = {"train": c.train_prompts, "validation": c.validation_prompts, "test": c.test_prompts}
        for split, size in sizes.items():
            chosen = [pairs[int(i)] for i in order[start : start + size]]
            found[split] = tuple(Prompt(id=f"{split}-{n:04d}", text=f"t{a} t{b}", split=split) for n, (a, b) in enumerate(chosen))
            start += size
        return found

    def prompts(self, split: Split) -> Sequence[Prompt]:
        """Disjoint pairs of topics."""
        return self._prompts[split]

    def values(self, prompts: Sequence[Prompt]) -> Floats:
        """[P, words] What each ordinary word is worth: the mean over the prompt's two topics.

        Raises:
            UserError: a prompt is not two of this world's topics.
        """
        out = []
        for prompt in prompts:
            names = str(prompt.text).split()
            if len(names) != 2 or any(name not in self._topic for name in names):
                raise UserError(
                    f"the enumerable world does not know the prompt {prompt.text!r}; give two of t0 to t{self.config.topics - 1}."
                )
            out.append(self._values[[self._topic[name] for name in names]].mean(axis=0))
        return np.array(out).reshape(len(prompts), self.config.words)

    @cached_property
    def _topic(self) -> dict[str, int]:
        return {f"t{i}": i for i in range(self.config.topics)}

    def reference(self, prompts: Sequence[Prompt]) -> Floats:
        """[P, R] Log-probability of every reply of `space` under the reference, which looks at the prompt and the previous word."""
        n = self.config.words
        logits = np.broadcast_to(
            (self.key / "reference").generator().normal(scale=0.5, size=(n + 2, n + 2)), (len(prompts), n + 2, n + 2)
        ).copy()
        logits[:, :, :n] += 0.5 * self.values(prompts)[:, None, :]
        logits[:, :, n] -= self.config.rarity
        return markov_logprobs(self.space, logits)

    @cached_property
    def _counts(self) -> Floats:
        """[R, V] How often each word, the odd one last, stands in each reply of `space`."""
        here = (self.space.tokens[:, :, None] == np.arange(len(self.words))) & self.space.mask[:, :, None]
        return here.sum(axis=1).astype(np.float64)

    def gold_table(self, prompts: Sequence[Prompt]) -> Floats:
        """[P, R] Gold of every reply of `space`."""
        c, counts = self.config, self._counts
        unfinished = np.array([not reply.finished for reply in self.space.replies])
        costs = c.length_cost * counts.sum(axis=1) + c.odd_cost * counts[:, -1] + c.unfinished_cost * unfinished
        worth: Floats = self.values(prompts) @ (counts[:, :-1] > 0).T
        return worth - costs

    def proxy_table(self, prompts: Sequence[Prompt]) -> Floats:
        """[P, R] The proxy of every reply of `space`: gold, the bonuses, and the frozen noise."""
        bonus = self.config.length_bonus * self._counts.sum(axis=1) + self.config.odd_bonus * self._counts[:, -1]
        noise = [(self.key / "noise" / str(p.text)).generator().normal(size=len(bonus)) for p in prompts]
        return self.gold_table(prompts) + bonus + self.config.noise * np.array(noise).reshape(len(prompts), len(bonus))

    def _gold(self, values: Floats, reply: Reply) -> Gold:
        words, c = reply.text.split(), self.config
        parts = {
            "value": sum(float(values[self.words.index(word)]) for word in sorted(set(words)) if word in self.words[:-1]),
            "length": -c.length_cost * len(words),
            "odd": -c.odd_cost * words.count(ODD),
            "unfinished": -c.unfinished_cost * (not reply.finished),
        }
        return Gold(score=sum(parts.values()), components=parts)

    def gold(self, prompts: Sequence[Prompt], replies: Sequence[Reply]) -> Sequence[Gold]:
        """The truth; replies out of `space` are allowed."""
        return [self._gold(values, reply) for values, reply in zip(self.values(prompts), replies, strict=True)]

    def proxy(self, prompt: Prompt, reply: Reply) -> float:
        """The proxy of one reply; out of `space` it has no noise."""
        place, words = self._index.get(reply), reply.text.split()
        noise = 0.0 if place is None else float((self.key / "noise" / str(prompt.text)).generator().normal(size=place + 1)[-1])
        bonus = self.config.length_bonus * len(words) + self.config.odd_bonus * words.count(ODD)
        return self.gold([prompt], [reply])[0].score + bonus + self.config.noise * noise

    def _sampled(self, prompts: Sequence[Prompt], key: Key) -> list[Reply]:
        """One reply of the reference to each prompt (inverse of its cumulative distribution)."""
        distinct = list({p.id: p for p in prompts}.values())
        cumulative = {p.id: np.cumsum(np.exp(row)) for p, row in zip(distinct, self.reference(distinct), strict=True)}
        uniforms = key.uniforms(range(len(prompts)), 1)[:, 0]
        places = [np.searchsorted(cumulative[p.id], u * cumulative[p.id][-1], side="right") for p, u in zip(prompts, uniforms, strict=True)]
        return [self.space.replies[int(place)] for place in places]

    def demonstrations(self) -> Sequence[Demonstration]:
        """Replies of the reference to training prompts in turn, so that supervised fine-tuning recovers it."""
        train = self.prompts("train")
        prompts = [train[i % len(train)] for i in range(self.config.demonstrations)]
        replies = self._sampled(prompts, self.key / "demonstrations")
        return [Demonstration(prompt=p, reply=r, source="reference") for p, r in zip(prompts, replies, strict=True)]

    def preferences(self, split: Split) -> Sequence[Preference]:
        """Pairs of different replies of the reference, compared by the proxy; none for the test split."""
        sizes: dict[Split, int] = {"train": self.config.train_pairs, "validation": self.config.validation_pairs, "test": 0}
        known, key, out = self.prompts(split), self.key / "pairs" / split, []
        prompts = [known[i % len(known)] for i in range(sizes[split])]
        first, second = (self._sampled(prompts, key / side) for side in ("first", "second"))
        for i, (prompt, a, b) in enumerate(zip(prompts, first, second, strict=True)):
            attempt = 0
            while a == b:
                attempt, b = attempt + 1, self._sampled([prompt], key / "again" / i / attempt)[0]
            annotator, won = self.label(prompt, a, b, key / "label" / i)
            chosen, rejected = (a, b) if won else (b, a)
            out.append(Preference(id=f"{split}-pair-{i:04d}", prompt=prompt, chosen=chosen, rejected=rejected, annotator=annotator))
        return out

    def label(self, prompt: Prompt, first: Reply, second: Reply, key: Key) -> tuple[str, float]:
        """One comparison by the proxy, through a logistic with the temperature of the settings."""
        felt = (self.proxy(prompt, first) - self.proxy(prompt, second)) / self.config.temperature
        return "proxy", float(key.generator().random() < 0.5 * (1 + np.tanh(felt / 2)))

    def evaluations(self, prompts: Sequence[Prompt], replies: Sequence[Reply]) -> dict[str, list[float | None]]:
        """``words``, ``odd_words`` and ``finished``, one value a reply."""
        texts = [reply.text.split() for reply in replies]
        return {
            "words": [float(len(words)) for words in texts],
            "odd_words": [float(words.count(ODD)) for words in texts],
            "finished": [float(reply.finished) for reply in replies],
        }

    def vocabulary(self) -> Sequence[str]:
        """Topics and words."""
        return (*self._topic, *self.words)
