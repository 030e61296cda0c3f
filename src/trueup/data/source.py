"""Rows of files, of the hub, or of memory, each with the place it came from. What a row means is the business of its reader."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from trueup.core.errors import UserError
from trueup.data.hub import hub_rows

Source = str | Path | Sequence[str | Path] | Sequence[Mapping[str, Any]]
"""A file (.jsonl, .json, .csv, .txt, each also with .gz, or .parquet), a hub dataset's name, several of them, or rows in memory."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row as it was found."""

    where: str
    """File and line (or row, where the format has no lines), for messages."""
    id: str
    """Name of the file and number of the row: unique in the data set, the same on every reading."""
    values: dict[str, Any]


def read_rows(source: Source, *, hub_split: str = "train", hub_subset: str | None = None) -> Iterator[Row]:
    """Every row of a source, in order.

    Args:
        source: see `Source`.
        hub_split: which split of a hub dataset.
        hub_subset: which configuration or folder of a hub dataset.

    Raises:
        UserError: a file is missing, of unknown format or damaged; the line is named.
    """
    if isinstance(source, str | Path):
        yield from _rows_of(source, hub_split, hub_subset)
        return
    for number, item in enumerate(source, 1):
        if isinstance(item, str | Path):
            yield from _rows_of(item, hub_split, hub_subset)
        else:
            yield _row(f"row {number}", f"row:{number}", item)


def _rows_of(source: str | Path, hub_split: str, hub_subset: str | None) -> Iterator[Row]:
    path = Path(source)
    suffixes = [s.lower() for s in path.suffixes]
    packed = suffixes[-1:] == [".gz"]
    kind = (suffixes[:-1] if packed else suffixes)[-1:]
    reader = _READERS.get(kind[0]) if kind else None
    if not os.path.exists(path):  # unlike Path.exists, False also where a folder on the way may not be searched
        if reader is None and isinstance(source, str) and not source.startswith((".", "/", "~")):
            for number, values in enumerate(hub_rows(source, hub_split, hub_subset), 1):
                yield _row(f"{source} ({hub_split}), row {number}", f"{source}:{hub_split}:{number}", values)
            return
        raise UserError("no such file. Give the path of an existing file, or a hub dataset's name.", where=str(source))
    if os.path.isdir(path):
        raise UserError("is a folder. Give a file; several files as a list.", where=str(source))
    if reader is None or (packed and kind == [".parquet"]):
        raise UserError(f"unknown format. Allowed: {', '.join(_READERS)}, each but .parquet also with .gz.", where=str(source))
    stem = path.name[: len(path.name) - sum(map(len, path.suffixes[-1 - packed :]))]
    for place, number, values in reader(path, packed):
        yield _row(f"{path}, {place} {number}", f"{stem}:{number}", values)


def _row(where: str, name: str, values: object) -> Row:
    if not isinstance(values, Mapping):
        raise UserError(f"must be an object with named fields, got {type(values).__name__}.", where=where)
    return Row(where=where, id=name, values={str(k): v for k, v in values.items()})


Found = Iterator[tuple[str, int, Any]]


def _json_lines(path: Path, packed: bool) -> Found:
    for number, line in _lines(path, packed):
        if line.strip():
            try:
                values = json.loads(line)
            except ValueError as error:
                message = f'is not valid JSON: {_reason(error)}. Each line holds one object, such as {{"prompt": "…", "chosen": "…"}}.'
                raise UserError(message, where=f"{path}, line {number}") from error
            yield "line", number, values


def _text_lines(path: Path, packed: bool) -> Found:
    for number, line in _lines(path, packed):
        text = line.rstrip("\r\n")
        if text.strip():
            yield "line", number, {"prompt": text}


def _json(path: Path, packed: bool) -> Found:
    text = "".join(line for _, line in _lines(path, packed))
    try:
        rows = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"is not valid JSON: {_reason(error)}.", where=f"{path}, line {error.lineno}") from error
    if not isinstance(rows, list):
        raise UserError(f"must hold a list of rows, got {type(rows).__name__}.", where=str(path))
    for number, values in enumerate(rows, 1):
        yield "row", number, values


def _csv(path: Path, packed: bool) -> Found:
    text = "".join(line for _, line in _lines(path, packed))
    rows = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    begin = 1
    try:
        names = rows.fieldnames or []
        if len(set(names)) < len(names) or not all(names):
            raise UserError(f"the first line must name every column once, got {names}.", where=f"{path}, line 1")
        begin = rows.line_num + 1
        for values in rows:
            if None in values or None in values.values():
                raise UserError(f"must have {len(names)} cells ({', '.join(names)}).", where=f"{path}, line {begin}")
            yield "line", begin, dict(values)
            begin = rows.line_num + 1
    except csv.Error as error:
        raise UserError(
            f"is not valid CSV: {error}. Texts with commas, quotes or line ends go in double quotes.", where=f"{path}, line {begin}"
        ) from error


def _parquet(path: Path, packed: bool) -> Found:
    try:
        with pq.ParquetFile(path) as file:
            number = 0
            for batch in file.iter_batches():
                for values in batch.to_pylist():
                    number += 1
                    yield "row", number, values
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"is not a readable Parquet file ({_reason(error)}). Copy or download it again.", where=str(path)) from error


_READERS: dict[str, Callable[[Path, bool], Found]] = {
    ".jsonl": _json_lines,
    ".json": _json,
    ".csv": _csv,
    ".txt": _text_lines,
    ".parquet": _parquet,
}


def _lines(path: Path, packed: bool) -> Iterator[tuple[int, str]]:
    """Numbered lines of a UTF-8 file, unpacked; a damaged byte or archive is reported with its line."""
    number = 0
    try:
        with _open(path, packed) as file:
            for number, line in enumerate(file, 1):
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        message = f"is not UTF-8 text (byte {error.start} of the line: {error.reason}). Save the file as UTF-8."
        raise UserError(message, where=f"{path}, line {number}") from error
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        message = f"the archive is damaged or cut short ({_reason(error)}). Download or copy it again."
        raise UserError(message, where=f"{path}, after line {number}") from error
    except OSError as error:
        raise UserError(f"cannot be read ({error.strerror or error}).", where=str(path)) from error


def _open(path: Path, packed: bool) -> gzip.GzipFile | io.BufferedReader:
    return gzip.open(path, "rb") if packed else open(path, "rb")


def _reason(error: Exception) -> str:
    return str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else type(error).__name__
