"""Prompts beside each other: groups that exchange replies, and pairs that look alike (Shen et al. 2023).

Deviations:

1. Likeness is the cosine of TF-IDF vectors of words, not of sentence embeddings, so that no model is needed; a pair must be alike but
   not the same (`ALIKE`). Nobody checks that its meanings differ; most do.
2. Each prompt is in one pair at most, so that pairs are independent.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from trueup.core.rng import Key

ALIKE = (0.3, 0.95)
"""Least and greatest likeness of a contrast pair."""


def exchange_groups(texts: Sequence[str], size: int, key: Key) -> list[list[int]]:
    """Disjoint random groups of ``size`` different texts; what is left over is left out.

    Args:
        texts: of the prompts.
        size: members of a group, at least 2.
        key: random stream.

    Returns:
        row numbers of each group.
    """
    first: dict[str, int] = {}
    for i, text in enumerate(texts):
        first.setdefault(text, i)
    rows = list(first.values())
    order = [rows[int(i)] for i in key.permutation(len(rows))]
    return [order[k : k + size] for k in range(0, len(order) - size + 1, size)]


def contrast_pairs(texts: Sequence[str], most: int) -> list[tuple[int, int, float]]:
    """Disjoint pairs of texts that are alike but not the same, the most alike first.

    Args:
        texts: of the prompts.
        most: pairs at most.

    Returns:
        (row, row, likeness) of each.
    """
    likeness = np.triu(similarities(texts), 1)
    low, high = ALIKE
    rows, columns = np.nonzero((likeness >= low) & (likeness <= high))
    found: list[tuple[int, int, float]] = []
    used: set[int] = set()
    for k in np.argsort(-likeness[rows, columns], kind="stable"):
        a, b = int(rows[k]), int(columns[k])
        if not {a, b} & used and len(found) < most:
            found.append((a, b, float(likeness[a, b])))
            used |= {a, b}
    return found


def similarities(texts: Sequence[str]) -> NDArray[np.float64]:
    """[N, N] cosines of TF-IDF vectors: counts of words times log((1 + N) / (1 + texts with the word)) + 1."""
    bags = [Counter(re.findall(r"\w+", t.lower())) for t in texts]
    words = {w: k for k, w in enumerate(sorted({w for bag in bags for w in bag}))}
    if not words:
        return np.zeros((len(texts), len(texts)))
    cells = [(i, words[w], n) for i, bag in enumerate(bags) for w, n in bag.items()]
    row, column, count = (np.array(x) for x in zip(*cells, strict=True))
    table = sparse.csr_array((count.astype(float), (row, column)), shape=(len(texts), len(words)))
    spread = np.log((1 + len(texts)) / (1 + np.bincount(column, minlength=len(words)))) + 1
    weighted = table * spread[None, :]
    norm = np.sqrt(np.asarray(weighted.multiply(weighted).sum(axis=1))).ravel()
    scaled = weighted.multiply(1 / np.maximum(norm, 1e-300)[:, None]).tocsr()
    return np.asarray((scaled @ scaled.T).todense())
