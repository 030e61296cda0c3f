"""A world of every reply for decoders: tables instead of models, so that expected numbers are sums in float64.

Three words and an end; a reply has at most ``steps`` tokens, its end counted. The policy's logits and the rewards are drawn from a key.
`TableTree` answers what decoders ask of a model from a function of prompt and prefix.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from itertools import product

import numpy as np
import torch
from torch import Tensor

from trueup.core.rng import Key
from trueup.data.rows import Conversation, Reply
from trueup.data.tokens import Ids, Sequences
from trueup.decoding.protocol import Asked, Decoded, DecodingParts
from trueup.models.tiny import tiny_tokenizer
from trueup.ops.tilt import soft_value

WORDS = ("a", "b", "c")
EOS, VOCABULARY = 1, 6
Tokens = tuple[int, ...]


class TableTree:
    """`trueup.decoding.tree.TreeModel` on a function of (prompt ids, reply tokens) -> outputs [H]; counts what it is asked to read."""

    def __init__(self, outputs: Callable[[Tokens, Tokens], Tensor]) -> None:
        self.outputs, self.device, self.reads = outputs, torch.device("cpu"), 0

    def root(self, prompt_ids: Sequence[Ids], copies: int) -> Tensor:
        self.prompts = [tuple(ids) for ids in prompt_ids for _ in range(copies)]
        self.nodes: list[list[Tokens]] = [[()] for _ in self.prompts]
        return torch.stack([self.outputs(p, ()) for p in self.prompts])

    def grow(self, parents: Tensor, tokens: Tensor) -> Tensor:
        out = []
        for prompt, nodes, above, read in zip(self.prompts, self.nodes, parents.tolist(), tokens.tolist(), strict=True):
            new = [(*nodes[p + 1], t) for p, t in zip(above, read, strict=True)]
            nodes += new
            self.reads += len(new)
            out.append(torch.stack([self.outputs(prompt, n) for n in new]))
        return torch.stack(out)

    def keep(self, rows: Tensor, nodes: Tensor) -> None:
        self.prompts = [self.prompts[i] for i in rows.tolist()]
        self.nodes = [[(), *(self.nodes[i][n + 1] for n in row)] for i, row in zip(rows.tolist(), nodes.tolist(), strict=True)]


@dataclass
class Table:
    """A policy over all replies, and their rewards; see the module."""

    key: Key
    steps: int = 3
    spread: float = 1.0
    memory: dict[Tokens, Tensor] = field(default_factory=dict)
    known: dict[Tokens, Tensor] = field(default_factory=dict)

    def logits(self, prompt: Tokens, prefix: Tokens) -> Tensor:
        """[V] float64; padding and unknown are never written."""
        name = (*prompt, -1, *prefix)
        if name not in self.memory:
            drawn = (self.key / "logits" / str(name)).generator().normal(scale=self.spread, size=VOCABULARY)
            drawn[[0, 2]] = -np.inf
            self.memory[name] = torch.tensor(drawn)
        return self.memory[name]

    def reward(self, prompt: Tokens, reply: Tokens) -> float:
        """Of a whole reply; no two are equal."""
        return float((self.key / "reward" / str((prompt, reply))).generator().normal())

    @cached_property
    def replies(self) -> list[Tokens]:
        """Every reply: 3^0 + ... + 3^(steps - 1) that end, and 3^steps that do not."""
        bodies = [b for n in range(self.steps + 1) for b in product(range(3, VOCABULARY), repeat=n)]
        return [b if len(b) == self.steps else (*b, EOS) for b in bodies]

    def logp(self, prompt: Tokens, reply: Tokens) -> float:
        return float(sum(self.logits(prompt, reply[:t]).log_softmax(0)[token] for t, token in enumerate(reply)))

    def under(self, prompt: Tokens, prefix: Tokens) -> tuple[list[Tokens], Tensor, Tensor]:
        """Replies that begin so, their log-probabilities and rewards."""
        if prompt not in self.known:
            logp, reward = ([f(prompt, r) for r in self.replies] for f in (self.logp, self.reward))
            self.known[prompt] = torch.tensor([logp, reward], dtype=torch.float64)
        places = [i for i, r in enumerate(self.replies) if r[: len(prefix)] == prefix]
        logp_here, reward_here = self.known[prompt][:, places]
        return [self.replies[i] for i in places], logp_here, reward_here

    def soft(self, strength: float) -> Callable[[Tokens, Tokens], Tensor]:
        """(1 / strength) log E[exp(strength reward) | prefix] by summing; the mean at strength 0."""
        return cache(lambda prompt, prefix: soft_value(*self._under(prompt, prefix), strength)[None])

    def best(self, prompt: Tokens, prefix: Tokens) -> Tensor:
        """The most that can still be reached."""
        return self._under(prompt, prefix)[1].max()[None]

    def _under(self, prompt: Tokens, prefix: Tokens) -> tuple[Tensor, Tensor]:
        if prefix and {0, 2} & set(prefix):  # never written; the number means nothing
            return torch.zeros(1).double(), torch.zeros(1).double()
        return self.under(prompt, prefix)[1:]

    def score(self, prompts: Sequence[Conversation], replies: Sequence[Reply], sequences: Sequences | None = None) -> Tensor:
        """As a reward reads it: text and whether it ended."""
        ids = dict(zip(WORDS, range(3, VOCABULARY), strict=True))
        rows = [(*(ids[w] for w in r.text.split()), *([EOS] if r.finished else [])) for r in replies]
        return torch.tensor([self.reward(prompt_ids(p), r) for p, r in zip(prompts, rows, strict=True)])


def prompt_ids(prompt: Conversation) -> Tokens:
    """Of a prompt of words."""
    return tuple(3 + WORDS.index(w) for w in str(prompt).split())


def parts_of(world: Table, **more: object) -> DecodingParts:
    """The table as everything that decoders are built from, with mean values as prefix scorer and value model unless told otherwise."""
    given: dict[str, object] = {
        "tokenizer": tiny_tokenizer(WORDS),
        "policy": lambda: TableTree(world.logits),
        "max_tokens": world.steps,
        "reward": world,
        "prefix": lambda: TableTree(world.soft(0.0)),
        "value": lambda: TableTree(world.soft(0.0)),
        "reference": lambda: TableTree(world.logits),
    }
    return DecodingParts(**{**given, **more})  # type: ignore[arg-type]


def asked_of(*prompts: str, key: Key | None = None, num_samples: int = 1, first_row: int = 0) -> Asked:
    """Prompts of words as rows."""
    ids = tuple(prompt_ids(p) for p in prompts)
    return Asked(prompts=prompts, ids=ids, key=key or Key(7), num_samples=num_samples, first_row=first_row)


def replies_of(decoded: Decoded) -> list[Tokens]:
    """Tokens of each row's reply."""
    seq = decoded.sequences
    return [tuple(row[valid].tolist()) for row, valid in zip(seq.replies, seq.mask, strict=True)]
