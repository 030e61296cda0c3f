"""A bag of words: which words and pairs of neighbouring words a reply holds, weighted by how rare they are (Salton & Buckley 1988).

Entry of a term that occurs c times: (1 + log c) (1 + log((1 + N) / (1 + d))), N replies learned from, d of them with the term; then every
row is scaled to length 1, so that a reply does not count more for being long.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from trueup.stats.bootstrap import Array

_TOKEN = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True, kw_only=True)
class Words:
    """A vocabulary with its weights."""

    place: Mapping[str, int]
    """Column of each term, 0 to V - 1."""
    rarity: Array
    """[V] 1 + log((1 + N) / (1 + d))."""
    longest: int = 2
    """Neighbouring words in a term, at most."""

    def rows(self, texts: Sequence[str]) -> sparse.csr_array:
        """[N, V] entries of each text; terms that are not in the vocabulary count nothing."""
        starts, columns, values = [0], [], []
        for text in texts:
            found = {self.place[t]: c for t, c in terms(text, self.longest).items() if t in self.place}
            entries = np.array([(1 + math.log(c)) * self.rarity[j] for j, c in found.items()])
            size = float(np.sqrt((entries**2).sum())) or 1.0
            columns += list(found)
            values += (entries / size).tolist()
            starts.append(len(columns))
        shape = (len(texts), len(self.rarity))
        return sparse.csr_array((np.array(values), np.array(columns, dtype=np.int64), np.array(starts)), shape=shape)


def learn_words(texts: Sequence[str], least: int = 2, longest: int = 2) -> Words:
    """The vocabulary of texts.

    Args:
        texts: what to learn from: training replies only.
        least: texts that a term must occur in.
        longest: see `Words`.
    """
    seen: Counter[str] = Counter()
    for text in texts:
        seen.update(terms(text, longest).keys())
    kept = sorted(t for t, d in seen.items() if d >= least)
    rarity = np.array([1 + math.log((1 + len(texts)) / (1 + seen[t])) for t in kept])
    return Words(place={t: j for j, t in enumerate(kept)}, rarity=rarity, longest=longest)


def terms(text: str, longest: int) -> Counter[str]:
    """How often each term occurs: words in lower case and single marks, and up to ``longest`` neighbours joined by a space."""
    tokens = _TOKEN.findall(text.lower())
    return Counter(" ".join(tokens[i : i + n]) for n in range(1, longest + 1) for i in range(len(tokens) - n + 1))
