"""How prompts with replies lie in one pass: real tokens only, every distinct prompt once, and like lengths attending together.

A padded attention costs what its longest row costs. Rows are therefore attended in parts of like lengths: a part is closed where its
padding would cost more than another call. Each row still sees exactly its own prompt and reply, so the numbers are the same up to rounding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from trueup.data.tokens import Sequences

CALL = 2**21
"""What one more attention call costs on a CPU, in query-key pairs times width."""


class Grid(NamedTuple):
    """Where the real tokens of a padded [rows, columns] lie."""

    rows: int
    columns: int
    where: Tensor | None
    """[n] flat positions; None where they are 0, 1, ..., n - 1 and nothing is padded."""

    def spread(self, flat: Tensor) -> Tensor:
        """[n, W] -> [rows, columns, W], 0 in padding."""
        if self.where is not None:
            flat = flat.new_zeros(self.rows * self.columns, flat.shape[1]).index_copy(0, self.where, flat)
        return flat.view(self.rows, self.columns, flat.shape[1])

    def gather(self, padded: Tensor) -> Tensor:
        """The inverse of `spread`; more dimensions after the second are joined."""
        flat = padded.reshape(self.rows * self.columns, -1)
        return flat if self.where is None else flat.index_select(0, self.where)


class Part(NamedTuple):
    """Rows of like lengths; prompts and replies both begin in column 0."""

    prompts: Grid
    """Distinct prompts: each token looks at those before it and at itself."""
    replies: Grid
    which: Tensor
    """[b] prompt of each row, counted in this part."""
    each: int | None
    """Rows of every prompt, where all have as many and they are neighbours, as the replies of pairs and groups are."""
    seen: Tensor
    """[b, 1, T, P+T] float32, what reply tokens look at: 0, or -inf where they do not. A mask of bools would be made into this a layer."""
    real: Tensor
    """[b, 1, 1, P+T] bool, all tokens of a row."""

    def shared(self, prompts: Tensor) -> Tensor:
        """[N, P, W] of distinct prompts -> [b, P, W] of rows."""
        if self.each is None:
            return prompts.index_select(0, self.which)
        return prompts[:, None].expand(-1, self.each, -1, -1).flatten(0, 1)


class Layout(NamedTuple):
    """A flat batch of n real tokens: of each part its distinct prompts, then its replies."""

    parts: list[Part]
    counts: list[int]
    """Tokens of each part's prompts and of its replies, in turn."""
    tokens: Tensor
    """[n] ids."""
    positions: Tensor
    """[n] place of each token in its row, from 0."""
    row: Tensor
    """[B] rows of the table, in the order of the parts."""
    before: Tensor
    """[B] place of the last prompt token, in the order of the parts."""
    last: Tensor
    """[B] place of the last token (of the prompt where the reply is empty), in the order of the parts."""
    replies: Tensor
    """[m] places of all reply tokens."""
    grid: Grid
    """Of these in the table's [B, T]."""


def lay_out(sequences: Sequences, call: float) -> Layout:
    """The layout of a table.

    Args:
        sequences: prompts with replies.
        call: what one more attention call costs, in query-key pairs; infinite for a single part.
    """
    found, which = torch.unique(
        torch.where(sequences.prompt_mask, sequences.tokens[:, : sequences.prompt_width], -1), dim=0, return_inverse=True
    )
    widths, steps = (found >= 0).sum(1), sequences.mask.sum(1)
    rows = like_lengths(widths.tolist(), steps.tolist(), which.tolist(), call)
    pieces, start = [], 0
    for chosen in rows:
        pieces.append(_piece(sequences, found, which, widths, steps, torch.tensor(chosen, dtype=torch.int64, device=found.device), start))
        start += sum(pieces[-1].counts)
    tokens, positions, row, before, last, replies, where = (
        torch.cat([getattr(piece, name) for piece in pieces])
        for name in ("tokens", "positions", "row", "before", "last", "replies", "where")
    )
    plain = len(pieces) == 1 and bool(sequences.mask.all())
    return Layout(
        parts=[piece.part for piece in pieces],
        counts=[n for piece in pieces for n in piece.counts],
        tokens=tokens,
        positions=positions,
        row=row,
        before=before,
        last=last,
        replies=replies,
        grid=Grid(len(sequences), sequences.mask.shape[1], None if plain else where),
    )


