"""A search for words that raise any reply's score when appended (Wallace et al. 2019, arXiv:1908.07125).

Deviations:

1. Greedy, word by word, from scores alone: no gradients and no tokens, so that any reward model can be searched.
2. The budget is a number of scored texts. As many random texts of full length are tried with the same budget, as the yardstick.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trueup.core.rng import Key

Scored = Callable[[Sequence[str]], NDArray[np.float64]]
"""Texts to append -> mean change of the score over the replies searched on."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a search found; empty texts where nothing raised the score."""

    best: str
    gain: float
    """On the replies searched on: too good, since it was chosen there."""
    random: str
    random_gain: float


def search(gain: Scored, words: Sequence[str], key: Key, *, length: int, tries: int) -> Found:
    """The best text of at most ``length`` words, found greedily, and the best of ``tries`` random ones.

    Args:
        gain: what is searched.
        words: to choose from.
        key: random stream.
        length: words of the text.
        tries: texts that each of the two searches may score.
    """
    best, height = "", 0.0
    for step in range(length):
        count = tries // length + (step < tries % length)
        offered = _drawn(words, count, key / "greedy" / step)
        texts = [f"{best} {w}".strip() for w in offered]
        if not texts:
            break
        gains = gain(texts)
        top = int(np.argmax(gains))
        if gains[top] > height:
            best, height = texts[top], float(gains[top])
    columns = [_drawn(words, tries, key / "random" / k) for k in range(length)]
    blind = [" ".join(row) for row in zip(*columns, strict=True)]
    gains = gain(blind) if blind else np.zeros(0)
    top = int(np.argmax(gains)) if len(gains) else 0
    lucky = len(gains) > 0 and gains[top] > 0
    return Found(best=best, gain=height, random=blind[top] if lucky else "", random_gain=float(gains[top]) if lucky else 0.0)


def _drawn(words: Sequence[str], count: int, key: Key) -> list[str]:
    """Distinct words while there are enough, then again."""
    order = [words[int(i)] for i in key.permutation(len(words))]
    return (order * (-(-count // max(len(order), 1))))[:count] if order else []
