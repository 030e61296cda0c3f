"""A reward model with a bidirectional encoder as trunk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from trueup.core.errors import UserError
from trueup.data.rendering import roles_text
from trueup.data.rows import Conversation, Reply
from trueup.data.tokens import pad_rows
from trueup.learn.table import Table
from trueup.models.heads import last_linear
from trueup.models.loading import quiet, without_dropout
from trueup.models.policy import context_of


@dataclass(frozen=True, kw_only=True)
class Pairs(Table):
    """Prompt and reply as an encoder reads them, padded on the right."""

    tokens: Tensor
    """[B, S] int64."""
    segments: Tensor
    """[B, S] int64: 1 in the reply."""
    mask: Tensor
    """[B, S] bool."""


class EncoderReward:
    """A bidirectional encoder (BERT and its kin) with a scalar head, read where its architecture reads it.

    Args:
        model: a ``...ForSequenceClassification`` with one label.
        tokenizer: of the trunk; it needs no eos.
    """

    def __init__(self, model: Any, tokenizer: PreTrainedTokenizerFast) -> None:
        self.model: Any = without_dropout(model)
        self._tokenizer = tokenizer

    @property
    def module(self) -> nn.Module:
        """Trunk and head."""
        return self.model

    @property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        """Of the trunk."""
        return self._tokenizer

    def encode(self, prompts: Sequence[Conversation], replies: Sequence[Reply]) -> Pairs:
        """Tokens of prompt and reply with the encoder's separators; prompts are cut from the left, replies never. ``finished`` is lost."""
        rows, limit = [], context_of(self.model)
        for i, (prompt, reply) in enumerate(zip(prompts, replies, strict=True)):
            row = self._tokenizer(roles_text(prompt), reply.text, add_special_tokens=True, return_token_type_ids=True)
            excess = len(row["input_ids"]) - limit if limit else 0
            if excess > 0:
                words = self._tokenizer(roles_text(prompt), add_special_tokens=False)["input_ids"]
                if excess >= len(words):
                    raise UserError(f"the reply alone is longer than the context of {limit} tokens.", where=f"row {i}")
                inside = row["input_ids"].index(words[0])
                row = {k: list(row[k][:inside]) + list(row[k][inside + excess :]) for k in row}
            rows.append(row)
        tokens, mask = pad_rows([list(r["input_ids"]) for r in rows], self._tokenizer.pad_token_id, "right")
        segments, _ = pad_rows([list(r.get("token_type_ids", [0] * len(r["input_ids"]))) for r in rows], 0, "right")
        return Pairs(tokens=tokens, segments=segments, mask=mask)

    def score(self, features: Table) -> Tensor:
        """[B] float32 raw scores."""
        return self.outputs(features)[:, 0]

    def head_weight(self) -> Tensor:
        """[H, W] weights of the last layer."""
        return last_linear(self.model, self.model.config.num_labels).weight

    def outputs(self, features: Table) -> Tensor:
        """[B, H] float32 outputs of the head."""
        assert isinstance(features, Pairs)
        extra = {"token_type_ids": features.segments} if getattr(self.model.config, "type_vocab_size", 0) > 1 else {}
        return self.model(input_ids=features.tokens, attention_mask=features.mask.long(), **extra).logits.float()

    def save(self, folder: str | Path) -> None:
        """Write a folder that `AutoModelForSequenceClassification` and `load_reward` load."""
        with quiet():
            self.model.save_pretrained(str(folder))
        self._tokenizer.save_pretrained(str(folder))
