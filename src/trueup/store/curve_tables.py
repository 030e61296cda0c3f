"""Curves in CSV: a column a curve, a row a number (step, name, value), or the downloads of TensorBoard and of trackers."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trueup.core.errors import UserError

_NAMES = ("name", "metric", "tag")
_NOTHING = ("", "nan", "none", "null", "inf", "-inf", "infinity", "-infinity")
_BETWEEN = " - "

Cells = list[tuple[str, dict[str, str]]]


def csv_rows(path: Path, steps: Sequence[str]) -> dict[str, list[tuple[str, Mapping[str, Any]]]]:
    """Rows of a file, as `trueup.store.curve_logs` takes them, by the run they belong to.

    Trackers put the run's name before a curve's (``run - train/reward``) and add columns of extremes; TensorBoard puts the curve's name
    into the file's (``run-x-tag-train_reward.csv``).

    Args:
        path: the file; columns are parted by tabs where it ends in ``.tsv``.
        steps: what the column of steps may be called.

    Raises:
        UserError: no column of steps, or a cell of a numeric column that is no number.
    """
    header, cells = _cells(path)
    step = next((s for s in steps if s in header), None)
    if step is None:
        raise UserError(f"has no column of steps ({', '.join(steps)}). Found: {', '.join(header) or 'nothing'}.", where=f"{path}, line 1")
    low = {column.lower(): column for column in header}
    if "value" in low:
        named = next((low[n] for n in _NAMES if n in low), None)
        tag = path.stem.split("tag-")[-1]
        long: list[tuple[str, Mapping[str, Any]]] = [
            (place, {step: _value(row[step], place, step), (row[named] if named else tag): _value(row[low["value"]], place, low["value"])})
            for place, row in cells
        ]
        return {path.stem: long}
    columns = _numeric(header, cells)
    runs: dict[str, list[tuple[str, Mapping[str, Any]]]] = {}
    for place, row in cells:
        parts: dict[str, dict[str, Any]] = {}
        for column in columns:
            run, name = _split(column, path.stem) if column != step else (path.stem, step)
            if column != step:
                parts.setdefault(run, {})[name] = _value(row[column], place, column)
        for run, values in parts.items():
            runs.setdefault(run, []).append((place, {step: _value(row[step], place, step), **values}))
    return runs or {path.stem: []}


def _cells(path: Path) -> tuple[list[str], Cells]:
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, delimiter="\t" if path.suffix == ".tsv" else ",")
            header = [h.strip() for h in next(reader, [])]
            found: Cells = []
            for row in reader:
                if not any(row):
                    continue
                place = f"{path}, line {reader.line_num}"
                if len(row) != len(header):
                    raise UserError(f"has {len(row)} cells where the header has {len(header)}.", where=place)
                found.append((place, dict(zip(header, row, strict=True))))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"cannot be read as CSV in UTF-8 ({error}).", where=str(path)) from error
    return header, found


def _numeric(header: Sequence[str], cells: Cells) -> list[str]:
    """Columns with any number in them, without a tracker's columns of extremes."""
    return [h for h in header if not h.endswith(("__MIN", "__MAX")) and any(_float(row[h]) is not None for _, row in cells)]


def _split(column: str, otherwise: str) -> tuple[str, str]:
    run, between, name = column.rpartition(_BETWEEN)
    return (run, name) if between else (otherwise, column)


def _value(text: str, place: str, column: str) -> float | None:
    """A number, None where the cell says that there is none."""
    if text.strip().lower() in _NOTHING:
        return None
    number = _float(text)
    if number is None:
        raise UserError(f"must be a number or empty, got {text[:40]!r}.", where=f"{place}, column '{column}'")
    return number


def _float(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
