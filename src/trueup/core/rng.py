"""Random numbers that depend on names, never on history.

A `Key` is a path of names and numbers, such as ``Key(7) / "policy" / 12``. Every draw is a pure function of its key, so a run that
is killed, split over processes, batched otherwise or probed in between draws exactly the same numbers.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Key:
    """A place in the tree of random streams.

    Args:
        seed: the run's seed.
        path: names and numbers from the root to here.
    """

    seed: int
    path: tuple[str | int, ...] = ()

    def __truediv__(self, name: str | int) -> Key:
        """The child stream of that name or number."""
        return Key(self.seed, (*self.path, name))

    def words(self) -> tuple[int, int]:
        """Two 64-bit words that identify this key (SHA-256 of its path)."""
        text = "\x1f".join([str(self.seed), *(f"{type(p).__name__}:{p}" for p in self.path)])
        digest = hashlib.sha256(text.encode()).digest()
        return int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:16], "little")

    def generator(self) -> np.random.Generator:
        """A fresh numpy generator for this key (Philox4x64)."""
        return np.random.Generator(np.random.Philox(key=np.array(self.words(), dtype=np.uint64)))

    def integer(self) -> int:
        """A 63-bit seed for libraries that want one number."""
        return self.words()[0] >> 1

    def uniforms(self, rows: Iterable[int], columns: int) -> NDArray[np.float64]:
        """Uniform numbers in [0, 1), one stream a row: [len(rows), columns].

        Row ``i`` gets the stream of its own number in ``rows``, whatever other rows are asked for, and its first columns do not
        depend on how many columns are asked for.
        """
        key = np.array(self.words(), dtype=np.uint64)
        numbers = list(rows)
        out = np.empty((len(numbers), columns))
        for i, row in enumerate(numbers):
            counter = np.array([0, 0, row, 0], dtype=np.uint64)
            out[i] = np.random.Generator(np.random.Philox(key=key, counter=counter)).random(columns)
        return out

    def permutation(self, n: int) -> NDArray[np.int64]:
        """A random order of ``range(n)``."""
        return self.generator().permutation(n)

    def choice(self, items: Sequence[int], size: int) -> NDArray[np.int64]:
        """``size`` distinct members of ``items``, in random order."""
        return self.generator().choice(np.asarray(items, dtype=np.int64), size=size, replace=False)


def epoch_rows(key: Key, n: int, size: int, step: int) -> NDArray[np.int64]:
    """Row numbers of batch ``step`` when ``n`` rows are read in a new random order every epoch, ``size`` at a time.

    A pure function of the step, so a resumed run reads what the unbroken one would have read. Batches cross epoch borders, so that
    every batch has ``size`` rows and every row is read once an epoch.
    """
    if n <= 0 or size <= 0:
        raise ValueError(f"need rows and a batch size, got n={n}, size={size}")
    first = step * size
    positions = np.arange(first, first + size)
    orders = {int(e): (key / int(e)).permutation(n) for e in np.unique(positions // n)}
    return np.array([orders[int(p // n)][p % n] for p in positions], dtype=np.int64)


@contextmanager
def generators_kept() -> Iterator[None]:
    """Python's and numpy's global generators are afterwards as they were before, whatever other people's code draws inside."""
    python, array = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(array)
