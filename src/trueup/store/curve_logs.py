"""Curves that other trainers logged: ``trainer_state.json``, TensorBoard event files, CSV, JSON lines, verl's console."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from trueup.core.errors import UserError
from trueup.store.curve_names import Naming, name_curves
from trueup.store.curve_tables import csv_rows
from trueup.store.event_files import read_events

STEPS = (
    "train/global_step", "training/global_step", "trainer/global_step", "global_step", "global_steps", "step", "Step", "iteration", "_step",
)  # fmt: skip
"""What a row's step may be called, in order of preference: a tracker's own count (``_step``) comes last."""
_STATE, _EVENTS = "trainer_state.json", "*tfevents*"
_CONSOLE = re.compile(r"step:(\d+) - (.+)")
_NUMBER = re.compile(r"(?:np\.\w+\()?([-+]?(?:\d[\d.]*(?:e[-+]?\d+)?|nan|inf))\)?", re.IGNORECASE)
_ALLOWED = f"Give {_STATE} or a training's folder, TensorBoard event files (events.out.tfevents.*) or their folder, a .csv, or a .jsonl."

Row = tuple[str, Mapping[str, Any]]
"""Place in the file, for messages, and the names and values that stand there."""


@dataclass(frozen=True, kw_only=True)
class CurveLog:
    """What one training run logged."""

    name: str
    source: Path
    form: str
    """``trainer_state``, ``tensorboard``, ``csv``, ``jsonl`` or ``console``."""
    table: pd.DataFrame
    """A row a step (the index, ascending), a column a logged name; NaN where nothing was logged."""
    notes: tuple[str, ...] = ()
    """What was passed over."""

    def curves(self, given: Mapping[str, str] | None = None) -> tuple[pd.DataFrame, Naming]:
        """The table under our names, and how names were read; see `name_curves`.

        Raises:
            UserError: a given name is not there, or no curve that we know is.
        """
        naming = name_curves([str(c) for c in self.table.columns], given)
        if not naming.used:
            raise UserError(
                f"holds no curve that is known. It has: {', '.join(naming.unknown + naming.unused) or 'none'}. "
                "Say which is which, such as --curve proxy=NAME.",
                where=str(self.source),
            )
        return self.table[list(naming.used.values())].set_axis(list(naming.used), axis=1), naming


def read_logs(path: str | Path) -> list[CurveLog]:
    """The logs of a file, or of a folder that a trainer wrote: one a training run.

    Args:
        path: see the module; of a training's folder, the newest state is read, else its event files.

    Raises:
        UserError: nothing that can be read is there, or a file is damaged; file, line and column are named.
    """
    path = Path(path)
    if path.is_dir():
        return _folder(path)
    if not path.exists():
        raise UserError(f"no such file or folder. {_ALLOWED}", where=str(path))
    if "tfevents" in path.name:
        return [_tensorboard([path], path.parent.name, path)]
    if path.suffix == ".wandb":
        raise UserError("is a tracker's own store. Export its history as CSV or JSON lines.", where=str(path))
    if path.suffix == ".json":
        return [_logged(path, "trainer_state", _state_rows(path), path.parent.name or path.stem)]
    if path.suffix in (".jsonl", ".ndjson"):
        notes: list[str] = []
        return [_logged(path, "jsonl", _json_rows(path, notes), path.stem, notes)]
    if path.suffix in (".csv", ".tsv"):
        return [_logged(path, "csv", rows, name) for name, rows in csv_rows(path, STEPS).items()]
    if path.suffix in (".log", ".txt", ".out"):
        return [_logged(path, "console", _console_rows(path), path.stem)]
    raise UserError(f"is of no form that is known. {_ALLOWED}", where=str(path))


def _folder(path: Path) -> list[CurveLog]:
    state = path / _STATE
    if not state.is_file():
        states = [p for p in path.glob(f"checkpoint-*/{_STATE}") if p.parent.name.split("-")[-1].isdigit()]
        state = max(states, key=lambda p: int(p.parent.name.split("-")[-1]), default=state)
    if state.is_file():
        return [_logged(state, "trainer_state", _state_rows(state), path.resolve().name)]
    events: dict[Path, list[Path]] = {}
    for file in sorted(path.rglob(_EVENTS)):
        events.setdefault(file.parent, []).append(file)
    found = [_tensorboard(files, _below(folder, path), folder) for folder, files in events.items()]
    found = [log for log in found if len(log.table)] or found[:1]
    if found:
        return found
    rest = sorted(p for pattern in ("*.jsonl", "*.csv") for p in path.glob(pattern) if p.name != "ledger.jsonl")
    if not rest:
        raise UserError(f"holds no log. {_ALLOWED}", where=str(path))
    return [log for file in rest for log in read_logs(file)]


def _below(folder: Path, top: Path) -> str:
    return folder.resolve().name if folder == top else str(folder.relative_to(top))


def _logged(source: Path, form: str, rows: Iterable[Row], name: str, notes: list[str] | None = None) -> CurveLog:
    """Rows as a table; of a number that was logged twice for a step, the later one stays, since a run that is resumed goes back."""
    steps, values, without, notes = list[int](), list[dict[str, float]](), 0, notes if notes is not None else []
    fields: dict[str, None] = {}
    for place, row in rows:
        fields |= dict.fromkeys(row)
        at = next((s for s in STEPS if row.get(s) is not None), None)
        numbers = {k: v for k, v in _numbers(row).items() if k not in STEPS}
        if at is None or not numbers:
            without += at is None and bool(numbers)
            continue
        step = _number(row[at])
        if step is None or not step.is_integer() or step < 0:
            raise UserError(f"must be a whole number of steps, got {row[at]!r}.", where=f"{place}, field '{at}'")
        steps.append(int(step))
        values.append(numbers)
    if not steps:
        raise UserError(
            f"holds no row with a step ({', '.join(STEPS)}) and a number. It has: {', '.join(fields) or 'nothing'}.", where=str(source)
        )
    if without:
        notes.append(f"{without} rows without a step were passed over")
    table = pd.DataFrame(values, index=pd.Index(steps, name="step"), dtype=float).groupby(level=0).last()
    return CurveLog(name=name, source=source, form=form, table=table, notes=tuple(notes))


def _numbers(row: Mapping[str, Any], before: str = "") -> dict[str, float]:
    """The numbers of a row, those of objects in it as ``name/inner``; texts, lists and truth values are no curves."""
    found: dict[str, float] = {}
    for name, value in row.items():
        if isinstance(value, Mapping):
            # verl writes {"step": .., "data": {..}}, others {"step": .., "metrics": {..}}: the wrapper is no part of the name
            found |= _numbers(value, before if name in ("data", "metrics") else f"{before}{name}/")
        elif (number := _number(value)) is not None:
            found[f"{before}{name}"] = number
    return found


def _number(value: Any) -> float | None:
    """A number; None where it is none, or not finite: absent is absent."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def _state_rows(path: Path) -> Iterator[Row]:
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"is not readable JSON ({error}). Copy it again.", where=str(path)) from error
    history = state.get("log_history") if isinstance(state, dict) else None
    if not isinstance(history, list) or not all(isinstance(row, dict) for row in history):
        raise UserError(f"has no list 'log_history', so it is no {_STATE}. {_ALLOWED}", where=str(path))
    for number, row in enumerate(history):
        yield f"{path}, log_history[{number}]", row


