"""Replies cut into segments: clauses, sentences, lines or the whole; what each bears, and at which token it ends.

Segments follow one another without a gap, so a segment is given by the character after its last; its tokens are those after the
segment before. The last segment takes the end-of-sequence token with it.

Deviations:
1. Sentences and clauses are cut by rule, not by a parser: after ``. ! ?`` before a space (abbreviations and initials excepted), and
   after ``, ; :`` where both parts keep at least five words (five as in the code of Wu et al. 2023, arXiv:2306.01693).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

from pydantic import Field
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from trueup.core.config import Config
from trueup.core.errors import UserError
from trueup.data.rows import Reply
from trueup.data.spans import Marked, Span

Unit = Literal["clause", "sentence", "line", "reply"]
CLAUSE_WORDS = 5
"""Fewest words of a clause that is not a sentence of its own."""
_SENTENCE_END = re.compile(r"[.!?]+[\"'”’)\]]*(?=\s)|\n")
_CLAUSE_END = re.compile(r"[,;:][\"'”’)\]]*(?=\s)")
_NO_END = re.compile(r"(?:\b(?:Mr|Mrs|Ms|Dr|Prof|St|Jr|Sr|vs|etc|e\.g|i\.e|cf|No|Inc)|\b[A-Za-z]|\b(?:[A-Z]\.)+[A-Z])\.$")


class Category(Config):
    """One kind of judgement: which labels belong to it, of which segments it speaks, and what it is worth."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    """Short name, part of metric names."""
    labels: tuple[str, ...] = Field(min_length=1)
    """Labels of spans that belong to it."""
    unit: Unit = "sentence"
    """What is judged."""
    labels_are: Literal["errors", "merits"] = "errors"
    """Whether bearing the label lowers the reward or raises it."""
    unmarked: Literal["clean", "unknown"] = "clean"
    """What a segment without a span of this category is: without the label, or not judged."""
    unknown_labels: tuple[str, ...] = ()
    """Labels of other categories that leave an unmarked segment not judged: annotators of Wu et al. marked facts only where nothing
    else was wrong."""
    min_words: int = Field(default=1, ge=1)
    """Spans of fewer words are taken for slips of the annotator."""
    weight: float = 1.0
    """w_k: what a segment's judgement is worth, in reward units."""
    reading: Literal["sign", "chance", "value"] = "sign"
    """Judgement of a segment: +1 or -1 by the likelier side, 1 - 2 P(error), or the output itself, less ``mean``, over ``spread``."""
    mean: float = 0.0
    """Of the outputs on reference replies, for ``value``."""
    spread: float = Field(default=1.0, gt=0)
    """Deviation of the outputs on reference replies, for ``value``."""


class Segment(NamedTuple):
    """A segment of a reply, and what was said of it."""

    end: int
    """The character after its last."""
    target: float | None
    """Degree to which it bears the category's label, 0 without it; None where it was not judged."""


def segment_ends(text: str, unit: Unit) -> list[int]:
    """Characters after the last of each segment, ascending; spaces between segments belong to the later one.

    Args:
        text: of a reply.
        unit: what a segment is. The whole reply is one segment even where it is empty; an empty text has no other segments.
    """
    if unit == "reply":
        return [len(text)]
    if not text.strip():
        return []
    breaks = [i + 1 for i, c in enumerate(text) if c == "\n"] if unit == "line" else _sentence_breaks(text)
    if unit == "clause":
        breaks = sorted({*breaks, *_clause_breaks(text, [0, *breaks, len(text)])})
    return _trimmed(text, [*breaks, len(text)])


