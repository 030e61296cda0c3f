"""Arrow columns made to fit the record's types, and flattened for diagnoses. Whole columns at a time: a million rows take seconds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from trueup.core.errors import UserError


def conform(table: pa.Table, schema: pa.Schema, where: str) -> pa.Table:
    """The table with exactly the schema's columns and types; absent columns become null.

    Numbers may be of any width (an integer may stand for a float, never a text for a number); a struct of numbers may stand for a map.

    Raises:
        UserError: a column is of another type, or null where the schema allows none.
    """
    columns = []
    for field in schema:
        if field.name not in table.column_names:
            columns.append(pa.nulls(len(table), field.type))
            continue
        column = table.column(field.name).combine_chunks()
        if not _fits(column.type, field.type):
            raise UserError(f"column '{field.name}' must be {field.type}, got {column.type}.", where=where)
        try:
            columns.append(_convert(column, field.type))
        except pa.ArrowException as error:
            raise UserError(f"column '{field.name}' must be {field.type}, got {column.type} ({error}).", where=where) from error
        if not field.nullable and column.null_count:
            row = int(np.flatnonzero(np.asarray(column.is_null()))[0]) + 1
            raise UserError(f"column '{field.name}' is null in {column.null_count} rows, first in row {row}; it may not be.", where=where)
    return pa.Table.from_arrays(columns, schema=schema)


def flatten(table: pa.Table) -> pd.DataFrame:
    """Scalars under their names, maps as ``column.key``, lists and structs as Python objects."""
    columns: dict[str, Any] = {}
    for name in table.column_names:
        column = table.column(name).combine_chunks()
        if pa.types.is_map(column.type):
            columns.update({f"{name}.{key}": values for key, values in _map_columns(column).items()})
        elif pa.types.is_nested(column.type):
            columns[name] = _objects(column)
        else:
            columns[name] = column.to_pandas()
    return pd.DataFrame(columns)


def _fits(have: pa.DataType, want: pa.DataType) -> bool:
    t = pa.types
    if t.is_null(have):
        return True
    if t.is_dictionary(have):
        return _fits(have.value_type, want)
    if t.is_string(want):
        return bool(t.is_string(have) or t.is_large_string(have) or t.is_string_view(have))
    if t.is_floating(want):
        return bool(t.is_floating(have) or t.is_integer(have))
    if t.is_integer(want):
        # pandas turns an integer column with gaps into floats; the cast still refuses fractions.
        return bool(t.is_integer(have) or t.is_floating(have))
    if t.is_map(want):
        if t.is_map(have):
            return _fits(have.key_type, want.key_type) and _fits(have.item_type, want.item_type)
        return bool(t.is_struct(have)) and all(_fits(f.type, want.item_type) for f in have)
    if t.is_list(want):
        return bool(t.is_list(have) or t.is_large_list(have)) and _fits(have.value_type, want.value_type)
    if t.is_struct(want):
        return bool(t.is_struct(have)) and all(want.get_field_index(f.name) >= 0 and _fits(f.type, want.field(f.name).type) for f in have)
    return bool(have == want)


def _convert(column: pa.Array, want: pa.DataType) -> pa.Array:
    if pa.types.is_map(want) and pa.types.is_struct(column.type):
        return _struct_to_map(column, want)
    if pa.types.is_integer(want) and pa.types.is_floating(column.type):
        column = pc.if_else(pc.is_nan(column), None, column)
    return column.cast(want, safe=True)


def _struct_to_map(column: pa.StructArray, want: pa.MapType) -> pa.MapArray:
    """One entry a field that is not null, row by row, in the order of the fields."""
    names = [f.name for f in column.type]
    if not names:
        return pa.array([[]] * len(column), want)
    values = np.column_stack([_floats(child) for child in column.flatten()])
    present = ~np.isnan(values)
    offsets = np.concatenate([[0], np.cumsum(present.sum(1))]).astype(np.int32)
    keys = np.broadcast_to(np.array(names, dtype=object), values.shape)[present]
    return pa.MapArray.from_arrays(pa.array(offsets), pa.array(keys, pa.string()), pa.array(values[present], pa.float64()))


def _map_columns(column: pa.MapArray) -> dict[str, np.ndarray[Any, np.dtype[np.float64]]]:
    """key -> one number a row, NaN where the row's map lacks it. Keys are in order of their names."""
    # The children of a slice cover the whole parent, and those of a null row need not be empty: the offsets say what counts.
    offsets = np.asarray(column.offsets)
    rows = np.repeat(np.arange(len(column)), np.diff(offsets))
    first, last = (int(offsets[0]), int(offsets[-1])) if len(offsets) else (0, 0)
    keys, values_all = column.keys[first:last], _floats(column.items[first:last])
    valid = np.asarray(column.is_valid())[rows]
    encoded = pc.dictionary_encode(keys)
    codes = np.asarray(encoded.indices)
    found = {}
    for code, key in sorted(enumerate(encoded.dictionary.to_pylist()), key=lambda pair: pair[1]):
        values = np.full(len(column), np.nan)
        chosen = (codes == code) & valid
        values[rows[chosen]] = values_all[chosen]
        found[key] = values
    return found


def _objects(column: pa.Array) -> np.ndarray[Any, np.dtype[Any]]:
    """Python values of a nested column; equal structs share one object, and empty lists cost nothing."""
    out = np.empty(len(column), dtype=object)
    if pa.types.is_struct(column.type):
        parts = [child.to_numpy(zero_copy_only=False).tolist() for child in column.flatten()]
        valid = np.asarray(column.is_valid()).tolist()
        known: dict[tuple[str, ...], Any] = {}
        for i, values in enumerate(zip(*parts, strict=True)):
            key = tuple(map(str, values))
            if valid[i] and key not in known:
                known[key] = column[i].as_py()
            out[i] = known[key] if valid[i] else None
        return out
    lengths = np.asarray(pc.fill_null(pc.list_value_length(column), 0))
    filled = np.flatnonzero(lengths)
    out[:] = [[] for _ in range(len(column))]
    for i, value in zip(filled.tolist(), column.take(pa.array(filled)).to_pylist(), strict=True):
        out[i] = value
    return out


def _floats(column: pa.Array) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.asarray(column.cast(pa.float64()).to_numpy(zero_copy_only=False), dtype=np.float64)
