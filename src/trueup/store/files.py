"""Files of other kinds than records: tables, and the hashes of what a result was made from."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pandas as pd

from trueup.store.atomic import atomic_path


def file_sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's content."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_frame(path: Path, frame: pd.DataFrame) -> None:
    """Write a table as Parquet, whole or not at all."""
    with atomic_path(path) as partial:
        frame.to_parquet(partial, index=False)
