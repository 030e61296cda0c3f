"""What reading a data set gives: rows, the layout they were found in, and what was left out."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, Literal, TypedDict, TypeVar

from trueup.core.errors import UserError, did_you_mean
from trueup.data.rows import Split
from trueup.data.source import Row, Source, read_rows

T = TypeVar("T")
OnBad = Literal["error", "skip"]
"""What to do with rows that teach nothing (an empty reply, two equal ones): stop, or leave them out and count them. Malformed rows stop."""


@dataclass(frozen=True, kw_only=True)
class Reading(Generic[T]):
    """Rows with a statement of how they were read."""

    rows: list[T]
    layouts: dict[str, int] = field(default_factory=dict)
    """Layout -> rows found in it."""
    skipped: dict[str, int] = field(default_factory=dict)
    """Reason -> rows left out."""

    def statement(self) -> str:
        """One sentence for a log or a report."""
        found = ", ".join(f"{n} as {layout}" for layout, n in self.layouts.items())
        left = ", ".join(f"{n} {reason}" for reason, n in sorted(self.skipped.items()))
        return f"{len(self.rows)} rows read ({found or 'none'})" + (f"; left out: {left}" if left else "")


class Options(TypedDict, total=False):
    """How a source is read; the keyword arguments that every reader of rows takes."""

    on_bad: OnBad
    """What to do with rows that teach nothing; "error" unless given."""
    fields: Mapping[str, str] | None
    """Our field name -> the file's, where they differ."""
    split: Split
    """Which split the prompts are put in; "train" unless given."""
    hub_split: str
    """Which split of a hub data set to read; "train" unless given."""
    hub_subset: str | None
    """Which configuration or folder of a hub data set to read."""


class Bad(Exception):  # noqa: N818 - it is about the row, not an error of the program
    """A well-formed row that teaches nothing; the reader's policy decides what becomes of it."""

    def __init__(self, reason: str, field_name: str) -> None:
        self.reason, self.field_name = reason, field_name
        super().__init__(reason)


class Tally:
    """Counts layouts and rows left out while a reader runs; the state of one reading."""

    def __init__(self, on_bad: OnBad) -> None:
        self.on_bad = on_bad
        self.layouts: dict[str, int] = {}
        self.skipped: dict[str, int] = {}

    def saw(self, layout: str) -> None:
        """Count a row read in this layout."""
        self.layouts[layout] = self.layouts.get(layout, 0) + 1

    def left_out(self, bad: Bad, row: Row) -> None:
        """Count a row left out.

        Raises:
            UserError: the policy is to stop.
        """
        if self.on_bad == "error":
            raise UserError(
                f'{bad.reason}. Correct or remove the row, or leave such rows out with on_bad "skip".',
                where=f"{row.where}, field '{bad.field_name}'",
            )
        self.skipped[bad.reason] = self.skipped.get(bad.reason, 0) + 1


def read_each(
    source: Source,
    one: Callable[[Row, Split], tuple[str, T]],
    what: str,
    *,
    on_bad: OnBad = "error",
    fields: Mapping[str, str] | None = None,
    split: Split = "train",
    hub_split: str = "train",
    hub_subset: str | None = None,
) -> Reading[T]:
    """Read a source row by row.

    Args:
        source: a file, a hub data set's name, several of them, or rows in memory.
        one: a row and its split -> its layout and what it holds; raises `Bad` where it teaches nothing.
        what: what is missing where no row is left, such as "usable preference pair".
        on_bad: see `Options`, as all below.
        fields: see `Options`.
        split: see `Options`.
        hub_split: see `Options`.
        hub_subset: see `Options`.

    Raises:
        UserError: missing or damaged file, malformed row, no row left, or (with ``on_bad="error"``) a row that teaches nothing.
    """
    tally, rows = Tally(on_bad), []
    for found in read_rows(source, hub_split=hub_split, hub_subset=hub_subset):
        row = renamed(found, fields)
        try:
            layout, read = one(row, split)
        except Bad as bad:
            tally.left_out(bad, row)
            continue
        tally.saw(layout)
        rows.append(read)
    if not rows:
        raise UserError(f"holds no {what}.", where=str(source) if isinstance(source, str | Path) else None)
    return Reading(rows=rows, layouts=tally.layouts, skipped=tally.skipped)


def renamed(row: Row, fields: Mapping[str, str] | None) -> Row:
    """The row with our field names in place of the file's.

    Args:
        row: as found.
        fields: our name -> the file's name.

    Raises:
        UserError: the row lacks one of the file's names.
    """
    if not fields:
        return row
    values = dict(row.values)
    for ours, theirs in fields.items():
        if theirs not in row.values:
            raise UserError(
                f"has no field '{theirs}' (for '{ours}').{did_you_mean(theirs, row.values)} Found: {', '.join(row.values)}.",
                where=row.where,
            )
        values[ours] = row.values[theirs]
    return Row(where=row.where, id=row.id, values=values)


def text_of(row: Row, name: str) -> str:
    """A text field.

    Raises:
        UserError: it is not a text.
    """
    value = row.values.get(name)
    if not isinstance(value, str):
        raise UserError(f"must be a text, got {type(value).__name__}.", where=f"{row.where}, field '{name}'")
    return value


def name_of(row: Row, name: str, default: str = "") -> str:
    """An optional short text or whole number, as text."""
    value = row.values.get(name)
    if value is None or value == "":
        return default
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise UserError(f"must be a text or a whole number, got {type(value).__name__}.", where=f"{row.where}, field '{name}'")
    return str(value)


def number_of(row: Row, name: str) -> float | None:
    """An optional finite number; CSV cells are read as numbers."""
    value = row.values.get(name)
    if value is None or value == "":
        return None
    try:
        if isinstance(value, bool):
            raise ValueError
        number = float(value)
    except (TypeError, ValueError) as error:
        raise UserError(f"must be a number, got {value!r}.", where=f"{row.where}, field '{name}'") from error
    if not math.isfinite(number):
        raise UserError(f"must be finite, got {value!r}.", where=f"{row.where}, field '{name}'")
    return number
