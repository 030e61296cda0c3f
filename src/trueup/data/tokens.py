"""Text to tokens and back. Masks are made here (or by the sampler) and travel with the tokens; they are never recovered from values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from trueup.core.errors import UserError, one_line
from trueup.data.rendering import Rendering, render_prompt
from trueup.data.rows import Conversation, Reply
from trueup.learn.table import Table
from trueup.ops.masking import last_valid

Ids = list[int]
Truncate = Literal["error", "left"]


@dataclass(frozen=True, kw_only=True)
class Sequences(Table):
    """Prompts with replies: prompts padded on the left, replies on the right, so that every reply begins in column P."""

    tokens: Tensor
    """[B, P+T] int64."""
    prompt_mask: Tensor
    """[B, P] bool, True on prompt tokens."""
    mask: Tensor
    """[B, T] bool, True on reply tokens, end-of-sequence included."""

    @property
    def prompt_width(self) -> int:
        """P, the column where replies begin."""
        return self.prompt_mask.shape[1]

    @property
    def replies(self) -> Tensor:
        """[B, T] The reply columns of ``tokens``."""
        return self.tokens[:, self.prompt_width :]

    def attention(self) -> Tensor:
        """[B, P+T] int64, 1 on real tokens: the ``attention_mask`` that models take."""
        return torch.cat([self.prompt_mask, self.mask], 1).long()

    def positions(self) -> Tensor:
        """[B, P+T] int64, the number of real tokens before each one: the ``position_ids`` that models take."""
        return (self.attention().cumsum(1) - 1).clamp(min=0)

    def last(self) -> Tensor:
        """[B] Column of each row's last real token (of the prompt where the reply is empty)."""
        return last_valid(torch.cat([self.prompt_mask, self.mask], 1))

    @property
    def lengths(self) -> Tensor:
        """[B] Real tokens of each row; [B, K] of a stacked table."""
        return self.prompt_mask.sum(-1) + self.mask.sum(-1)

    def trimmed(self) -> Sequences:
        """The same rows without the columns that are padding in all of them; one column of each half stays."""
        if not len(self):
            return self
        first = int(self.prompt_mask.any(0).long().argmax()) if self.prompt_mask.any() else self.prompt_width - 1
        wide = max(int(self.mask.sum(1).max()), 1)
        return Sequences(
            tokens=self.tokens[:, first : self.prompt_width + wide],
            prompt_mask=self.prompt_mask[:, first:],
            mask=self.mask[:, :wide],
        )

    def widen(self, prompt_width: int, reply_width: int, pad_id: int) -> Sequences:
        """The same rows in wider columns, so that tables of different widths can be joined; values in padding mean nothing."""
        rows, left, right = len(self), prompt_width - self.prompt_width, reply_width - self.mask.shape[1]
        if left < 0 or right < 0:
            raise ValueError(f"cannot narrow {self.prompt_width}+{self.mask.shape[1]} columns to {prompt_width}+{reply_width}")
        pad = self.tokens.new_full((rows, left), pad_id), self.tokens.new_full((rows, right), pad_id)
        off = self.mask.new_zeros((rows, left)), self.mask.new_zeros((rows, right))
        return Sequences(
            tokens=torch.cat([pad[0], self.tokens, pad[1]], 1),
            prompt_mask=torch.cat([off[0], self.prompt_mask], 1),
            mask=torch.cat([self.mask, off[1]], 1),
        )


def load_tokenizer(
    path: str | Path, pad_token: str | None = None, *, needs_eos: bool = True, any_pad: bool = False
) -> PreTrainedTokenizerFast:
    """Load a tokenizer that has an end-of-sequence and a padding token.

    Args:
        path: a Hugging Face folder or hub name.
        pad_token: an existing token to pad with, where the tokenizer has none; any will do, eos included: masks travel with the data.
        needs_eos: whether replies must be able to end; encoders do without.
        any_pad: where nothing stands in for padding, the first ordinary token does.

    Raises:
        UserError: nothing can be loaded from there, there is no eos token, or none to pad with.
    """
    where = str(path)
    try:
        tokenizer = AutoTokenizer.from_pretrained(where, trust_remote_code=False)
    except Exception as error:  # a broken tokenizer.json raises a bare Exception from Rust
        raise UserError(
            f"no tokenizer can be loaded ({one_line(error)}). Give a folder with tokenizer.json or a hub name.", where=where
        ) from error
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise UserError(f"{type(tokenizer).__name__} has no tokenizer.json. Save the tokenizer as a fast one.", where=where)
    return check_tokenizer(tokenizer, where, pad_token, needs_eos=needs_eos, any_pad=any_pad)


