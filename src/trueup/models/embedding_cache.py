"""Vectors kept by the hash of their text, in memory and on disk."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from trueup.models.embeddings import Embedder

SHARD_ROWS = 256
"""New vectors that are worth a file of their own; fewer wait for more, or for `CachedEmbedder.flush`."""


class CachedEmbedder:
    """An embedder that remembers.

    Each file on disk is written once under a temporary name and renamed, so several processes may share a folder; a file that
    cannot be read is left alone and its texts are embedded again.

    Args:
        inner: what embeds texts not seen before.
        folder: where files are kept; None keeps vectors in memory only.
    """

    def __init__(self, inner: Embedder, folder: Path | None) -> None:
        self.inner = inner
        self.folder = folder / hashlib.sha256(inner.name.encode()).hexdigest()[:16] if folder else None
        self._known: dict[bytes, NDArray[np.float32]] = {}
        self._new: list[bytes] = []
        if self.folder is not None and self.folder.is_dir():
            for file in sorted(self.folder.glob("*.npz")):
                self._read(file)

    @property
    def name(self) -> str:
        """Of the inner embedder."""
        return self.inner.name

    @property
    def dimension(self) -> int:
        """D."""
        return self.inner.dimension

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """[N, D] float32, each row of Euclidean norm 1; only texts not seen before are computed."""
        keys = [hashlib.sha256(t.encode("utf-8", "surrogatepass")).digest() for t in texts]
        missing = {k: t for k, t in zip(keys, texts, strict=True) if k not in self._known}
        if missing:
            for k, vector in zip(missing, self.inner.embed(list(missing.values())), strict=True):
                self._known[k] = vector
            self._new += missing
            if len(self._new) >= SHARD_ROWS:
                self.flush()
        return np.stack([self._known[k] for k in keys]) if keys else np.empty((0, self.dimension), dtype=np.float32)

    def flush(self) -> None:
        """Write vectors that are not on disk yet."""
        if self.folder is None or not self._new:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        name = hashlib.sha256(b"".join(sorted(self._new))).hexdigest()[:32]
        handle, temporary = tempfile.mkstemp(dir=self.folder, suffix=".tmp")
        try:
            with os.fdopen(handle, "wb") as stream:
                np.savez(
                    stream, keys=np.frombuffer(b"".join(self._new), dtype=np.uint8), vectors=np.stack([self._known[k] for k in self._new])
                )
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(temporary, self.folder / f"{name}.npz")
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        self._new = []

    def _read(self, file: Path) -> None:
        try:
            # opened here, so that a broken file is closed too
            with file.open("rb") as stream, np.load(stream, allow_pickle=False) as data:
                keys, vectors = data["keys"].tobytes(), data["vectors"]
        except (OSError, ValueError, KeyError, EOFError, BadZipFile):
            return
        if vectors.shape != (len(keys) // 32, self.inner.dimension) or vectors.dtype != np.float32:
            return
        self._known.update((keys[32 * i : 32 * i + 32], vector) for i, vector in enumerate(vectors))
