"""The control of every claim about inverse alignment: a random part of the same size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from trueup.core.rng import Key
from trueup.data.rows import Preference
from trueup.models.embeddings import Embedder
from trueup.realign.select.protocol import PolicySample, SelectConfig, Selection


class RandomConfig(SelectConfig):
    """A uniform draw without replacement, new at every pause."""

    kind: Literal["random"] = "random"
    """This file."""

    def select(self, pool: Sequence[Preference], samples: Sequence[PolicySample], embedder: Embedder | None, key: Key) -> Selection:
        """Rows in random order."""
        return Selection(rows=key.permutation(len(pool))[: self.size])
