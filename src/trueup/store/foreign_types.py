"""Columns of other programs as the types of records: texts, numbers, whole numbers, true or false. Never a text for a number."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from trueup.core.errors import UserError
from trueup.store.foreign_files import ForeignFile

_WORDS = {"double": "numbers", "int64": "whole numbers", "bool": "true or false", "string": "texts"}


def as_type(column: pa.ChunkedArray, kind: pa.DataType, file: ForeignFile, name: str) -> pa.Array:
    """A column in one piece, of the wanted type; NaN is absent.

    Args:
        column: as the file has it.
        kind: string, double, int64 or bool.
        file: where it stands.
        name: the file's name of the column.

    Raises:
        UserError: it is of another type, or holds what the type may not; the first such row is named.
    """
    found = column.combine_chunks()
    if isinstance(found, pa.ChunkedArray):  # pyarrow gives an empty column back in no chunks at all
        found = pa.concat_arrays(found.chunks) if found.num_chunks else pa.nulls(0, column.type)
    if pa.types.is_dictionary(found.type):
        found = found.cast(found.type.value_type)
    if pa.types.is_null(found.type):
        return pa.nulls(len(found), kind)
    converted = _text(found) if pa.types.is_string(kind) else _number(found, kind, file, name)
    if converted is None:
        raise UserError(f"must hold {_WORDS[str(kind)]}, got {found.type}.", where=f"{file.path}, column '{name}'")
    return converted


def _text(found: pa.Array) -> pa.Array | None:
    """Texts; numbers of prompts as text; messages as their turns."""
    t = pa.types
    if t.is_string(found.type) or t.is_large_string(found.type) or t.is_string_view(found.type) or t.is_integer(found.type):
        return found.cast(pa.string())
    if (t.is_list(found.type) or t.is_large_list(found.type)) and t.is_struct(found.type.value_type):
        names = {f.name for f in found.type.value_type}
        if {"role", "content"} <= names:
            return pa.array([_turns(value) for value in found.to_pylist()], pa.string())
    return None


def _turns(messages: list[Mapping[str, Any]] | None) -> str | None:
    """Messages as one text, a line a turn; a single message is its content."""
    if messages is None:
        return None
    if len(messages) == 1:
        return str(messages[0]["content"])
    return "\n".join(f"{m['role']}: {m['content']}" for m in messages)


def _number(found: pa.Array, kind: pa.DataType, file: ForeignFile, name: str) -> pa.Array | None:
    t = pa.types
    if t.is_boolean(kind):
        if t.is_boolean(found.type):
            return found
        if not (t.is_integer(found.type) or t.is_floating(found.type)):
            return None
    elif not (t.is_integer(found.type) or t.is_floating(found.type) or t.is_decimal(found.type)):
        return None
    if t.is_integer(found.type) and t.is_integer(kind):
        return found.cast(kind)
    numbers = found.cast(pa.float64())
    numbers = pc.if_else(pc.is_nan(numbers), None, numbers)
    _refuse(pc.is_inf(numbers), numbers, "must be finite", file, name)
    if t.is_floating(kind):
        return numbers
    if t.is_boolean(kind):
        _refuse(pc.invert(pc.is_in(numbers, pa.array([0.0, 1.0, None]))), numbers, "must be true or false (or 1, 0)", file, name)
        return numbers.cast(pa.bool_())
    _refuse(pc.not_equal(numbers, pc.floor(numbers)), numbers, "must be a whole number", file, name)
    return numbers.cast(kind)


def _refuse(wrong: pa.Array, values: pa.Array, what: str, file: ForeignFile, name: str) -> None:
    rows = np.flatnonzero(np.asarray(pc.fill_null(wrong, False)))
    if len(rows):
        row = int(rows[0])
        raise UserError(f"{what}, got {values[row].as_py():g}.", where=f"{file.place(row)}, column '{name}'")
