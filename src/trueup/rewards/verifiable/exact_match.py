"""1 where the reply is the answer, up to case, spaces and surrounding punctuation (the normalisation of SQuAD, Rajpurkar et al. 2016)."""

from __future__ import annotations

import json
import string
from collections.abc import Mapping, Sequence
from typing import Literal

from trueup.data.rows import Conversation, Reply
from trueup.rewards.config import RewardConfig, RewardSources
from trueup.rewards.known import known_of
from trueup.rewards.verifiable.check import Check


class ExactMatchConfig(RewardConfig):
    """1 where the reply is the answer that the world knows of its prompt."""

    kind: Literal["exact_match"] = "exact_match"
    """This file."""
    tag: str = "answer"
    """Tag of the prompts that holds the answer, or a JSON list of all answers that are right."""
    contained: bool = False
    """The answer somewhere in the reply, as whole words, is enough."""

    def tags(self) -> tuple[str, ...]:
        """The answer's."""
        return (self.tag,)

    def build(self, sources: RewardSources) -> ExactMatch:
        """The check."""
        return ExactMatch({prompt: answers(text) for prompt, text in sources.known(self.tag).items()}, contained=self.contained)


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


def answers(text: str) -> list[str]:
    """All answers of a tag: those of a JSON list of texts, or the text itself."""
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    return found if isinstance(found, list) and found and all(isinstance(a, str) for a in found) else [text]


def normalised(text: str) -> str:
    """Lower case, single spaces, no punctuation at the ends of words, no articles."""
    words = (w.strip(string.punctuation) for w in text.lower().split())
    return " ".join(w for w in words if w and w not in ("a", "an", "the"))
