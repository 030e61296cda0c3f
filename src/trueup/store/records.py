"""Sample records in files: typed, versioned Parquet, or JSON lines. docs/records.md describes every column."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from trueup.core.errors import UserError, did_you_mean
from trueup.core.record import SCHEMA_VERSION, SampleRecord
from trueup.store.atomic import atomic_path
from trueup.store.columns import conform, flatten

VERSION_KEY = b"trueup.record_version"

_MAP = pa.map_(pa.string(), pa.float64())
_TYPES: dict[str, pa.DataType] = {
    "run": pa.string(),
    "arm": pa.string(),
    "seed": pa.int64(),
    "step": pa.int64(),
    "split": pa.string(),
    "prompt_id": pa.string(),
    "sample_id": pa.string(),
    "policy_id": pa.string(),
    "prompt": pa.string(),
    "response": pa.string(),
    "variant": pa.string(),
    "n_tokens": pa.int64(),
    "finished": pa.bool_(),
    "decoding": pa.struct([("temperature", pa.float64()), ("top_p", pa.float64()), ("max_tokens", pa.int64())]),
    "logp_policy_nats": pa.float64(),
    "logp_ref_nats": pa.float64(),
    "logp_sampling_nats": pa.float64(),
    "kl_policy_ref_exact_nats": pa.float64(),
    "kl_bound_nats": pa.float64(),
    "compute_tokens": pa.int64(),
    "scores": _MAP,
    "proxy_fixed": pa.float64(),
    "proxy_current": pa.float64(),
    "disagreement": pa.float64(),
    "gold": pa.float64(),
    "gold_components": _MAP,
    "win_probability": _MAP,
    "labels": pa.list_(pa.struct([("annotator", pa.string()), ("other_sample_id", pa.string()), ("preference", pa.float64())])),
    "evaluations": _MAP,
}
REQUIRED = tuple(f.name for f in fields(SampleRecord) if f.default is MISSING and f.default_factory is MISSING)
"""Columns that every file of records has; only ``step`` may be null in them."""


def schema() -> pa.Schema:
    """Columns and types of a record file, with its version as metadata."""
    columns = [pa.field(name, kind, nullable=name not in REQUIRED or name == "step") for name, kind in _TYPES.items()]
    return pa.schema(columns, metadata={VERSION_KEY: str(SCHEMA_VERSION).encode()})


def write_records(path: str | Path, rows: Sequence[SampleRecord]) -> None:
    """Write records atomically: Parquet, or JSON lines where the name ends in ``.jsonl``.

    Raises:
        UserError: the place may not be written or the disk is full.
    """
    (write_jsonl if Path(path).suffix == ".jsonl" else write_parquet)(path, rows)


def write_parquet(path: str | Path, rows: Sequence[SampleRecord]) -> None:
    """Write records as Parquet, atomically."""
    table = to_table(rows)
    with atomic_path(path) as partial:
        pq.write_table(table, partial, compression="zstd")


def write_jsonl(path: str | Path, rows: Sequence[SampleRecord]) -> None:
    """Write records as JSON lines, atomically."""
    with atomic_path(path) as partial, open(partial, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(row.to_dict(), ensure_ascii=False) + "\n" for row in rows)


def to_table(rows: Iterable[SampleRecord]) -> pa.Table:
    """Records as a typed table."""
    rows = list(rows)
    columns = []
    for name, kind in _TYPES.items():
        values: list[Any] = [getattr(row, name) for row in rows]
        if kind == _MAP:
            values = [list(v.items()) for v in values]
        elif name == "decoding":
            values = [v and vars(v) for v in values]
        elif name == "labels":
            values = [[vars(x) for x in v] for v in values]
        columns.append(pa.array(values, kind))
    return pa.Table.from_arrays(columns, schema=schema())


def read_records(paths: str | Path | Sequence[str | Path]) -> list[SampleRecord]:
    """Records of files or run folders, one object a row; `frame` is the fast way to many.

    Raises:
        UserError: a file is missing or damaged, a column is missing, unknown or of the wrong type.
    """
    maps = [name for name, kind in _TYPES.items() if kind == _MAP]
    found = []
    for row in read_table(paths).to_pylist():
        found.append(SampleRecord.from_dict({**row, **{name: dict(row[name] or ()) for name in maps}}))
    return found


def frame(paths: str | Path | Sequence[str | Path]) -> pd.DataFrame:
    """Records of files or run folders, one row a sample, flattened.

    Scalar columns keep their names; maps become ``scores.<id>``, ``gold_components.<name>``, ``win_probability.<id>``,
    ``evaluations.<name>``; ``labels`` (a list of dicts) and ``decoding`` (a dict) stay objects. Absent is NaN, or None in object columns.

    Raises:
        UserError: a file is missing or damaged, a column is missing, unknown or of the wrong type.
    """
    return flatten(read_table(paths))


def to_frame(rows: Iterable[SampleRecord]) -> pd.DataFrame:
    """Records in memory, flattened as by `frame`."""
    return flatten(to_table(rows))


def read_table(paths: str | Path | Sequence[str | Path]) -> pa.Table:
    """All records of the given places as one typed table.

    Args:
        paths: a Parquet or JSON lines file, a folder of such files, a run folder, or several of them.

    Raises:
        UserError: a file is missing or damaged, a column is missing, unknown or of the wrong type, or a sample occurs twice.
    """
    files = [file for path in ([paths] if isinstance(paths, str | Path) else paths) for file in record_files(path)]
    table = pa.concat_tables([_read_file(file) for file in files]).combine_chunks()
    _refuse_repeats(table, files)
    return table


def record_files(path: str | Path) -> list[Path]:
    """The record files of a place: itself, or those of the folder (a run's ``records`` folder), sorted by name.

    Raises:
        UserError: there are none.
    """
    path = Path(path)
    if os.path.isfile(path):
        return [path]
    if not os.path.exists(path):  # unlike Path.exists, False also where a folder on the way may not be searched
        raise UserError("no such file or folder. Give a run folder, or a .parquet or .jsonl file of records.", where=str(path))
    folder = path / "records" if (path / "records").is_dir() else path
    found = sorted(p for pattern in ("*.parquet", "*.jsonl") for p in folder.rglob(pattern) if not p.name.startswith("."))
    found = [p for p in found if folder.name == "records" or p.name not in ("metrics.jsonl", "ledger.jsonl")]
    if not found:
        raise UserError("holds no records (*.parquet or *.jsonl). Give the folder of a run that has sampled.", where=str(folder))
    return found


def _read_file(file: Path) -> pa.Table:
    if file.suffix == ".jsonl":
        return _read_jsonl(file)
    table = _read_parquet(file)
    version = int((table.schema.metadata or {}).get(VERSION_KEY, SCHEMA_VERSION))
    if version > SCHEMA_VERSION:
        raise UserError(f"holds records of version {version}; this trueup reads up to {SCHEMA_VERSION}. Update trueup.", where=str(file))
    _check_names(table.column_names, str(file))
    return conform(table, schema(), str(file))


def _read_parquet(file: Path) -> pa.Table:
    try:
        with pq.ParquetFile(file) as parquet:
            return parquet.read()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UserError(f"is not a readable Parquet file ({_first_line(error)}). Copy or write it again.", where=str(file)) from error


def _read_jsonl(file: Path) -> pa.Table:
    rows = dict(_json_rows(file))
    try:
        return conform(_inferred(list(rows.values()), str(file)), schema(), str(file))
    except UserError:
        # Whole columns first, since that is fast; now line by line, to name the line.
        for number, row in rows.items():
            place = f"{file}, line {number}"
            conform(_inferred([row], place), schema(), place)
        raise


def _json_rows(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    number = 0
    try:
        with open(file, "rb") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    row = json.loads(line)
                    if not isinstance(row, dict):
                        raise UserError(f"must be an object of columns, got {type(row).__name__}.", where=f"{file}, line {number}")
                    _check_names(row, f"{file}, line {number}")
                    yield number, row
    except ValueError as error:
        raise UserError(f"is not valid JSON ({error}). Each line holds one record.", where=f"{file}, line {number}") from error
    except OSError as error:
        raise UserError(f"cannot be read ({error.strerror}).", where=str(file)) from error


def _inferred(rows: Sequence[Mapping[str, Any]], where: str) -> pa.Table:
    """JSON rows as a table of whatever types they have."""
    columns = {}
    for name, kind in _TYPES.items():
        try:
            columns[name] = pa.array([row.get(name) for row in rows])
        except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
            raise UserError(f"column '{name}' must be {kind} ({_first_line(error)}).", where=where) from error
    return pa.table(columns)


def _check_names(names: Iterable[str], where: str) -> None:
    names = list(names)
    for name in names:
        if name not in _TYPES:
            raise UserError(f"unknown column '{name}'.{did_you_mean(name, _TYPES)} Known: {', '.join(_TYPES)}.", where=where)
    for name in REQUIRED:
        if name not in names:
            raise UserError(f"the column '{name}' is missing. Every record has {', '.join(REQUIRED)}.", where=where)


def _refuse_repeats(table: pa.Table, files: Sequence[Path]) -> None:
    names = table.select(["run", "seed", "sample_id"]).to_pandas()
    repeated = names.duplicated()
    if repeated.any():
        run, seed, sample = names[repeated].iloc[0]
        raise UserError(
            f"sample '{sample}' of run '{run}' (seed {seed}) occurs more than once in {len(files)} file(s). Give each run once.",
            where=str(files[-1]),
        )


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
