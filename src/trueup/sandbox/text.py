"""Evaluations that any text allows, whatever it is about."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from trueup.data.rows import Reply


def surface(replies: Sequence[Reply]) -> dict[str, list[float | None]]:
    """Per reply: ``words``, ``repetition`` (share of word pairs that occurred before in it), ``distinct_words``, ``punctuation``
    (share of characters) and ``finished``; None where a text is too short to tell."""
    return {
        "words": [float(len(r.text.split())) for r in replies],
        "repetition": [_repetition(r.text) for r in replies],
        "distinct_words": [_distinct(r.text) for r in replies],
        "punctuation": [_punctuation(r.text) for r in replies],
        "finished": [float(r.finished) for r in replies],
    }


def _repetition(text: str) -> float | None:
    words = text.lower().split()
    pairs = list(pairwise(words))
    return 1 - len(set(pairs)) / len(pairs) if pairs else None


def _distinct(text: str) -> float | None:
    words = text.lower().split()
    return len(set(words)) / len(words) if words else None


def _punctuation(text: str) -> float | None:
    return sum(not (c.isalnum() or c.isspace()) for c in text) / len(text) if text else None
