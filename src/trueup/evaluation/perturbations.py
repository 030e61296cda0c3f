"""Changed copies of a text, made without a model: typos, format, other ends, cuts, appended text.

Every function is pure: the same text and key give the same copy. None means that the text cannot be changed in that way.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from trueup.core.rng import Key

TYPO_SHARE = 0.05
"""Share of the words that get a typo (Shen et al. 2023 change at most so many); at least one word does."""
_WORD = re.compile(r"[A-Za-z]{3,}")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
_END = re.compile(r"^(.*?)([\w'’-]+)(\W*)$", re.DOTALL)
_MARK = re.compile(r"([.!?])(\s*)$")


def typo(text: str, key: Key) -> str | None:
    """Two neighbouring letters swapped, one dropped, or one doubled, in at most 5 % of the words and at least one; first letters stay."""
    words = list(_WORD.finditer(text))
    if not words:
        return None
    count = max(1, int(TYPO_SHARE * len(text.split())))
    chosen = sorted(int(i) for i in (key / "words").permutation(len(words))[:count])
    # from the end, so that earlier places stay where they are
    for i in reversed(chosen):
        word = words[i]
        text = text[: word.start()] + _mistyped(word.group(), key / i) + text[word.end() :]
    return text


def _mistyped(word: str, key: Key) -> str:
    kind, where = key.uniforms([0], 2)[0]
    at = 1 + int(where * (len(word) - 1))
    if kind < 1 / 3:
        swaps = [k for k in range(1, len(word) - 1) if word[k] != word[k + 1]]
        if swaps:
            k = swaps[int(where * len(swaps))]
            return word[:k] + word[k + 1] + word[k] + word[k + 2 :]
    if kind < 2 / 3:
        return word[:at] + word[at + 1 :]
    return word[:at] + word[at] + word[at:]


def reformatted(text: str) -> dict[str, str]:
    """``lines``: a line a sentence; ``spaces``: white space around the text and between sentences doubled. Only what differs."""
    parts = _SENTENCE_END.split(text.strip())
    found = {"lines": "\n".join(parts), "spaces": f" {'  '.join(parts)} "}
    return {name: made for name, made in found.items() if made != text}


def last_word(text: str) -> str | None:
    """The last word without punctuation; None where the text has none."""
    found = _END.match(text)
    return found.group(2) if found else None


def last_mark(text: str) -> str | None:
    """The mark ``.``, ``!`` or ``?`` at the end; None where there is none."""
    found = _MARK.search(text)
    return found.group(1) if found else None


def other_word(text: str, words: Sequence[str], key: Key) -> str | None:
    """The last word replaced by another of ``words``; marks behind it stay.

    Args:
        text: to change.
        words: last words of other texts, so that the copy ends like a text of the same data.
        key: which one.
    """
    found = _END.match(text)
    if found is None:
        return None
    allowed = sorted({w for w in words if w != found.group(2)})
    if not allowed:
        return None
    chosen = allowed[int(key.generator().integers(len(allowed)))]
    return f"{found.group(1)}{chosen}{found.group(3)}"


def other_mark(text: str, marks: Sequence[str], key: Key) -> str | None:
    """The last mark replaced by another of ``marks``."""
    found = _MARK.search(text)
    allowed = sorted({m for m in marks if found is not None and m != found.group(1)})
    if found is None or not allowed:
        return None
    chosen = allowed[int(key.generator().integers(len(allowed)))]
    return f"{text[: found.start()]}{chosen}{found.group(2)}"


def cuts(text: str) -> dict[str, str]:
    """``last_word``, ``last_sentence`` and ``half``, each left out; only where something is left."""
    words = [m.end() for m in re.finditer(r"\S+", text)]
    sentences = _SENTENCE_END.split(text.strip())
    found = {}
    if len(words) > 1:
        found["last_word"] = text[: words[-2]]
        found["half"] = text[: words[(len(words) + 1) // 2 - 1]]
    if len(sentences) > 1:
        found["last_sentence"] = text.strip()[: -len(sentences[-1])].rstrip()
    return found


def appended(text: str, addition: str) -> str:
    """The text, a space, the addition."""
    return f"{text.rstrip()} {addition}"


def last_sentence(text: str) -> str:
    """The last sentence; the whole text where it is one."""
    return _SENTENCE_END.split(text.strip())[-1]