def check_tokenizer(
    tokenizer: PreTrainedTokenizerFast, where: str, pad_token: str | None = None, *, needs_eos: bool = True, any_pad: bool = False
) -> PreTrainedTokenizerFast:
    """The tokenizer with eos and pad set, or a `UserError` that says how to set them."""
    if needs_eos and tokenizer.eos_token_id is None:
        raise UserError("the tokenizer has no end-of-sequence token, so no reply could end. Set it in tokenizer_config.json.", where=where)
    if pad_token is not None:
        if pad_token not in tokenizer.get_vocab():
            raise UserError(f"pad_token {pad_token!r} is not in the vocabulary. Name an existing token.", where=where)
        tokenizer.pad_token = pad_token
    if tokenizer.pad_token_id is None:
        stand_in = tokenizer.unk_token_id is not None and tokenizer.unk_token_id != tokenizer.eos_token_id
        if not stand_in and not any_pad:
            raise UserError(
                "the tokenizer has no padding token, and no unknown token apart from eos to stand in. "
                "Set `pad_token` in tokenizer_config.json or in the configuration to an existing token.", where=where,
            )  # fmt: skip
        first = min(set(tokenizer.get_vocab().values()) - set(tokenizer.all_special_ids))
        tokenizer.pad_token = tokenizer.unk_token if stand_in else tokenizer.convert_ids_to_tokens(first)
    return tokenizer


def encode_prompts(
    tokenizer: PreTrainedTokenizerFast,
    conversations: Sequence[Conversation],
    max_tokens: int | None = None,
    *,
    truncate: Truncate = "error",
    rendering: Rendering = "template",
) -> list[Ids]:
    """Token ids of prompts, with what the tokenizer puts in front of a text (bos) and without what it puts behind it.

    Args:
        tokenizer: the reader's tokenizer.
        conversations: prompts.
        max_tokens: the most tokens a prompt may have.
        truncate: what to do with longer ones; ``left`` drops the oldest tokens but keeps bos.
        rendering: see `render_prompt`.

    Raises:
        UserError: a prompt is too long (with ``error``), or has no token at all.
    """
    texts = [render_prompt(tokenizer, c, rendering) for c in conversations]
    front = _front(tokenizer)
    # a chat template writes its own bos; plain text gets the tokenizer's
    fronts = [front if isinstance(c, str) else [] for c in conversations]
    rows = []
    for i, (start, ids) in enumerate(zip(fronts, _encode(tokenizer, texts), strict=True)):
        row = start + ids
        if not row:
            raise UserError("the prompt is empty and the tokenizer has no beginning-of-sequence token.", where=f"prompt {i}")
        if max_tokens is not None and len(row) > max_tokens:
            if truncate == "error":
                raise UserError(
                    f"has {len(row)} tokens where at most {max_tokens} fit: {texts[i][:60]!r}... Shorten it, or set `truncate: left`.",
                    where=f"prompt {i}",
                )
            row = cut_left(row, max_tokens, len(start))
        rows.append(row)
    return rows


def encode_replies(tokenizer: PreTrainedTokenizerFast, replies: Sequence[Reply]) -> list[Ids]:
    """Token ids of replies, eos at the end of finished ones. Replies are never truncated."""
    eos = tokenizer.eos_token_id
    return [ids + [eos] * reply.finished for ids, reply in zip(_encode(tokenizer, [r.text for r in replies]), replies, strict=True)]


def cut_left(ids: Ids, max_tokens: int, keep_front: int = 0) -> Ids:
    """The last tokens of a row, after its first ``keep_front`` ones."""
    tail = max_tokens - keep_front
    return ids[:keep_front] + (ids[-tail:] if tail > 0 else []) if len(ids) > max_tokens else ids


