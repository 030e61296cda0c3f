"""Replies written segment by segment: several continuations of a prefix are drawn, and their ends are valued."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from trueup.core.errors import UserError
from trueup.data.tokens import decode_replies, pad_rows
from trueup.decoding.protocol import Asked, Cost, DecodingParts
from trueup.decoding.sample import inverse_cdf
from trueup.decoding.tokenwise import Replies
from trueup.decoding.tree import PROMPT


@dataclass(frozen=True)
class Prefix:
    """A reply up to the end of a segment."""

    reply: tuple[int, ...] = ()
    """Its tokens."""
    place: int = PROMPT
    """Number of its last node in the models' trees."""
    value: float = 0.0
    """Of a reply that ends here its reward, where there is one; else what the scorer of prefixes says."""
    logp: float = 0.0
    """log-probability under the policy of the last segment, nats."""
    total: float = 0.0
    """The same of the whole prefix."""
    length: int = 0
    """Tokens of the last segment."""
    ended: bool = False
    """The reply ends here: by itself, or because it may have no more tokens."""
    key: tuple[int, ...] = ()
    """Which continuation it is of which, from the first segment on: names its random stream."""
    logits: Tensor | None = field(default=None, compare=False, repr=False)
    """[V] the policy's, of the next token; None where the reply has ended."""


class SegmentWriter:
    """Draws continuations of prefixes, many rows and branches in one forward pass a token.

    Args:
        parts: policy, scorer of prefixes, and a reward where there is one.
        asked: the rows.
        length: most tokens of a segment.
        stops: tokens that end a segment early, such as that of a full stop.

    Raises:
        UserError: a prompt leaves no room.
    """

    def __init__(self, parts: DecodingParts, asked: Asked, length: int, stops: frozenset[int] = frozenset()) -> None:
        parts.room(asked.prompt_ids)
        assert parts.prefix is not None
        self.parts, self.asked, self.length, self.stops = parts, asked, length, stops
        self.replies, self.cost, self.prompts = Replies(parts, asked), Cost(len(asked)), asked.repeated()
        self.policy, self.prefix, self.grown = parts.policy(), parts.prefix(), 0
        logits = self.policy.root(asked.prompt_ids, asked.num_samples)
        values = self.prefix.root(asked.prompt_ids, asked.num_samples)[:, 0].tolist()
        self.starts = [Prefix(value=value, logits=row) for value, row in zip(values, logits, strict=True)]
        self.cost.policy += 1

    @torch.no_grad()
    def continued(self, wanted: Sequence[Sequence[Prefix]], width: int) -> list[list[list[Prefix]]]:
        """``width`` continuations of each prefix that has not ended.

        Args:
            wanted: for each of the rows, the prefixes to go on with; rows may have different numbers of them.
            width: continuations of each.

        Returns:
            for each row and prefix, its continuations.
        """
        jobs = [[_Branch(p, (*p.key, i)) for p in row for i in range(width)] for row in wanted]
        most = max(map(len, jobs), default=0)
        for step in range(self.length if most else 0):
            live = [[b for b in row if not b.done] for row in jobs]
            columns = max(map(len, live), default=0)
            if columns == 0:
                break
            self._write(live, columns, step)
        made = iter(self._valued([(i, b) for i, row in enumerate(jobs) for b in row]))
        return [[[next(made) for _ in range(width)] for _ in row] for row in wanted]

    def _write(self, live: list[list[_Branch]], columns: int, step: int) -> None:
        """One more token of every branch that is still open."""
        parents = torch.full((len(live), columns), PROMPT)
        logits = torch.zeros((len(live), columns, len(_known(self.starts[0].logits))))
        uniforms = torch.zeros((len(live), columns), dtype=torch.float64)
        for i, row in enumerate(live):
            for j, branch in enumerate(row):
                parents[i, j], logits[i, j] = branch.place, _known(branch.logits)
                uniforms[i, j] = branch.uniform(self.asked, i, self.length)[step]
        base = (logits / self.parts.temperature).log_softmax(2)
        tokens = inverse_cdf(base.exp().flatten(0, 1), uniforms.flatten().to(base.device)).view(len(live), columns)
        logp = base.gather(2, tokens[..., None]).squeeze(2).tolist()
        found = self.policy.grow(parents, tokens)
        values = self.prefix.grow(parents, tokens)[..., 0].tolist()
        for i, row in enumerate(live):
            for j, branch in enumerate(row):
                branch.add(int(tokens[i, j]), self.grown + j, logp[i][j], values[i][j])
                branch.ended = branch.reply[-1] == self.replies.eos or len(branch.reply) == self.parts.max_tokens
                branch.done = branch.ended or branch.length == self.length or branch.reply[-1] in self.stops
                # a copy, lest the logits of all branches stay as long as one of them
                branch.logits = None if branch.ended else found[i, j].clone()
                self.cost.policy[i] += not branch.ended
                self.cost.reward[i] += 1
        self.grown += columns

    def _valued(self, made: list[tuple[int, _Branch]]) -> list[Prefix]:
        """The branches as prefixes; what has ended gets its reward."""
        ended = [(i, b) for i, b in made if b.ended] if self.parts.reward is not None else []
        if ended and self.parts.reward is not None:
            texts = decode_replies(self.parts.tokenizer, *pad_rows([list(b.reply) for _, b in ended], self.replies.pad, "right"))
            rewards = self.parts.reward.score([self.prompts[i] for i, _ in ended], texts).tolist()
            for (i, branch), reward in zip(ended, rewards, strict=True):
                branch.value = reward
                self.cost.reward[i] += len(branch.reply)
        return [Prefix(tuple(b.reply), b.place, b.value, b.logp, b.before + b.logp, b.length, b.ended, b.key, b.logits) for _, b in made]


class _Branch:
    """A continuation while it is written."""

    def __init__(self, start: Prefix, key: tuple[int, ...]) -> None:
        self.reply, self.place, self.value, self.key = list(start.reply), start.place, start.value, key
        self.logp, self.length, self.ended, self.done = 0.0, 0, False, False
        self.logits, self.before = start.logits, start.total
        self._uniforms: np.ndarray | None = None

    def uniform(self, asked: Asked, row: int, length: int) -> np.ndarray:
        """[length] its uniform numbers: of the row's global number, and of which continuation it is of which."""
        if self._uniforms is None:
            key = asked.key / "segments"
            for name in self.key:
                key = key / name
            self._uniforms = key.uniforms([asked.first_row + row], length)[0]
        return self._uniforms

    def add(self, token: int, place: int, logp: float, value: float) -> None:
        """One more token."""
        self.reply.append(token)
        self.place, self.value, self.logp, self.length = place, value, self.logp + logp, self.length + 1


def _known(logits: Tensor | None) -> Tensor:
    """The logits of a prefix that goes on."""
    if logits is None:
        raise ValueError("a reply that has ended has no next token")
    return logits


def stop_tokens(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> frozenset[int]:
    """The ids of texts that end a segment.

    Raises:
        UserError: a text is not one token.
    """
    found = set()
    for text in texts:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        if len(ids) != 1 or ids[0] == tokenizer.unk_token_id:
            raise UserError(f"'{text}' is not one token of the policy but {len(ids)} or an unknown one.", where="stops")
        found.add(int(ids[0]))
    return frozenset(found)
