"""The run folder: the only code that knows its paths.

| file | content |
|---|---|
| ``config.yaml`` | the complete configuration |
| ``manifest.json`` | commit, versions, seed, hashes, device, wall time |
| ``metrics.jsonl`` | one row a logged step: ``stage, arm, step, metrics`` |
| ``ledger.jsonl`` | one row a step executed by any process; never rewound |
| ``records/*.parquet`` | sample records |
| ``checkpoints/…`` | models in Hugging Face layout |
| ``states/…`` | what a resumed process needs |
| ``stages/*.json`` | facts of finished stages |
| ``report/`` | the page |
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from trueup.core.errors import UserError
from trueup.core.record import SampleRecord
from trueup.store.atomic import is_leftover, recover, write_text, writing
from trueup.store.changes import refuse_changes
from trueup.store.lines import Lines, plain
from trueup.store.lock import Lock
from trueup.store.manifest import environment
from trueup.store.records import write_parquet


class Run:
    """A run folder; constructing it touches nothing. `create` makes or continues one for writing.

    Args:
        root: the folder.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self._metrics, self._ledger = Lines(self.metrics_path), Lines(self.ledger_path)
        self._lock: Lock | None = None
        self._since = time.monotonic()
        self._before_s = 0.0

    @classmethod
    def create(cls, root: str | Path, config: Mapping[str, Any], *, resume: bool = False, writer: bool = True) -> Run:
        """Start a run, or continue one, and lock it against other processes.

        Args:
            root: the folder; it may be absent or empty.
            config: the complete configuration, plain values.
            resume: continue what the folder holds; where it holds nothing yet, start.
            writer: False in all processes of a run but the first, which alone locks and writes; the others only read.

        Raises:
            UserError: the folder is in use (without ``resume``), is no run, holds another configuration, is locked, or cannot be written.
        """
        run = cls(root)
        if not writer:
            return run
        with writing(run.root):
            found = list(run.root.iterdir()) if run.root.is_dir() else []
        entries = [p.name for p in found if p.name != Lock.NAME and not is_leftover(p.name)]
        if entries and not resume:
            raise UserError(
                "the folder is not empty. Continue that run with --resume, or choose another folder with --out.", where=str(root)
            )
        if entries and run.config_path.name not in entries:
            raise UserError(
                "is not a run folder (it has no config.yaml), so it cannot be resumed. Choose another with --out.", where=str(root)
            )
        with writing(run.root):
            run.root.mkdir(parents=True, exist_ok=True)
        run._lock = Lock(run.root)
        try:
            run._open(config)
        except BaseException:
            run.close()
            raise
        return run

    def _open(self, config: Mapping[str, Any]) -> None:
        recover(self.root)
        if self.config_path.exists():
            refuse_changes(self.config(), plain(config), self.config_path)
            self._before_s = float(self.manifest().get("wall_s") or 0.0)
            self._metrics.trim()
            self._ledger.trim()
        else:
            write_text(self.config_path, yaml.safe_dump(plain(config), sort_keys=False, allow_unicode=True, width=120))

    def close(self) -> None:
        """Close the logs and free the lock; reading still works."""
        self._metrics.close()
        self._ledger.close()
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Places

    @property
    def config_path(self) -> Path:
        """The complete configuration."""
        return self.root / "config.yaml"

    @property
    def manifest_path(self) -> Path:
        """Commit, versions, seed, hashes, device, wall time."""
        return self.root / "manifest.json"

    @property
    def metrics_path(self) -> Path:
        """One JSON row a logged step."""
        return self.root / "metrics.jsonl"

    @property
    def ledger_path(self) -> Path:
        """One JSON row an executed step."""
        return self.root / "ledger.jsonl"

    @property
    def records_dir(self) -> Path:
        """Sample records."""
        return self.root / "records"

    @property
    def report_dir(self) -> Path:
        """The page and its data."""
        return self.root / "report"

    def records_path(self, name: str) -> Path:
        """The Parquet file of a batch of records."""
        return _inside(self.records_dir, name).with_name(f"{PurePosixPath(name).name}.parquet")

    def checkpoint(self, name: str) -> Path:
        """The folder of a saved model; ``name`` may hold ``/``."""
        return _inside(self.root / "checkpoints", name)

    def state(self, name: str) -> Path:
        """Where a resumed process finds what it needs; ``name`` may hold ``/``."""
        return _inside(self.root / "states", name)

    def stage_path(self, stage: str) -> Path:
        """The facts of a finished stage."""
        return _inside(self.root / "stages", stage).with_name(f"{PurePosixPath(stage).name}.json")

    # Logs

    def log(self, row: Mapping[str, Any]) -> None:
        """Append a row with ``stage``, ``arm``, ``step`` and ``metrics`` to metrics.jsonl, at once."""
        missing = {"stage", "arm", "step", "metrics"} - set(row)
        if missing:
            raise ValueError(f"a metrics row needs {sorted(missing)}, got {sorted(row)}")
        self._metrics.append(row)

    def metrics(self) -> list[dict[str, Any]]:
        """All rows logged so far."""
        return list(self._metrics)

    def mark(self) -> int:
        """How many rows are logged: store it with a state, and `rewind_to` it when that state is loaded."""
        return self._metrics.count()

    def rewind_to(self, mark: int) -> int:
        """Drop every row logged after `mark` was taken; returns how many."""
        return self._metrics.keep(lambda rows: [i < mark for i in range(len(rows))])

    def rewind(self, stage: str, arm: str | None, step: int) -> int:
        """Drop what a resumed process logs again: rows of (stage, arm) from ``step`` on, and all that came after the first of them.

        Args:
            stage: the stage that is resumed.
            arm: its arm.
            step: the first step that runs again.

        Returns:
            how many rows were dropped.
        """

        def wanted(rows: Sequence[dict[str, Any]]) -> list[bool]:
            again = (i for i, r in enumerate(rows) if (r["stage"], r["arm"]) == (stage, arm) and r["step"] >= step)
            cut = next(again, len(rows))
            return [i < cut for i in range(len(rows))]

        return self._metrics.keep(wanted)

    def ledger(self, stage: str, arm: str | None, step: int) -> None:
        """Note that this process executes a step. The ledger is never rewound: it counts the work of all processes."""
        self._ledger.append({"stage": stage, "arm": arm, "step": step, "pid": os.getpid(), "time": time.time()})

    def ledger_rows(self) -> Iterator[dict[str, Any]]:
        """Every step that any process executed, in order."""
        return iter(self._ledger)

    # Documents

    def write_records(self, name: str, rows: Sequence[SampleRecord]) -> Path:
        """Write ``records/<name>.parquet``, replacing it if it is there."""
        path = self.records_path(name)
        write_parquet(path, rows)
        return path

    def done(self, stage: str) -> dict[str, Any] | None:
        """The facts of a finished stage; None while it is not finished."""
        return _read_json(self.stage_path(stage))

    def mark_done(self, stage: str, facts: Mapping[str, Any]) -> None:
        """Note that a stage is finished, with what later stages need to know of it."""
        write_text(self.stage_path(stage), json.dumps(plain(facts), indent=2, ensure_ascii=False) + "\n")

    def config(self) -> dict[str, Any]:
        """The configuration as written.

        Raises:
            UserError: it is missing or damaged.
        """
        try:
            found = yaml.safe_load(self.config_path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise UserError(
                f"the run's configuration cannot be read ({error}). Start a new run in another folder.", where=str(self.config_path)
            ) from error
        if not isinstance(found, dict):
            raise UserError("the run's configuration holds no keys. Start a new run in another folder.", where=str(self.config_path))
        return found

    def manifest(self) -> dict[str, Any]:
        """The manifest as written; empty before the first `write_manifest`."""
        return _read_json(self.manifest_path) or {}

    def write_manifest(self, **facts: Any) -> dict[str, Any]:
        """Write the manifest: the code and the machine, wall time over all processes, and the given facts over earlier ones.

        Args:
            facts: ``seed, config_digest, data_digest, device, threads, arms, main_arm``, and whatever else identifies the run.
        """
        before = self.manifest()
        known = {k: v for k, v in before.items() if k not in ("started", "wall_s")}
        started = before.get("started") or time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        wall_s = round(self._before_s + time.monotonic() - self._since, 3)
        manifest = plain({**known, **environment(), **facts, "started": started, "wall_s": wall_s})
        write_text(self.manifest_path, json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")
        return dict(manifest)


def _inside(folder: Path, name: str) -> Path:
    """A path below ``folder``; names that lead elsewhere are a bug of the caller."""
    parts = PurePosixPath(name).parts
    if not parts or PurePosixPath(name).is_absolute() or any(p in ("..", ".") for p in parts):
        raise ValueError(f"not a name inside {folder}: {name!r}")
    return folder.joinpath(*parts)


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    try:
        return dict(json.loads(text))
    except (ValueError, TypeError) as error:
        raise UserError(f"is damaged ({error}). Remove it to let the run write it again.", where=str(path)) from error