def fit(
    tokenizer: PreTrainedTokenizerFast,
    prompt_ids: Sequence[Ids],
    reply_ids: Sequence[Ids],
    max_tokens: int | None,
    truncate: Truncate = "left",
) -> list[Ids]:
    """Prompts cut from the left so that prompt and whole reply fit: cutting replies could make chosen and rejected equal.

    Raises:
        UserError: a reply leaves no room for one prompt token, or anything is too long and ``truncate`` is ``error``.
    """
    if max_tokens is None:
        return list(prompt_ids)
    front, rows = _front(tokenizer), []
    for i, (prompt, reply) in enumerate(zip(prompt_ids, reply_ids, strict=True)):
        room = max_tokens - len(reply)
        if room < 1:
            raise UserError(
                f"the reply alone has {len(reply)} tokens where prompt and reply together may have {max_tokens}.", where=f"row {i}"
            )
        if len(prompt) > room and truncate == "error":
            raise UserError(f"prompt and reply have {len(prompt) + len(reply)} tokens where {max_tokens} fit.", where=f"row {i}")
        rows.append(cut_left(prompt, room, len(front) if prompt[: len(front)] == front and room > len(front) else 0))
    return rows


def pack(prompt_ids: Sequence[Ids], reply_ids: Sequence[Ids], pad_id: int) -> Sequences:
    """Rows of ids as one table: prompts flush right, replies flush left, the rest ``pad_id``."""
    if len(prompt_ids) != len(reply_ids):
        raise ValueError(f"{len(prompt_ids)} prompts but {len(reply_ids)} replies")
    prompt, prompt_mask = pad_rows(prompt_ids, pad_id, "left")
    reply, mask = pad_rows(reply_ids, pad_id, "right")
    return Sequences(tokens=torch.cat([prompt, reply], 1), prompt_mask=prompt_mask, mask=mask)


def pad_rows(rows: Sequence[Ids], pad_id: int, side: Literal["left", "right"]) -> tuple[Tensor, Tensor]:
    """[B, W] ids padded on one side, and [B, W] bool where they are real; W is at least 1."""
    width = max([1, *map(len, rows)])
    tokens = torch.full((len(rows), width), pad_id, dtype=torch.int64)
    mask = torch.zeros((len(rows), width), dtype=torch.bool)
    for i, ids in enumerate(rows):
        columns = slice(width - len(ids), width) if side == "left" else slice(0, len(ids))
        tokens[i, columns] = torch.tensor(ids, dtype=torch.int64)
        mask[i, columns] = True
    return tokens, mask


def decode_replies(tokenizer: PreTrainedTokenizerFast, tokens: Tensor, mask: Tensor) -> list[Reply]:
    """Texts of replies; finished where the last valid token is eos.

    Only that eos is left out of the text: a policy that writes ``<pad>`` or ``<unk>`` is shown to write it.

    Args:
        tokenizer: of the policy that wrote them.
        tokens: [B, T] reply tokens.
        mask: [B, T] True on reply tokens.
    """
    rows = [row[valid].tolist() for row, valid in zip(tokens, mask, strict=True)]
    ended = [bool(row) and row[-1] == tokenizer.eos_token_id for row in rows]
    bodies = [row[:-1] if end else row for row, end in zip(rows, ended, strict=True)]
    texts = tokenizer.batch_decode(bodies, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return [Reply(text=text, finished=end) for text, end in zip(texts, ended, strict=True)]


def same_tokenizer(a: PreTrainedTokenizerFast, b: PreTrainedTokenizerFast) -> bool:
    """Whether two tokenizers give every text the same ids, special tokens and chat template included."""
    if a is b:
        return True
    special = [(t.eos_token_id, t.bos_token_id, t.chat_template, t.get_vocab()) for t in (a, b)]
    return special[0] == special[1] and a.backend_tokenizer.to_str() == b.backend_tokenizer.to_str()


def _encode(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> list[Ids]:
    if not texts:
        return []
    return [list(ids) for ids in tokenizer(list(texts), add_special_tokens=False, truncation=False, padding=False)["input_ids"]]


def _front(tokenizer: PreTrainedTokenizerFast) -> Ids:
    """Special tokens that the tokenizer writes before a text."""
    bare, full = (list(tokenizer("a", add_special_tokens=special)["input_ids"]) for special in (False, True))
    for start in range(len(full) - len(bare) + 1):
        if full[start : start + len(bare)] == bare:
            return full[:start]
    return []