def like_lengths(widths: Sequence[int], steps: Sequence[int], which: Sequence[int], call: float) -> list[list[int]]:
    """Rows in parts whose padding costs less than another call would; rows of one prompt stay together.

    Args:
        widths: tokens of each distinct prompt.
        steps: reply tokens of each row.
        which: prompt of each row.
        call: what one more call costs, in query-key pairs.
    """
    if math.isinf(call) or not which:
        return [list(range(len(which)))]
    groups: list[list[int]] = [[] for _ in widths]
    for row, prompt in enumerate(which):
        groups[prompt].append(row)
    longest = [max(steps[row] for row in group) for group in groups]
    parts: list[list[int]] = []
    width = reply = rows = prompts = needed = 0
    for i in sorted(range(len(widths)), key=lambda i: (widths[i], longest[i]), reverse=True):
        own = _pairs(1, len(groups[i]), widths[i], longest[i])
        wide, long = max(width, widths[i]), max(reply, longest[i])
        waste = _pairs(prompts + 1, rows + len(groups[i]), wide, long) - needed - own
        if not parts or waste > call:
            parts.append([])
            wide, long, rows, prompts, needed = widths[i], longest[i], 0, 0, 0
        parts[-1] += groups[i]
        width, reply, rows, prompts, needed = wide, long, rows + len(groups[i]), prompts + 1, needed + own
    return [sorted(part) for part in parts]


def _pairs(prompts: int, rows: int, width: int, steps: int) -> int:
    """Query-key pairs of a padded part."""
    return prompts * width**2 + rows * steps * (width + steps)


class _Piece(NamedTuple):
    """A part, and its share of the layout's columns."""

    part: Part
    counts: list[int]
    tokens: Tensor
    positions: Tensor
    row: Tensor
    before: Tensor
    last: Tensor
    replies: Tensor
    where: Tensor


def _piece(sequences: Sequences, found: Tensor, which: Tensor, widths: Tensor, steps: Tensor, rows: Tensor, start: int) -> _Piece:
    """The part of these rows; its tokens begin at ``start`` in the flat batch.

    Args:
        sequences: the table.
        found: [N, P] distinct prompts, -1 in padding.
        which: [B] prompt of each row.
        widths: [N] tokens of each prompt.
        steps: [B] tokens of each reply.
        rows: [b] rows of the part.
        start: tokens of the parts before.
    """
    distinct, inner = torch.unique(which[rows], return_inverse=True)
    width, step = widths[distinct], steps[rows]
    columns, times = (torch.arange(_longest(n), device=rows.device) for n in (width, step))
    here, said = columns < width[:, None], times < step[:, None]
    ids, own = found[distinct], torch.ones(len(times), len(times), dtype=torch.bool, device=rows.device).tril()
    prompt_tokens, reply_tokens = int(width.sum()), int(step.sum())
    before = start - 1 + width.cumsum(0)[inner]
    behind = start + prompt_tokens - 1 + step.cumsum(0)
    seen = torch.cat([here[inner][:, None].expand(-1, len(times), -1), own.expand(len(rows), -1, -1)], 2)
    return _Piece(
        part=Part(
            prompts=_grid(here),
            replies=_grid(said),
            which=inner,
            each=_evenly(inner, len(distinct)),
            seen=torch.zeros(seen.shape, device=rows.device).masked_fill_(~seen, -math.inf)[:, None],
            real=torch.cat([here[inner], said], 1)[:, None, None],
        ),
        counts=[prompt_tokens, reply_tokens],
        tokens=torch.cat([ids[ids >= 0], sequences.replies[rows][:, : len(times)][said]]),
        positions=torch.cat([columns.expand_as(here)[here], (width[inner, None] + times)[said]]),
        row=rows,
        before=before,
        last=torch.where(step > 0, behind, before),
        replies=torch.arange(start + prompt_tokens, start + prompt_tokens + reply_tokens, device=rows.device),
        where=(rows[:, None] * sequences.mask.shape[1] + times)[said],
    )


def _longest(lengths: Tensor) -> int:
    return int(lengths.max()) if len(lengths) else 0


def _evenly(which: Tensor, prompts: int) -> int | None:
    """See `Part.each`."""
    each = len(which) // prompts if prompts else 0
    even = each > 0 and torch.equal(which, torch.arange(prompts, device=which.device).repeat_interleave(each))
    return each if even else None


def _grid(real: Tensor) -> Grid:
    """[rows, columns] bool as a grid."""
    return Grid(len(real), real.shape[1], None if bool(real.all()) else real.flatten().nonzero().squeeze(1))
