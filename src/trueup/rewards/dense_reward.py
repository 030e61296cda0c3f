"""Rewards that fall where a segment ends, not at the end of the reply (Wu et al. 2023, arXiv:2306.01693).

``r_t = sum over categories k and segments j of [t = T_kj] w_k R_k(segment j)``; the KL penalty is the optimizer's. The sum over a
reply's tokens is its score, so an optimizer that knows one number a reply can use the same reward.

Deviations:
1. Judgements are +1 or -1 times the category's weight, as in the paper's code, or the chance 1 - 2 P(error), or the output itself.
2. The last segment of a reply ends with the reply, at its end-of-sequence token; with one segment this is the usual terminal reward.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from trueup.core.config import validate
from trueup.core.errors import UserError
from trueup.data.rows import Conversation, Reply
from trueup.data.segments import Category, check_categories, decoded_ends, segment_ends, token_ends
from trueup.data.tokens import Sequences
from trueup.models.reward import TrunkReward, load_reward
from trueup.models.token_outputs import needs_trunk, read_ends, token_outputs
from trueup.ops.returns import on_last
from trueup.rewards.protocol import DenseReward, Reward
from trueup.store.atomic import write_text

CATEGORIES_FILE = "trueup_dense.json"


class Part(NamedTuple):
    """One judgement: a segment of a row under a category."""

    row: int
    category: int
    end: int
    """The character after the segment's last."""
    read: int
    """The reply token, in the reward model's tokens, at which its output is read."""


class SegmentReward:
    """A dense reward model as a reward.

    Args:
        model: a causal trunk with one output a category.
        categories: what is judged, in the order of the outputs.
        policy_tokenizer: of the policy whose sequences come with the texts; needed for `token_rewards` only.
        rows: rows scored at a time.

    Raises:
        UserError: categories and outputs do not agree, or the model reads whole texts.
    """

    def __init__(
        self,
        model: TrunkReward,
        categories: Sequence[Category],
        policy_tokenizer: PreTrainedTokenizerFast | None = None,
        rows: int = 256,
    ) -> None:
        self.model, self.categories, self.policy_tokenizer, self.rows = needs_trunk(model), tuple(categories), policy_tokenizer, rows
        check_categories(self.categories, model.head_weight().shape[0])

    def score(self, prompts: Sequence[Conversation], replies: Sequence[Reply], sequences: Sequences | None = None) -> Tensor:
        """[B] Sum over the segments of each reply; see `Reward.score`."""
        parts, values = self.judged(prompts, replies)
        return torch.zeros(len(replies)).index_add(0, torch.tensor([p.row for p in parts], dtype=torch.int64), values)

    def token_rewards(self, prompts: Sequence[Conversation], replies: Sequence[Reply], sequences: Sequences) -> Tensor:
        """[B, T] see `DenseReward.token_rewards`.

        Raises:
            ValueError: made without the policy's tokenizer.
        """
        if self.policy_tokenizer is None:
            raise ValueError("token_rewards needs the policy's tokenizer")
        parts, values = self.judged(prompts, replies)
        tokens = decoded_ends(self.policy_tokenizer, sequences.replies, sequences.mask)
        row, column = (torch.zeros(len(parts), dtype=torch.int64) for _ in range(2))
        for i, p in enumerate(parts):
            row[i], column[i] = p.row, token_ends([p.end], tokens[p.row], len(replies[p.row].text.rstrip()))[0]
        placed = torch.zeros(sequences.mask.shape).index_put((row, column), values, accumulate=True)
        return placed.to(sequences.tokens.device)

    @torch.no_grad()
    def judged(self, prompts: Sequence[Conversation], replies: Sequence[Reply]) -> tuple[list[Part], Tensor]:
        """Every segment of every reply under every category, and [N] what each is worth.

        A segment that the reward model cut off, where it cuts replies, is worth nothing and is left out.
        """
        features = self.model.encode(prompts, replies)
        parts = self._parts(replies, features)
        found = []
        for rows in torch.arange(len(features)).split(self.rows):
            output, first = token_outputs(self.model, features.take(rows)).cpu(), int(rows[0])
            found += [output[p.row - first, p.read, p.category] for p in parts if first <= p.row < first + len(rows)]
        said = torch.stack(found) if found else torch.zeros(0)
        values = torch.zeros(len(parts))
        for c, category in enumerate(self.categories):
            here = torch.tensor([p.category == c for p in parts], dtype=torch.bool)
            values[here] = worth(said[here], category)
        return parts, values

    def _parts(self, replies: Sequence[Reply], features: Sequences) -> list[Part]:
        parts = []
        lengths = features.mask.sum(1).tolist()
        for row, (reply, tokens, length) in enumerate(zip(replies, read_ends(self.model, replies), lengths, strict=True)):
            for c, category in enumerate(self.categories):
                ends = segment_ends(reply.text, category.unit) if tokens else []
                places = token_ends(ends, tokens, len(reply.text.rstrip()))
                parts += [Part(row, c, e, t - len(tokens) + length) for e, t in zip(ends, places, strict=True)]
        return [p for p in parts if p.read >= 0]


def placed_reward(reward: Reward, prompts: Sequence[Conversation], replies: Sequence[Reply], sequences: Sequences) -> Tensor:
    """[B, T] What a reward gives at each token of the policy: a dense one where it says, another its score on the last token."""
    if isinstance(reward, DenseReward):
        return reward.token_rewards(prompts, replies, sequences)
    return on_last(reward.score(prompts, replies, sequences).to(sequences.tokens.device), sequences.mask)


def worth(output: Tensor, category: Category) -> Tensor:
    """Judgements in reward units, from outputs: any shape -> the same.

    Args:
        output: log-odds that a segment bears the category's label; for the reading ``value``, the number itself.
        category: its weight, its reading, and whether the label is an error.
    """
    marked = -category.weight if category.labels_are == "errors" else category.weight
    if category.reading == "sign":
        return torch.where(output > 0, marked, -marked)
    return marked * (torch.tanh(output / 2) if category.reading == "chance" else (output - category.mean) / category.spread)


def save_dense(folder: str | Path, reward: SegmentReward) -> None:
    """Write the model and its categories."""
    reward.model.save(folder)
    write_text(Path(folder) / CATEGORIES_FILE, json.dumps([c.model_dump(mode="json") for c in reward.categories], indent=1))


def load_dense(folder: str | Path, policy_tokenizer: PreTrainedTokenizerFast | None = None) -> SegmentReward:
    """Read what `save_dense` wrote.

    Raises:
        UserError: no dense reward model there, or a damaged one.
    """
    path = Path(folder) / CATEGORIES_FILE
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"is no dense reward model: it has no {CATEGORIES_FILE}. Save one with `save_dense`.", where=str(folder)) from error
    except ValueError as error:
        raise UserError(f"is not valid JSON ({error}). Copy the folder again.", where=str(path)) from error
    if not isinstance(found, list) or not all(isinstance(x, dict) for x in found):
        raise UserError("must hold a list of categories.", where=str(path))
    categories = [validate(x, Category, where=f"{path}, category {i}") for i, x in enumerate(found, 1)]
    return SegmentReward(needs_trunk(load_reward(folder)), categories, policy_tokenizer)
