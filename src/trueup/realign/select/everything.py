"""Go on training on the whole offline set: what a refit does without any selection."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from trueup.core.rng import Key
from trueup.data.rows import Preference
from trueup.models.embeddings import Embedder
from trueup.realign.select.protocol import PolicySample, SelectConfig, Selection


class EverythingConfig(SelectConfig):
    """All pairs; ``size`` is not used."""

    kind: Literal["everything"] = "everything"
    """This file."""

    def select(self, pool: Sequence[Preference], samples: Sequence[PolicySample], embedder: Embedder | None, key: Key) -> Selection:
        """Every row, in order."""
        return Selection(rows=np.arange(len(pool), dtype=np.int64))
