"""Tables of other programs, CSV, JSON lines or Parquet, as Arrow columns: whole files at a time, and line by line to name what is wrong."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pc_csv
import pyarrow.json as pa_json
import pyarrow.parquet as pq

from trueup.core.errors import UserError, one_line

ALLOWED = ".csv, .jsonl (both also with .gz), .parquet"
Wanted = Callable[[str], pa.DataType | None]
"""A column's name in the file -> the type it should have; None where it is not read."""
_BLOCK = 1 << 24
"""Bytes parsed at a time; a row must fit in."""


@dataclass(frozen=True)
class ForeignFile:
    """One file, and how its rows are named in messages.

    Args:
        path: of the file.
    """

    path: Path

    @property
    def kind(self) -> str:
        """``csv``, ``jsonl`` or ``parquet``.

        Raises:
            UserError: no such file, or of another kind.
        """
        if not os.path.exists(self.path):
            raise UserError(f"no such file. Give a file of samples: {ALLOWED}.", where=str(self.path))
        if self.path.is_dir():
            raise UserError(f"is a folder without records. Give the files: {ALLOWED}.", where=str(self.path))
        name = self.path.name.lower()
        plain = name.removesuffix(".gz")
        kind = plain.rsplit(".", 1)[-1]
        if kind not in ("csv", "jsonl", "parquet") or (kind == "parquet" and plain != name):
            raise UserError(f"unknown format. Allowed: {ALLOWED}.", where=str(self.path))
        return kind

    def place(self, row: int) -> str:
        """File and line (or row) of a row that is counted from 0."""
        if self.kind == "parquet":
            return f"{self.path}, row {row + 1}"
        for number, (line, _) in enumerate(self.lines()):
            if number == row:
                return f"{self.path}, line {line}"
        return f"{self.path}, row {row + 1}"

    def lines(self) -> Iterator[tuple[int, Any]]:
        """Line number and content of each row: a mapping of a JSON line, the cells of a CSV row.

        Raises:
            UserError: a line that cannot be read.
        """
        number = 0
        try:
            with self._text() as text:
                if self.kind == "csv":
                    rows = csv.reader(map(_utf8, text), strict=True)
                    head = next(rows, [])
                    number = rows.line_num + 1
                    for cells in rows:
                        if cells and len(cells) != len(head):
                            message = f"has {len(cells)} cells; the first line names {len(head)} columns ({', '.join(head)})."
                            raise UserError(message, where=f"{self.path}, line {number}")
                        if cells:
                            yield number, cells
                        number = rows.line_num + 1
                    return
                for number, line in enumerate(text, 1):
                    if line.strip():
                        yield number, _object(_utf8(line), f"{self.path}, line {number}")
        except csv.Error as error:
            raise UserError(f"is not valid CSV: {error}.", where=f"{self.path}, line {number}") from error
        except UnicodeEncodeError as error:
            raise UserError("is not UTF-8 text. Save the file as UTF-8.", where=f"{self.path}, line {number}") from error
        except (OSError, EOFError, zlib.error) as error:
            raise UserError(f"cannot be read to its end ({one_line(error)}).", where=str(self.path)) from error

    def names(self) -> list[str]:
        """Names of the columns; of JSON lines those of all rows, in the order of their first occurrence.

        Raises:
            UserError: the file has none, or one twice.
        """
        if self.kind == "csv":
            found = self._head()
        elif self.kind == "parquet":
            found = _parquet(self.path, None).schema.names
        else:
            raise AssertionError("names of JSON lines are known after reading")
        if not found:
            raise UserError("is empty. The first line names the columns.", where=f"{self.path}, line 1")
        if len(set(found)) < len(found):
            raise UserError(f"every column needs a name of its own, got {found}.", where=f"{self.path}, line 1")
        return found

    def read(self, wanted: Wanted) -> tuple[pa.Table, list[str]]:
        """The columns that are wanted, as they are in the file, and the names of all columns.

        Args:
            wanted: which columns, and their types; CSV cells are read as these.

        Raises:
            UserError: file, line and column of what cannot be read.
        """
        if self.kind == "csv":
            names = self.names()
            return self._csv(names, wanted), names
        if self.kind == "parquet":
            names = self.names()
            return _parquet(self.path, [n for n in names if wanted(n) is not None]), names
        return self._jsonl(wanted)

    def _head(self) -> list[str]:
        try:
            with self._text() as text:
                return next(csv.reader(map(_utf8, text), strict=True), [])
        except (csv.Error, UnicodeEncodeError, OSError, EOFError, zlib.error) as error:
            raise UserError(f"the names of the columns cannot be read ({one_line(error)}).", where=f"{self.path}, line 1") from error

    def _text(self) -> io.TextIOWrapper:
        raw: Any = gzip.open(self.path, "rb") if self.path.name.lower().endswith(".gz") else open(self.path, "rb")  # noqa: SIM115
        return io.TextIOWrapper(raw, encoding="utf-8-sig", errors="surrogateescape", newline="" if self.kind == "csv" else None)

    def _csv(self, names: list[str], wanted: Wanted) -> pa.Table:
        types = {n: t for n in names if (t := wanted(n)) is not None}
        # maps and lists stand in CSV as JSON text, and are parsed where they are understood
        flat = {n: t if not pa.types.is_nested(t) else pa.string() for n, t in types.items()}
        convert = pc_csv.ConvertOptions(column_types=flat, include_columns=list(flat), strings_can_be_null=False)
        try:
            with pa.input_stream(str(self.path), compression="detect") as stream:
                return pc_csv.read_csv(
                    stream,
                    read_options=pc_csv.ReadOptions(block_size=_BLOCK),
                    parse_options=pc_csv.ParseOptions(newlines_in_values=True),
                    convert_options=convert,
                )
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            self._explain(names, flat)
            raise UserError(f"cannot be read as CSV ({one_line(error)}).", where=str(self.path)) from error

    def _explain(self, names: list[str], types: Mapping[str, pa.DataType]) -> None:
        """Name the line and the column that a type does not fit."""
        for line, cells in self.lines():
            for name, cell in zip(names, cells, strict=True):
                if name in types and not _reads(cell, types[name]):
                    what = _WORDS[str(types[name])]
                    raise UserError(f"must be {what}, got {cell[:60]!r}.", where=f"{self.path}, line {line}, column '{name}'")

    def _jsonl(self, wanted: Wanted) -> tuple[pa.Table, list[str]]:
        first = next(self.lines(), None)
        if first is None:
            raise UserError("holds no rows. Each line holds one sample as an object.", where=str(self.path))
        # without this, texts that look like dates become dates
        texts = [pa.field(n, pa.string()) for n, v in first[1].items() if isinstance(v, str)]
        options = pa_json.ParseOptions(explicit_schema=pa.schema(texts)) if texts else None
        try:
            with pa.input_stream(str(self.path), compression="detect") as stream:
                table = pa_json.read_json(stream, read_options=pa_json.ReadOptions(block_size=_BLOCK), parse_options=options)
            names = table.column_names
            return table.select([n for n in names if wanted(n) is not None]), names
        except (pa.ArrowException, OSError):
            return self._jsonl_by_line(wanted)

    def _jsonl_by_line(self, wanted: Wanted) -> tuple[pa.Table, list[str]]:
        """For what the fast reader refuses: a type that changes, NaN, very long rows."""
        rows = [row for _, row in self.lines()]
        names = list(dict.fromkeys(n for row in rows for n in row))
        columns = {}
        for name in [n for n in names if wanted(n) is not None]:
            values = [_absent(row.get(name)) for row in rows]
            if wanted(name) == pa.string() and len({type(v) for v in values if v is not None}) > 1:
                values = [str(v) if isinstance(v, int | float) else v for v in values]  # names may be numbers and texts
            try:
                columns[name] = pa.array(values)
            except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
                number = _odd_one(values)
                raise UserError(
                    f"is of another type than in the rows before ({_short(values[number])}).",
                    where=f"{self.place(number)}, column '{name}'",
                ) from error
        return pa.table(columns) if columns else pa.table({"": pa.nulls(len(rows))}), names


