"""Evaluations that were made elsewhere, of whole checkpoints: ``step``, ``name``, ``value``, and where known ``n``, ``better``, ``arm``.

They become rows of the split ``evaluation``, one a checkpoint, with no reply: ``evaluations`` holds the value under its name, the number of
items under ``NAME:n``, and the better side (1 higher, -1 lower) under ``NAME:side``.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from trueup.core.errors import UserError
from trueup.core.record import OFFLINE_ARM, SampleRecord
from trueup.store.foreign import Foreign
from trueup.store.foreign_files import ForeignFile
from trueup.store.foreign_types import as_type
from trueup.store.records import to_table

SPLIT = "evaluation"
_TYPES = {"step": pa.int64(), "name": pa.string(), "value": pa.float64(), "n": pa.int64(), "better": pa.string(), "arm": pa.string()}
_SIDES = {"higher": 1.0, "lower": -1.0}


def with_evaluations(found: Foreign, path: str | Path) -> Foreign:
    """Add the evaluations of a file to the records.

    Raises:
        UserError: the file cannot be read, a row lacks something, an arm or checkpoint is unknown, or one evaluation is there twice.
    """
    file = ForeignFile(Path(path))
    # CSV cells of whole numbers are read as numbers, so that 40.0 passes
    table, names = file.read(lambda n: pa.float64() if n in ("step", "n") else _TYPES.get(n))
    lacking = [n for n in ("step", "name", "value") if n not in names]
    if lacking:
        raise UserError(
            f"has no column '{lacking[0]}'. Needed: step, name, value; where known n, better, arm. Found: {', '.join(names)}.",
            where=str(path),
        )
    columns = {n: as_type(table.column(n), _TYPES[n], file, n).to_pylist() for n in _TYPES if n in names}
    steps = _steps(found.table)
    rows: dict[tuple[str, int], dict[str, float]] = {}
    for i in range(len(table)):
        row = {n: values[i] for n, values in columns.items()}
        arm = _arm(row, steps, file, i)
        values = rows.setdefault((arm, row["step"]), {})
        if row["name"] in values:
            raise UserError(f"'{row['name']}' of step {row['step']} is there twice.", where=file.place(i))
        values[row["name"]] = row["value"]
        if row.get("n") is not None:
            values[f"{row['name']}:n"] = float(row["n"])
        values[f"{row['name']}:side"] = _side(row, file, i)
    if not rows:
        raise UserError("holds no evaluations.", where=str(path))
    run = str(found.table.column("run")[0].as_py())
    records = [
        SampleRecord(
            run=run,
            arm=arm,
            seed=0,
            step=step,
            split=SPLIT,
            prompt_id=SPLIT,
            sample_id=f"{SPLIT}-{arm}-{step}",
            policy_id=f"{arm}/{step}",
            prompt="",
            response="",
            evaluations=values,
        )
        for (arm, step), values in sorted(rows.items())
    ]
    whole = pa.concat_tables([found.table, to_table(records)]).combine_chunks()
    return replace(found, table=whole, files=(*found.files, str(path)))


def _steps(table: pa.Table) -> dict[str, set[int]]:
    """Arm -> steps of its samples."""
    kept = table.select(["arm", "step"]).filter(pc.not_equal(table.column("arm"), OFFLINE_ARM))
    out: dict[str, set[int]] = {}
    for row in kept.group_by(["arm", "step"]).aggregate([]).to_pylist():
        out.setdefault(row["arm"], set()).add(row["step"])
    return out


def _arm(row: dict[str, Any], steps: dict[str, set[int]], file: ForeignFile, number: int) -> str:
    """Whose evaluation it is; what a row must have is checked."""
    for name in ("step", "name", "value"):
        if row[name] is None or row[name] == "":
            raise UserError("is empty.", where=f"{file.place(number)}, column '{name}'")
    if row.get("n") is not None and row["n"] < 1:
        raise UserError(f"must be at least 1, got {row['n']}.", where=f"{file.place(number)}, column 'n'")
    arm = row.get("arm") or (next(iter(steps)) if len(steps) == 1 else None)
    if arm is None:
        raise UserError(f"the samples are of several arms ({', '.join(steps)}): name one in a column 'arm'.", where=file.place(number))
    if arm not in steps:
        raise UserError(f"no samples are of arm '{arm}', only of {', '.join(steps)}.", where=f"{file.place(number)}, column 'arm'")
    if row["step"] not in steps[arm]:
        known = ", ".join(map(str, sorted(steps[arm])))
        raise UserError(f"no samples are of step {row['step']}, only of {known}.", where=f"{file.place(number)}, column 'step'")
    return str(arm)


def _side(row: dict[str, Any], file: ForeignFile, number: int) -> float:
    told = str(row.get("better") or "higher").strip().lower()
    if told not in _SIDES:
        raise UserError(f"must be higher or lower, got {told!r}.", where=f"{file.place(number)}, column 'better'")
    return _SIDES[told]
