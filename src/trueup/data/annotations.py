"""Comparisons that several annotators labelled.

| layout | fields |
|---|---|
| columns | ``annotator1``, ``annotator2``, … (any name that begins with ``annotator`` and a digit or ``_``): 1, 2, or 0 for a tie |
| votes | ``votes``: a list, or a mapping of annotator to label |
| long | ``item``, ``annotator``, ``label``: one row a label |

A field ``prompt``, or ``instruction`` with ``input``, names what the replies answer.

Labels are 1 or 2 (the reply that was preferred) or 0; also ``a``, ``b``, ``first``, ``second``, ``tie``; empty is no label.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from trueup.core.errors import UserError
from trueup.data.reading import Bad, OnBad, Reading, Tally, name_of
from trueup.data.source import Row, Source, read_rows

FIRST, SECOND, TIE = 1, 2, 0
_LABELS = {"1": FIRST, "a": FIRST, "first": FIRST, "2": SECOND, "b": SECOND, "second": SECOND, "0": TIE, "tie": TIE}
_COLUMN = re.compile(r"^annotator(\d+|_.+)$")
_LONG = {"item", "annotator", "label"}
_ALLOWED = "Allowed: 1, 2, 0, or a, b, first, second, tie"


@dataclass(frozen=True, kw_only=True)
class Annotated:
    """One comparison and all its labels."""

    id: str
    labels: dict[str, int] = field(default_factory=dict)
    """Annotator -> 1, 2 or 0."""
    prompt: str = ""
    """The request, where the file has it; comparisons of one prompt are not independent."""
    where: str = ""


def read_annotations(source: Source, *, on_bad: OnBad = "error") -> Reading[Annotated]:
    """Read comparisons with the labels of several annotators.

    Args:
        source: a file, a hub data set's name, several of them, or rows in memory.
        on_bad: what to do with items that fewer than two annotators labelled.

    Raises:
        UserError: missing or damaged file, unknown layout, a label that is none.
    """
    tally, items = Tally(on_bad), dict[str, Annotated]()
    last: dict[str, Row] = {}
    for row in read_rows(source):
        layout, name, labels = labels_of(row)
        if name in items and layout != "long":
            raise UserError(f"item '{name}' was there before, at {items[name].where}.", where=row.where)
        item = items.setdefault(name, Annotated(id=name, prompt=_prompt(row), where=row.where))
        again = set(labels) & set(item.labels)
        if again:
            raise UserError(f"annotator '{min(again)}' labelled item '{name}' twice.", where=row.where)
        item.labels.update(labels)
        last[name] = row
        tally.saw(layout)
    kept = []
    for name, item in items.items():
        if len(item.labels) < 2:
            tally.left_out(Bad("fewer than two labels", "annotator"), last[name])
        else:
            kept.append(item)
    if not kept:
        raise UserError("holds no item that two annotators labelled.", where=str(source) if isinstance(source, str) else None)
    return Reading(rows=kept, layouts=tally.layouts, skipped=tally.skipped)


def has_labels(row: Row) -> bool:
    """Whether the row is in one of the layouts."""
    return any(_COLUMN.match(name) for name in row.values) or "votes" in row.values or set(row.values) >= _LONG


def labels_of(row: Row) -> tuple[str, str, dict[str, int]]:
    """Layout, item and labels (annotator -> 1, 2 or 0) of one row; of the long layout it is one label at most.

    Raises:
        UserError: unknown layout, or a label that is none.
    """
    values = row.values
    columns = [name for name in values if _COLUMN.match(name)]
    if columns:
        found = {name: _label(values[name], f"{row.where}, field '{name}'") for name in columns}
        return "columns", row.id, {name: label for name, label in found.items() if label is not None}
    if "votes" in values:
        return "votes", name_of(row, "id", row.id), _votes(values["votes"], f"{row.where}, field 'votes'")
    if set(values) >= _LONG:
        label = _label(values["label"], f"{row.where}, field 'label'")
        return "long", name_of(row, "item"), {} if label is None else {name_of(row, "annotator"): label}
    raise UserError(
        f"no labels of several annotators (found {', '.join(values) or 'no fields'}). Allowed: columns annotator1, annotator2, …; a field "
        "'votes'; or one row a label with 'item', 'annotator' and 'label'.",
        where=row.where,
    )


def _prompt(row: Row) -> str:
    return "\n".join(str(row.values[name]) for name in ("prompt", "instruction", "input") if row.values.get(name))


def _votes(given: Any, where: str) -> dict[str, int]:
    if isinstance(given, str):  # CSV and Parquet hold lists and mappings as text
        try:
            given = json.loads(given)
        except ValueError as error:
            raise UserError(f"must be a list or a mapping, got {given!r}.", where=where) from error
    if isinstance(given, Mapping):
        named = {str(k): v for k, v in given.items()}
    elif isinstance(given, list):
        named = {f"annotator{i}": v for i, v in enumerate(given, 1)}
    else:
        raise UserError(f"must be a list or a mapping, got {type(given).__name__}.", where=where)
    found = {name: _label(value, where) for name, value in named.items()}
    return {name: label for name, label in found.items() if label is not None}


def _label(value: Any, where: str) -> int | None:
    if value is None or value == "":
        return None
    text = str(int(value)) if isinstance(value, float) and value == int(value) else str(value).strip().lower()
    if isinstance(value, bool) or text not in _LABELS:
        raise UserError(f"{value!r} is no label. {_ALLOWED}.", where=where)
    return _LABELS[text]
