"""Replies with marked spans: which characters of a reply bear which label, from files.

| layout | fields |
|---|---|
| spans | ``prompt``, ``response``, ``spans``: a list of ``{"start", "end", "label"}``, and ``"value"`` where a label has a degree |
| fine-grained | ``question``, ``passages``, ``prediction 1``, and ``feedback`` on it with ``errors`` and ``missing-info`` |

``start`` and ``end`` count characters of the response, ``end`` not included. A reply without spans is a clean one. What ``missing-info``
names is missing from the whole reply, so its span is the whole reply. Second layout after allenai/FineGrainedRLHF.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Unpack

from trueup.core.errors import UserError
from trueup.data.reading import Bad, Options, Reading, name_of, read_each, text_of
from trueup.data.rows import Prompt, Reply, Split
from trueup.data.source import Row, Source
from trueup.data.turns import conversation, prompt_id

ALLOWED = 'Allowed: {"prompt", "response", "spans"}, or {"question", "passages", "prediction 1", "feedback"}'
_SPAN = 'Each span is {"start": 0, "end": 12, "label": "..."}, in characters of the response, the end not included'


@dataclass(frozen=True, kw_only=True)
class Span:
    """Some characters of a reply, and what was said of them."""

    start: int
    """First character."""
    end: int
    """The character after the last."""
    label: str
    value: float = 1.0
    """Degree of the label; 1 where the annotator only marked it."""


@dataclass(frozen=True, kw_only=True)
class Marked:
    """A reply and its marked spans."""

    id: str
    prompt: Prompt
    reply: Reply
    spans: tuple[Span, ...] = ()
    annotator: str = ""
    where: str = ""
    """File and line it came from, for messages."""


def read_marked(source: Source, *, passages: bool = True, **options: Unpack[Options]) -> Reading[Marked]:
    """Read replies with marked spans and say how they were read.

    Args:
        source: a file, a hub data set's name, several of them, or rows in memory.
        passages: of the layout ``fine-grained``: put the passages in front of the question; without them facts cannot be checked.
        options: see `Options`; an empty reply teaches nothing.

    Raises:
        UserError: missing or damaged file, malformed row or span, or (with ``on_bad="error"``) an empty reply; the place is named.
    """
    return read_each(source, partial(_marked, passages=passages), "usable reply", **options)


def labels_of(rows: list[Marked]) -> dict[str, int]:
    """Label -> spans that bear it, the most frequent first."""
    counts: dict[str, int] = {}
    for row in rows:
        for span in row.spans:
            counts[span.label] = counts.get(span.label, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _marked(row: Row, split: Split, *, passages: bool) -> tuple[str, Marked]:
    layout = _layout(row)
    return layout, _spans_row(row, split) if layout == "spans" else _fine_grained(row, split, passages)


def _layout(row: Row) -> str:
    if "feedback" in row.values:
        return "fine-grained"
    for name in ("prompt", "response", "spans"):
        if row.values.get(name) is None:
            found = f"found {', '.join(row.values) or 'none'}" if name not in row.values else "it is null"
            raise UserError(f"the field is missing ({found}). {ALLOWED}.", where=f"{row.where}, field '{name}'")
    return "spans"


def _spans_row(row: Row, split: Split) -> Marked:
    prompt = conversation(row.values["prompt"], f"{row.where}, field 'prompt'")
    text = _reply(row, "response")
    place = f"{row.where}, field 'spans'"
    spans = [_span(item, "label", text, f"{place}, span {i}") for i, item in enumerate(_list(row.values["spans"], place), 1)]
    made = Prompt(id=name_of(row, "prompt_id", prompt_id(prompt)), text=prompt, split=split)
    return Marked(
        id=name_of(row, "id", row.id),
        prompt=made,
        reply=Reply(text=text),
        spans=tuple(spans),
        annotator=name_of(row, "annotator"),
        where=row.where,
    )


def _fine_grained(row: Row, split: Split, passages: bool) -> Marked:
    question, text = text_of(row, "question"), _reply(row, "prediction 1")
    place = f"{row.where}, field 'feedback'"
    said = row.values["feedback"]
    if not isinstance(said, Mapping):
        raise UserError(f"must be an object with 'errors' and 'missing-info', got {type(said).__name__}.", where=place)
    errors = _list(said.get("errors", []), f"{place}, 'errors'")
    spans = [_span(item, "error type", text, f"{place}, error {i}") for i, item in enumerate(errors, 1)]
    for i, item in enumerate(_list(said.get("missing-info", []), f"{place}, 'missing-info'"), 1):
        spans.append(Span(start=0, end=len(text), label=_label(item, "error type", f"{place}, missing-info {i}")))
    prompt = "\n\n".join([*(_passages(row) if passages else []), question])
    made = Prompt(id=name_of(row, "id", prompt_id(prompt)), text=conversation(prompt, f"{row.where}, field 'question'"), split=split)
    return Marked(id=name_of(row, "id", row.id), prompt=made, reply=Reply(text=text), spans=tuple(spans), where=row.where)


def _passages(row: Row) -> list[str]:
    """Passages as texts: a title and sentences each."""
    place = f"{row.where}, field 'passages'"
    texts = []
    for i, passage in enumerate(_list(row.values.get("passages") or [], place), 1):
        if not isinstance(passage, list | tuple) or not all(isinstance(x, str) for x in passage):
            raise UserError("must be a list of texts, the title first.", where=f"{place}, passage {i}")
        texts.append(": ".join([*passage[:1], " ".join(passage[1:])]))
    return texts


def _reply(row: Row, name: str) -> str:
    text = text_of(row, name)
    if not text.strip():
        raise Bad("empty reply", name)
    return text


def _list(value: Any, where: str) -> list[Any]:
    if isinstance(value, str):  # CSV holds lists as text
        try:
            value = json.loads(value)
        except ValueError:
            raise UserError(f"must be a list, got the text {value[:60]!r}. {_SPAN}.", where=where) from None
    if not isinstance(value, list | tuple):
        raise UserError(f"must be a list, got {type(value).__name__}. {_SPAN}.", where=where)
    return list(value)


def _span(item: Any, name: str, text: str, where: str) -> Span:
    label = _label(item, name, where)
    for edge in ("start", "end"):
        if isinstance(item.get(edge), bool) or not isinstance(item.get(edge), int):
            raise UserError(f"'{edge}' must be a whole number, got {item.get(edge)!r}. {_SPAN}.", where=where)
    start, end, value = item["start"], item["end"], item.get("value", 1.0)
    if not 0 <= start < end <= len(text):
        raise UserError(f"characters {start} to {end} are not in a response of {len(text)} characters. {_SPAN}.", where=where)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise UserError(f"'value' must be a finite number, got {value!r}.", where=where)
    return Span(start=start, end=end, label=label, value=float(value))


def _label(item: Any, name: str, where: str) -> str:
    if not isinstance(item, Mapping):
        raise UserError(f"must be an object, got {type(item).__name__}. {_SPAN}.", where=where)
    label = item.get(name)
    if not isinstance(label, str) or not label:
        raise UserError(f"'{name}' must be a text that is not empty, got {label!r}.", where=where)
    return label