def segments_of(row: Marked, category: Category) -> list[Segment]:
    """The segments of a reply with a category's targets; a span counts in every segment of which it holds a character that is no space.

    Where several spans of the category meet in a segment, the largest value counts.
    """
    ends = segment_ends(row.reply.text, category.unit)
    own = [s for s in row.spans if s.label in category.labels and _words(row.reply.text, s) >= category.min_words]
    foreign = [s for s in row.spans if s.label in category.unknown_labels]
    found = []
    for start, end in zip([0, *ends[:-1]], ends, strict=True):
        marks = [s.value for s in own if _touches(row.reply.text, s, start, end)]
        clean = category.unmarked == "clean" and not any(_touches(row.reply.text, s, start, end) for s in foreign)
        found.append(Segment(end, max(marks) if marks else 0.0 if clean else None))
    return found


def encoded_ends(tokenizer: PreTrainedTokenizerFast, replies: Sequence[Reply]) -> list[list[int]]:
    """For each token of `encode_replies`, the number of characters of the text up to its end."""
    if not replies:
        return []
    offsets = tokenizer([r.text for r in replies], add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    return [[int(b) for _, b in row] + [len(reply.text)] * reply.finished for row, reply in zip(offsets, replies, strict=True)]


def decoded_ends(tokenizer: PreTrainedTokenizerFast, tokens: Tensor, mask: Tensor) -> list[list[int]]:
    """For each token that a policy wrote, the number of characters of its text up to there; a character cut in two counts with its end.

    Args:
        tokenizer: of the policy.
        tokens: [B, T] reply tokens.
        mask: [B, T] True on reply tokens.
    """
    found = []
    for row, valid in zip(tokens, mask, strict=True):
        ids = row[valid].tolist()
        body = ids[:-1] if ids and ids[-1] == tokenizer.eos_token_id else ids
        heads = [body[: i + 1] for i in range(len(body))]
        texts = tokenizer.batch_decode(heads, skip_special_tokens=False, clean_up_tokenization_spaces=False) if heads else []
        lengths = [len(t.rstrip("\ufffd")) for t in texts]
        found.append(lengths + lengths[-1:] * (len(ids) - len(body)) if lengths else [0] * len(ids))
    return found


def token_ends(ends: Sequence[int], tokens: Sequence[int], whole: int) -> list[int]:
    """The token at which each segment ends: the first that covers its last character, at most the last one.

    Args:
        ends: characters after the last of each segment.
        tokens: characters up to the end of each token, at least one token.
        whole: characters of the text without spaces at its end; the segment that reaches it ends at the last token.

    Returns:
        Positions, one a segment.
    """
    last = len(tokens) - 1
    return [last if end >= whole else next((t for t, reached in enumerate(tokens) if reached >= end), last) for end in ends]


def check_categories(categories: Sequence[Category], outputs: int) -> None:
    """Whether each category has its output.

    Raises:
        UserError: no category, two of one name, or another number of outputs.
    """
    names = [c.name for c in categories]
    if not names or len(set(names)) < len(names):
        raise UserError(f"needs at least one category, each of its own name; got {names}.", where="categories")
    if len(names) != outputs:
        raise UserError(f"{len(names)} categories need a model with as many outputs, and it has {outputs}.", where="categories")


def _sentence_breaks(text: str) -> list[int]:
    return [m.end() for m in _SENTENCE_END.finditer(text) if not _NO_END.search(text[: m.end()])]


def _clause_breaks(text: str, bounds: list[int]) -> list[int]:
    found = []
    for start, stop in pairwise(bounds):
        begin = start
        for m in _CLAUSE_END.finditer(text, start, stop):
            if min(len(text[begin : m.end()].split()), len(text[m.end() : stop].split())) >= CLAUSE_WORDS:
                found.append(m.end())
                begin = m.end()
    return found


def _trimmed(text: str, breaks: list[int]) -> list[int]:
    """Ends without the spaces before them, and without segments of spaces only."""
    found: list[int] = []
    for end in breaks:
        trimmed = len(text[:end].rstrip())
        if trimmed > (found[-1] if found else 0):
            found.append(trimmed)
    return found


def _touches(text: str, span: Span, start: int, end: int) -> bool:
    return bool(text[max(span.start, start) : min(span.end, end)].strip())


def _words(text: str, span: Span) -> int:
    return len(text[span.start : span.end].split())
