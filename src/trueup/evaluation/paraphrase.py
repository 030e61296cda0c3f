"""A small rule-based paraphrase: contractions opened or made, function words exchanged for their like. English; no model, no network.

It is no more than that: most words stay, so that a score should hardly move. Word order is never changed.
"""

from __future__ import annotations

import re

PAIRS = (
    ("do not", "don't"), ("does not", "doesn't"), ("did not", "didn't"), ("is not", "isn't"), ("are not", "aren't"),
    ("was not", "wasn't"), ("were not", "weren't"), ("will not", "won't"), ("would not", "wouldn't"), ("should not", "shouldn't"),
    ("could not", "couldn't"), ("have not", "haven't"), ("has not", "hasn't"), ("cannot", "can't"),
    ("i am", "i'm"), ("i will", "i'll"), ("you are", "you're"), ("we are", "we're"), ("they are", "they're"),
    ("perhaps", "maybe"), ("nearly", "almost"), ("often", "frequently"), ("usually", "generally"), ("for example", "for instance"),
    ("begin", "start"), ("quickly", "rapidly"), ("need to", "have to"), ("everyone", "everybody"), ("someone", "somebody"),
    ("anyone", "anybody"), ("big", "large"), ("glad", "happy"),
)  # fmt: skip
"""Each exchanged for the other, in both directions."""
_ONE_WAY = {
    "can not": "can't", "in order to": "to", "although": "though", "whilst": "while", "towards": "toward", "upon": "on", "it is": "it's",
    "that is": "that's",
}  # fmt: skip
RULES = {**dict(PAIRS), **{b: a for a, b in PAIRS}, **_ONE_WAY}
"""What is replaced -> by what, in lower case."""
_NEGATION = re.compile(r"n't$|\bnot$|^can")


def _form(old: str) -> str:
    """A rule's pattern with what must, or must not, follow it."""
    if RULES[old].endswith(("'m", "'re", "'ll", "'s")):
        return rf"{re.escape(old)}(?=\s+[a-z])"  # such a contraction cannot end a clause
    if _NEGATION.search(old):
        return rf"{re.escape(old)}(?!\s+(?:i|you|he|she|it|we|they)\b)"  # "don't you" is no "do not you"
    return re.escape(old)


_PATTERN = re.compile(rf"\b(?:{'|'.join(_form(a) for a in sorted(RULES, key=len, reverse=True))})\b", re.IGNORECASE)


def paraphrase(text: str) -> str | None:
    """The text with every rule applied once, from the left, longest first; None where none applies."""
    made = _PATTERN.sub(_exchanged, text.replace("’", "'"))
    return made if made != text.replace("’", "'") else None


def _exchanged(found: re.Match[str]) -> str:
    old = found.group()
    new = RULES[old.lower()]
    return new[:1].upper() + new[1:] if old[:1].isupper() else new
