"""What a reply looks like, in eighteen numbers: length, marks, manner, and how much of it the conversation said before."""

from __future__ import annotations

import math
import re

import numpy as np

from trueup.data.rows import Conversation
from trueup.stats.bootstrap import Array

_WORD = re.compile(r"\w+")
_SENTENCE_END = re.compile(r"[.!?]+")
_LIST = re.compile(r"^\s*(?:\d+[.)]|[-*•])\s", re.MULTILINE)
STYLE = (
    "log_characters",
    "characters_hundreds",
    "log_words",
    "questions",
    "exclamations",
    "lines_root",
    "ends_with_question",
    "ends_sentence",
    "sentences_root",
    "distinct_word_share",
    "conversation_word_share",
    "last_turn_word_share",
    "log_new_words",
    "first_person_share",
    "second_person_share",
    "digit_share",
    "word_characters",
    "has_list",
)
"""Names of the numbers, in order."""


def style_of(prompt: Conversation, reply: str) -> Array:
    """[18] the numbers named `STYLE`; shares are of the reply's words (distinct ones where overlap is meant) or characters.

    Args:
        prompt: what was asked.
        reply: the answer; an empty one is all zeros.
    """
    turns = [prompt] if isinstance(prompt, str) else [m["content"] for m in prompt]
    said, last = _words(" ".join(turns)), _words(turns[-1])
    words = _words(reply)
    distinct, n, size = set(words), max(len(words), 1), max(len(reply), 1)
    end = reply.rstrip()[-1:]
    return np.array(
        [
            math.log1p(len(reply)),
            len(reply) / 100,
            math.log1p(len(words)),
            reply.count("?"),
            reply.count("!"),
            math.sqrt(reply.count("\n")),
            end == "?",
            end in tuple(".!?\"')"),
            math.sqrt(len(_SENTENCE_END.findall(reply))),
            len(distinct) / n,
            len(distinct & set(said)) / max(len(distinct), 1),
            len(distinct & set(last)) / max(len(distinct), 1),
            math.log1p(len(distinct - set(said))),
            words.count("i") / n,
            words.count("you") / n,
            sum(c.isdigit() for c in reply) / size,
            sum(map(len, words)) / n,
            _LIST.search(reply) is not None,
        ],
        dtype=float,
    )


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())
