"""1 where the reply is the answer, up to case, spaces and surrounding punctuation (the normalisation of SQuAD, Rajpurkar et al. 2016)."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence

from trueup.data.rows import Conversation, Reply
from trueup.rewards.known import known_of
from trueup.rewards.verifiable.check import Check


class ExactMatch(Check):
    """Compares replies with known answers.

    Args:
        answers: prompt -> the answer, or all answers that are right.
        contained: the answer somewhere in the reply, as whole words, is enough.
    """

    def __init__(self, answers: Mapping[str, str | Sequence[str]], *, contained: bool = False) -> None:
        self.answers, self.contained = answers, contained

    def holds(self, prompt: Conversation, reply: Reply) -> bool:
        """Whether the reply is one of the answers.

        Raises:
            UserError: a prompt without an answer.
        """
        right, said = known_of(self.answers, prompt, "answer"), normalised(reply.text)
        wanted = [normalised(a) for a in ([right] if isinstance(right, str) else right)]
        return any(f" {a} " in f" {said} " if self.contained else a == said for a in wanted)


def normalised(text: str) -> str:
    """Lower case, single spaces, no punctuation at the ends of words, no articles."""
    words = (w.strip(string.punctuation) for w in text.lower().split())
    return " ".join(w for w in words if w and w not in ("a", "an", "the"))
