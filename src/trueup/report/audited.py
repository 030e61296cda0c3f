"""Audits of samples that exist: records in a run folder of their own, and the usual report of it; neither a model nor torch is needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from trueup.core.record import OFFLINE_ARM
from trueup.core.rng import Key
from trueup.report.write import ReportPaths, report_one
from trueup.store.atomic import atomic_path
from trueup.store.files import file_sha256
from trueup.store.foreign import Foreign, read_foreign
from trueup.store.foreign_evaluations import with_evaluations
from trueup.store.foreign_labels import Labelled, with_labels
from trueup.store.run import Run


@dataclass(frozen=True, kw_only=True)
class AuditedRecords:
    """What was read, and where the report is."""

    paths: ReportPaths
    data: dict[str, Any]
    """The content of report.json."""
    reading: dict[str, Any]
    """How the files were read; see `reading_of`."""


def audit_records(
    records: Sequence[str | Path],
    out: Path,
    *,
    labels: str | Path | None = None,
    evaluations: str | Path | None = None,
    columns: Mapping[str, str] | None = None,
    resume: bool = False,
    key: Key,
) -> AuditedRecords:
    """Read samples of any program, write them as records into a run folder, and report on them.

    Args:
        records: files, or run folders of ours; see `trueup.store.foreign`.
        out: the folder; new or empty, unless ``resume``.
        labels: file of comparisons; see `trueup.store.foreign_labels`.
        evaluations: file of evaluations of checkpoints; see `trueup.store.foreign_evaluations`.
        columns: our name of a column -> the files'.
        resume: write the audit of the same files again.
        key: random stream of the report.

    Raises:
        UserError: something in a file, or a folder in use; file, line and column are named before anything is written.
    """
    found = _told(read_foreign(records, columns), labels, evaluations)
    given = {"records": [str(r) for r in records], "columns": dict(columns or {})}
    with Run.create(out, {"audit": given}, resume=resume) as run:
        return _written(run, *found, key, {})


def write_audit(
    run: Run, found: Foreign, labels: str | Path | None, evaluations: str | Path | None, key: Key, **facts: Any
) -> AuditedRecords:
    """Put labels and evaluations of files beside records, write them into a run folder, and report on it.

    Args:
        run: open for writing.
        found: records without labels of files.
        labels: see `audit_records`, as below.
        evaluations: see `audit_records`.
        key: random stream of the report.
        facts: of the manifest.

    Raises:
        UserError: something in a file.
    """
    return _written(run, *_told(found, labels, evaluations), key, facts)


def read_audited(
    records: Sequence[str | Path], columns: Mapping[str, str] | None, labels: str | Path | None, evaluations: str | Path | None
) -> tuple[pa.Table, dict[str, Any]]:
    """Records of files as a table, and `reading_of` them; arguments and errors as of `audit_records`."""
    found, told = _told(read_foreign(records, columns), labels, evaluations)
    return found.table, reading_of(found, told)


def _told(found: Foreign, labels: str | Path | None, evaluations: str | Path | None) -> tuple[Foreign, Labelled | None]:
    told = None
    if labels is not None:
        told = with_labels(found, labels)
        found = told.found
    return found if evaluations is None else with_evaluations(found, evaluations), told


def _written(run: Run, found: Foreign, told: Labelled | None, key: Key, facts: Mapping[str, Any]) -> AuditedRecords:
    reading = reading_of(found, told)
    with atomic_path(run.records_path("audit")) as partial:
        pq.write_table(found.table, partial, compression="zstd")
    arms = [a for a in pc.unique(found.table.column("arm")).to_pylist() if a != OFFLINE_ARM]
    run.write_manifest(**{"name": run.root.resolve().name, "arms": arms, "main_arm": arms[0] if arms else None, "audit": reading, **facts})
    paths, data = report_one(run.root, key=key)
    return AuditedRecords(paths=paths, data=data, reading=reading)


def reading_of(found: Foreign, told: Labelled | None = None) -> dict[str, Any]:
    """How files were read, as plain values: ``files`` with their hashes, ``rows``, ``read`` (our column -> theirs), ``ignored``,
    ``missing`` (our column -> what cannot be said without), and ``labels`` (comparisons among the samples, offline, left out)."""
    labels = None if told is None else {"among_samples": told.among_samples, "offline": told.offline, "left_out": told.left_out}
    return {
        "files": [{"file": f, "sha256": file_sha256(Path(f))} for f in found.files],
        "rows": len(found.table),
        "read": found.read,
        "ignored": list(found.ignored),
        "missing": found.missing(),
        "labels": labels,
    }