def _json_rows(path: Path, notes: list[str]) -> Iterator[Row]:
    lines = _lines(path)
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        place = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except ValueError as error:
            if number == len(lines) and not line.endswith("\n"):
                notes.append(f"the last line ({number}) is incomplete and was passed over")
                return
            raise UserError(f"is not valid JSON ({error}). Each line holds one object.", where=place) from error
        if not isinstance(row, dict):
            raise UserError(f"must be an object of names and numbers, got {type(row).__name__}.", where=place)
        yield place, row


def _console_rows(path: Path) -> Iterator[Row]:
    """verl prints ``step:1 - name:value - name:value``, also behind what Ray puts in front of a line."""
    for number, line in enumerate(_lines(path), 1):
        found = _CONSOLE.search(line)
        if not found:
            continue
        row: dict[str, Any] = {"step": int(found[1])}
        for part in found[2].split(" - "):
            name, _, text = part.strip().rpartition(":")
            value = _NUMBER.fullmatch(text)
            if name and value:
                row[name] = float(value[1])
        yield f"{path}, line {number}", row


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    except OSError as error:
        raise UserError(f"cannot be read ({error.strerror}).", where=str(path)) from error


def _tensorboard(files: list[Path], name: str, source: Path) -> CurveLog:
    """Event files of one folder; a run that is resumed writes another file, and what is written later stays."""
    found = [(file, read_events(file)) for file in files]
    scalars = sorted((s for _, events in found for s in events.scalars), key=lambda s: s.wall)
    notes = [f"{file.name} ends in an incomplete record, which was passed over" for file, events in found if events.cut]
    columns: dict[str, dict[int, float]] = {}
    for scalar in scalars:
        if math.isfinite(scalar.value):
            columns.setdefault(scalar.tag, {})[scalar.step] = scalar.value
    if not columns:
        raise UserError("holds no scalars. Give the folder of a run that has logged some.", where=str(source))
    table = pd.DataFrame({tag: pd.Series(points) for tag, points in columns.items()}, dtype=float).sort_index()
    table.index = table.index.astype("int64").rename("step")
    return CurveLog(name=name, source=source, form="tensorboard", table=table, notes=tuple(notes))
