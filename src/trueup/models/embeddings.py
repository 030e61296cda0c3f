"""Frozen sentence embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from trueup.core.errors import UserError

Vectors = NDArray[np.float32]


class Embedder(Protocol):
    """Texts to vectors of length 1."""

    @property
    def name(self) -> str:
        """Identifies the weights; part of every cache key."""
        ...

    @property
    def dimension(self) -> int:
        """D."""
        ...

    def embed(self, texts: Sequence[str]) -> Vectors:
        """[N, D] float32, each row of Euclidean norm 1."""
        ...


def load_embedder(name_or_path: str | None = None, cache_dir: str | Path | None = None) -> Embedder:
    raise UserError("not yet")
