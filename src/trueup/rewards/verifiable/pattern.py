"""1 where a regular expression matches the reply: formats, forbidden words, required parts."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from trueup.core.errors import UserError
from trueup.data.rows import Conversation, Reply
from trueup.rewards.config import RewardConfig, RewardSources
from trueup.rewards.verifiable.check import Check


def _regular(expression: str) -> str:
    try:
        re.compile(expression)
    except re.error as error:
        raise ValueError(f"is no regular expression ({error})") from error
    return expression


Expression = Annotated[str, Field(min_length=1), AfterValidator(_regular)]


class PatternConfig(RewardConfig):
    """1 where a regular expression matches the reply."""

    kind: Literal["pattern"] = "pattern"
    """This file."""
    expression: Expression
    """Python's syntax; ``.`` matches line ends too."""
    whole: bool = False
    """The whole reply must match, not a part."""
    wanted: bool = True
    """False rewards replies that do not match."""

    def build(self, sources: RewardSources) -> Pattern:
        """The check."""
        return Pattern(self.expression, whole=self.whole, wanted=self.wanted)


class Pattern(Check):
    """Looks for a pattern in replies.

    Args:
        expression: Python's syntax; ``.`` matches line ends too.
        whole: the whole reply must match, not a part.
        wanted: False rewards replies that do not match.

    Raises:
        UserError: it is no regular expression.
    """

    def __init__(self, expression: str, *, whole: bool = False, wanted: bool = True) -> None:
        try:
            self.pattern = re.compile(expression, re.DOTALL)
        except re.error as error:
            raise UserError(f"{expression!r} is no regular expression: {error}.", where="reward") from error
        self.whole, self.wanted = whole, wanted

    def holds(self, prompt: Conversation, reply: Reply) -> bool:
        """Whether the pattern is there, or is not where it is not wanted; the prompt does not matter."""
        look = self.pattern.fullmatch if self.whole else self.pattern.search
        return (look(reply.text) is not None) == self.wanted
