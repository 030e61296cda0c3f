"""What a selection rule is: the frozen policy's samples and the offline pairs in, rows of the pairs out."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from trueup.core.config import Component
from trueup.core.rng import Key
from trueup.data.rows import Preference, Prompt, Reply
from trueup.models.embeddings import Embedder


@dataclass(frozen=True, kw_only=True)
class PolicySample:
    """What the frozen policy wrote."""

    prompt: Prompt
    reply: Reply


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Rows of the offline set that a refit learns from."""

    rows: NDArray[np.int64]
    """[k] positions in the offline set, best first where the rule ranks."""
    scores: NDArray[np.float64] | None = None
    """[N] what the rule ranked by, for every offline row; None where it does not rank."""


class SelectConfig(Component):
    """Settings of a selection rule; the file's one subclass adds its own and implements `select`."""

    size: int = Field(default=400, ge=1)
    """Pairs a refit learns from (FRFT's paper: 2,000 of 75,000 and more); all of them where the set is smaller."""

    @abstractmethod
    def select(self, pool: Sequence[Preference], samples: Sequence[PolicySample], embedder: Embedder | None, key: Key) -> Selection:
        """Choose rows.

        Args:
            pool: the offline preference set, never relabelled and never extended.
            samples: replies of the frozen policy, after the pre-filter.
            embedder: sentence embeddings; None for rules that need none.
            key: for rules that draw.
        """

    @property
    def needs_embeddings(self) -> bool:
        """Whether `select` needs an embedder."""
        return False