def _parquet(path: Path, columns: list[str] | None) -> Any:
    """The columns of a file, or, for None, the file's description."""
    try:
        with pq.ParquetFile(path) as file:
            return file.read(columns=columns) if columns is not None else _Described(file.schema_arrow)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UserError(f"is not a readable Parquet file ({one_line(error)}). Copy or write it again.", where=str(path)) from error


@dataclass(frozen=True)
class _Described:
    schema: pa.Schema


def _utf8(line: str) -> str:
    """The line itself; bytes that are no text, which reading keeps as surrogates, cannot be encoded again."""
    if not line.isascii():
        line.encode()
    return line


def _object(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise UserError(f"is not valid JSON ({error}). Each line holds one sample as an object.", where=where) from error
    if not isinstance(row, dict):
        raise UserError(f"must be an object with named columns, got {type(row).__name__}.", where=where)
    return row


_WORDS = {"double": "a number", "int64": "a whole number", "bool": "true or false", "string": "a text"}
_EMPTY = {"", "nan", "na", "n/a", "null", "none", "#n/a", "-nan"}


def _reads(cell: str, kind: pa.DataType) -> bool:
    """Whether a CSV cell can be read as the type."""
    if pa.types.is_string(kind) or cell.strip().lower() in _EMPTY:
        return True
    if pa.types.is_boolean(kind):
        return cell in ("0", "1", "true", "false", "True", "False", "TRUE", "FALSE")
    try:
        return (int if pa.types.is_integer(kind) else float)(cell) is not None
    except ValueError:
        return False


def _absent(value: Any) -> Any:
    """None for NaN: JSON written by Python holds it for absent numbers."""
    return None if isinstance(value, float) and value != value else value


def _odd_one(values: list[Any]) -> int:
    """The first value whose kind differs from the first one's."""
    kinds = [
        None if v is None else "number" if isinstance(v, int | float) and not isinstance(v, bool) else type(v).__name__ for v in values
    ]
    first = next((k for k in kinds if k is not None), None)
    return next((i for i, k in enumerate(kinds) if k not in (None, first)), 0)


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."
