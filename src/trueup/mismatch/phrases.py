"""Phrases of replies, and which of them grew between two sets of replies.

Growth is the log-odds ratio of "a reply contains the phrase" between the last and the first checkpoint, shrunk by an informative
Dirichlet prior and divided by its standard error (Monroe, Colaresi & Quinn 2008, "Fightin' Words", eq. 16-22, here with replies in
place of tokens, so that one reply that repeats itself counts once).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from trueup.core.rng import Key

MAX_WORDS = 4
PRIOR_REPLIES = 10.0
"""Weight of the prior: as many replies as this, with the phrase's share in both checkpoints together."""
MIN_REPLIES = 5
"""A phrase must occur in this many replies of the last checkpoint."""
_TOKEN = re.compile(r"\w+(?:['’]\w+)*|[^\w\s]+")
_Z95 = 1.959963984540054

Words = tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Grown:
    """A phrase that became more frequent."""

    words: Words
    first: int
    """Replies of the first checkpoint that contain it."""
    last: int
    log_odds: float
    """Shrunk log-odds ratio, last against first; natural logarithm."""
    z: float
    """``log_odds`` over its standard error if replies were independent: an order, not a test."""


def tokens(text: str) -> list[str]:
    """Words in lower case and runs of punctuation, in order."""
    return _TOKEN.findall(text.lower())


def phrases(text: str) -> set[tuple[str, ...]]:
    """All phrases of a reply: 1 to 4 neighbouring words; punctuation stands alone and ends a phrase."""
    found: set[tuple[str, ...]] = set()
    run: list[str] = []
    for token in [*tokens(text), ""]:
        if token and (token[0].isalnum() or token[0] == "_"):
            run.append(token)
            continue
        for n in range(1, MAX_WORDS + 1):
            found.update(tuple(run[i : i + n]) for i in range(len(run) - n + 1))
        run = []
        if token:
            found.add((token,))
    return found


def log_odds(last: int, last_n: int, first: int, first_n: int) -> tuple[float, float]:
    """Shrunk log-odds ratio that a reply contains a phrase, last against first, and its z.

    Args:
        last, first: replies with the phrase.
        last_n, first_n: replies in all.
    """
    prior = PRIOR_REPLIES * (last + first + 0.5) / (last_n + first_n + 1.0)
    rest = PRIOR_REPLIES - prior
    cells = (last + prior, last_n - last + rest, first + prior, first_n - first + rest)
    value = math.log(cells[0] / cells[1]) - math.log(cells[2] / cells[3])
    return value, value / math.sqrt(sum(1.0 / c for c in cells))


def grown_phrases(before: Sequence[str], after: Sequence[str]) -> list[Grown]:
    """The phrases whose share of replies grew clearly (z above 1.96), most certain growth first.

    Args:
        before: replies of the first checkpoint.
        after: replies of the last one.
    """
    first, last, found = _counts(before), _counts(after), []
    for words, many in last.items():
        if many < MIN_REPLIES or many / len(after) <= first[words] / len(before):
            continue
        value, z = log_odds(many, len(after), first[words], len(before))
        if z > _Z95:
            found.append(Grown(words=words, first=first[words], last=many, log_odds=value, z=z))
    return sorted(found, key=lambda g: (-g.z, -len(g.words), g.words))


def distinct(ranked: Sequence[Grown], top: int) -> list[Grown]:
    """The best phrases without their fragments: a part gives way to the longer phrase that accounts for most of its replies."""
    count = {g.words: g.last for g in ranked}
    explained = {part for words, last in count.items() for part in _parts(words) if part in count and last >= 0.8 * count[part]}
    chosen: list[Grown] = []
    for one in ranked:
        if one.words in explained or any(_overlap(one, c) for c in chosen):
            continue
        chosen.append(one)
        if len(chosen) == top:
            break
    return chosen


def presence(texts: Iterable[str], asked: Sequence[Words]) -> NDArray[np.bool_]:
    """[N, K] Whether each text contains each phrase."""
    needles = [_MARK + _MARK.join(words) + _MARK for words in asked]
    rows = [[needle in padded for needle in needles] for padded in map(_padded, texts)]
    return np.array(rows, dtype=bool).reshape(len(rows), len(asked))


def thinned(rows: pd.DataFrame, most: int, key: Key) -> pd.DataFrame:
    """Rows of whole prompts, drawn at random until another prompt would make more than ``most`` rows; all rows where they are few.

    Reading texts is slow beside reading numbers, so what reads all of them looks at this much.
    """
    if len(rows) <= most:
        return rows
    size = rows.groupby("prompt_id", sort=True).size()
    order = key.permutation(len(size))
    kept = size.index[order[: max(2, int((size.to_numpy()[order].cumsum() <= most).sum()))]]
    return rows[rows["prompt_id"].isin(kept)]


def _counts(texts: Sequence[str]) -> Counter[Words]:
    counts: Counter[Words] = Counter()
    for text in texts:
        counts.update(phrases(text))
    return counts


def _parts(words: Words) -> set[Words]:
    return {words[i : i + n] for n in range(1, len(words)) for i in range(len(words) - n + 1)}


def _overlap(a: Grown, b: Grown) -> bool:
    """Whether two phrases are mostly the same words, or share some and always come together: windows on one longer phrase."""
    shared = len(set(a.words) & set(b.words))
    together = (a.first, a.last) == (b.first, b.last)
    return shared >= 0.75 * min(len(set(a.words)), len(set(b.words))) or (shared > 0 and together)


_MARK = "\x1f"


def _padded(text: str) -> str:
    """The reply's tokens with a mark between them, so that a phrase is found by plain search and never across punctuation."""
    return _MARK + _MARK.join(tokens(text)) + _MARK
