"""Append-only JSON lines that survive a killed writer."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from trueup.core.errors import UserError
from trueup.store.atomic import atomic_path, writing


class Lines:
    """A file of JSON rows, opened at the first `append`.

    Args:
        path: the file; it may be absent.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: IO[bytes] | None = None

    def append(self, row: Mapping[str, Any]) -> None:
        """Add a row and hand it to the system at once. Numbers that are not finite become null: absent is absent."""
        data = (json.dumps(plain(row), ensure_ascii=False, allow_nan=False) + "\n").encode()
        with writing(self.path):
            if self._file is None:
                self._file = open(self.path, "ab", buffering=0)  # noqa: SIM115 - kept open over many rows
            self._file.write(data)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """The whole rows, in order. A last line that a killed writer left unfinished is passed over."""
        if not self.path.exists():
            return
        with open(self.path, "rb") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n"):
                    return
                try:
                    row = json.loads(line)
                except ValueError as error:
                    raise UserError(f"is not valid JSON ({error}). Remove the line.", where=f"{self.path}, line {number}") from error
                yield row

    def count(self) -> int:
        """Whole rows in the file."""
        return sum(1 for _ in self)

    def trim(self) -> None:
        """Cut off a last line that a killed writer left unfinished."""
        self.close()
        if not self.path.exists():
            return
        with writing(self.path), open(self.path, "rb+") as file:
            data = file.read()
            whole = data.rfind(b"\n") + 1
            if whole < len(data):
                file.truncate(whole)
                file.flush()
                os.fsync(file.fileno())

    def keep(self, wanted: Callable[[Sequence[dict[str, Any]]], Sequence[bool]]) -> int:
        """Atomically drop the rows for which ``wanted(rows)`` is False; returns how many were dropped."""
        rows = list(self)
        kept = wanted(rows)
        if all(kept):
            self.trim()
            return 0
        self.close()
        with open(self.path, "rb") as file:
            lines = [line for line, keep in zip(file, kept, strict=False) if keep]
        with atomic_path(self.path) as partial:
            partial.write_bytes(b"".join(lines))
        return len(rows) - len(lines)

    def close(self) -> None:
        """Close the file; `append` opens it again."""
        if self._file is not None:
            self._file.close()
            self._file = None


def plain(value: Any) -> Any:
    """The same value of plain JSON types; numbers that are not finite become None.

    Raises:
        TypeError: a value that JSON does not know.
    """
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if hasattr(value, "item") and not isinstance(value, str):
        value = value.item()
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
