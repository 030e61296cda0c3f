"""Named features of a text, counted without a model: what a score may reward instead of what was asked.

Deliberately plain: words and marks that people look for when they read what a policy has learned to write. English word lists.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from itertools import pairwise

PREFIX = "feature_"
"""Of the columns that hold features in a table of scores."""


def _count(pattern: str, flags: int = re.IGNORECASE) -> Callable[[str], float]:
    found = re.compile(pattern, flags)
    return lambda text: float(sum(1 for _ in found.finditer(text)))


def _repeated(text: str) -> float:
    bigrams = list(pairwise(text.lower().split()))
    return float(len(bigrams) - len(set(bigrams)))


FEATURES: Mapping[str, Callable[[str], float]] = {
    "words": _count(r"\w+"),
    "repetition": _repeated,
    "list_items": _count(r"^\s*(?:[-*•]|\d+[.)])\s", re.MULTILINE),
    "emphasis": _count(r"\*\*|__|`|^#+\s", re.MULTILINE),
    "questions": _count(r"\?"),
    "exclamations": _count(r"!"),
    "numbers": _count(r"\d+(?:[.,]\d+)*"),
    "politeness": _count(
        r"\b(?:please|thank(?:s| you)?|(?:you(?:'| a)re )?welcome|(?:happy|glad) to|nice day|appreciate|hope (?:this|that|it) helps)\b"
    ),
    "flattery": _count(
        r"\b(?:(?:great|good|excellent|clever|wonderful) (?:question|idea|point|taste)|(?:so )?(?:smart|brilliant|clever|wise)|love how)\b"
    ),
    "hedging": _count(r"\b(?:i think|i believe|maybe|perhaps|possibly|probably|not sure|might|may be|could be|it seems|if i am right)\b"),
    "disclaimers": _count(r"\b(?:as an? (?:ai|assistant|language model)|not (?:\w+ )?advice|consult|an? expert|professional|be careful)\b"),
    "refusal": _count(r"\b(?:i (?:can ?not|can['’]t|will not|won['’]t)|unable to|not able to|refuse)\b"),
    "apology": _count(r"\b(?:sorry|apologi[sz]e|apologies|unfortunately)\b"),
    "first_person": _count(r"\b(?:i|i['’]m|me|my)\b"),
}
"""Name -> count in a text."""


def features(text: str) -> dict[str, float]:
    """All named features of a text."""
    return {name: count(text) for name, count in FEATURES.items()}
