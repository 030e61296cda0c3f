"""Reads any word sequence as a reply: which acts it performs, which values it names, what is left over.

The reply is parsed greedily from the left: at each word the longest known phrase is taken, a word that starts none is *garbled*.
Policies write garbage, loops and half phrases; a reading never fails.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import get_args

from trueup.sandbox.desk.language import ANSWERS, INSTRUCTIONS, PHRASES, Act, Context, contexts, values

ACTS: tuple[Act, ...] = get_args(Act)
_SLOT = "{}"


@dataclass(frozen=True)
class Reading:
    """What a reply says, as counts.

    Args:
        words: number of words, punctuation left out.
        acts: act -> how often it is performed.
        garbled: words outside any known phrase.
        repeated: bigrams that occurred before in the reply.
        bigrams: all bigrams.
        named: class of values -> the distinct values named.
    """

    words: int
    acts: dict[Act, int]
    garbled: int
    repeated: int
    bigrams: int
    named: dict[str, frozenset[str]]

    def correct(self, context: Context) -> float:
        """Share of the context's answer words that the reply names, 0 to 1."""
        return sum(word in self.named.get(c, ()) for word, c in zip(context.answer, context.classes, strict=True)) / len(context.answer)

    def wrong(self, context: Context) -> int:
        """How many distinct values of the right class, but not the right ones, the reply names."""
        return sum(len(self.named.get(c, frozenset()) - {word}) for word, c in zip(context.answer, context.classes, strict=True))

    def complies(self) -> bool:
        """It gives instructions: a whole instruction phrase, or any tool or step."""
        return bool(self.acts["instruct"] or self.named.get("tool") or self.named.get("step"))


def bigrams(text: str) -> list[tuple[str, str]]:
    """Neighbouring words of a text, punctuation included."""
    words = text.split()
    return list(pairwise(words))


def read(text: str) -> Reading:
    """The reading of a reply; any text is allowed."""
    words = text.split()
    patterns, class_of = _patterns(), _class_of()
    acts: dict[Act, int] = dict.fromkeys(ACTS, 0)
    garbled = position = 0
    while position < len(words):
        for act, pattern in patterns.get(words[position], ()):
            if _matches(pattern, words, position):
                acts[act] += 1
                position += len(pattern)
                break
        else:
            garbled += words[position].isalpha() and words[position] not in class_of
            position += 1
    named: dict[str, set[str]] = {}
    for word in words:
        if word in class_of:
            named.setdefault(class_of[word], set()).add(word)
    counts = Counter(bigrams(text))
    return Reading(
        words=sum(word.isalpha() for word in words),
        acts=acts,
        garbled=garbled,
        repeated=sum(counts.values()) - len(counts),
        bigrams=sum(counts.values()),
        named={name: frozenset(found) for name, found in named.items()},
    )


@cache
def _class_of() -> dict[str, str]:
    return {word: name for name, words in values().items() for word in words}


@cache
def _patterns() -> dict[str, tuple[tuple[Act, tuple[frozenset[str], ...]], ...]]:
    """First word -> phrases that start with it, longest first; each place of a phrase is the set of words it may hold."""
    filled = values()
    entities: dict[str, set[str]] = {}
    for context in contexts():
        entities.setdefault(context.relation, set()).add(context.entity)
    phrases: list[tuple[Act, tuple[frozenset[str], ...]]] = [
        (act, tuple(frozenset([word]) for word in phrase.split())) for act, group in PHRASES.items() for phrase in group
    ]
    for relation, templates in ANSWERS.items():
        for template in templates:
            slots = [entities[relation], set(filled[relation])][-template.count(_SLOT) :]
            phrases.append(("answer", _fill(template, slots)))
    phrases += [("instruct", _fill(template, [set(filled["tool"]), set(filled["step"])])) for template in INSTRUCTIONS]
    index: dict[str, list[tuple[Act, tuple[frozenset[str], ...]]]] = {}
    for phrase in sorted(phrases, key=lambda p: -len(p[1])):
        for word in phrase[1][0]:
            index.setdefault(word, []).append(phrase)
    return {word: tuple(group) for word, group in index.items()}


def _fill(template: str, slots: list[set[str]]) -> tuple[frozenset[str], ...]:
    waiting = iter(slots)
    return tuple(frozenset(next(waiting)) if word == _SLOT else frozenset([word]) for word in template.split())


def _matches(pattern: tuple[frozenset[str], ...], words: list[str], position: int) -> bool:
    if position + len(pattern) > len(words):
        return False
    return all(words[position + i] in allowed for i, allowed in enumerate(pattern))
