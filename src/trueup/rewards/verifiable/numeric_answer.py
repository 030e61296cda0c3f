"""1 where the last number of the reply is the right one, as GSM8K is scored (Cobbe et al. 2021, arXiv:2110.14168).

Deviations:
1. Where the reply marks its answer (``####``, ``\\boxed{...}`` or "answer is"), the number after the last mark counts instead.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Literal

from pydantic import Field

from trueup.core.errors import UserError
from trueup.data.rows import Conversation, Reply
from trueup.rewards.config import RewardConfig, RewardSources
from trueup.rewards.known import known_of
from trueup.rewards.verifiable.check import Check

_NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:[eE][-+]?\d{1,3})?(?:\s*/\s*\d+)?|[-+]?\.\d+")
_MARK = re.compile(r"####|\\boxed\{|answer is:?", re.IGNORECASE)


class NumericAnswerConfig(RewardConfig):
    """1 where the reply ends with the number that the world knows of its prompt."""

    kind: Literal["numeric_answer"] = "numeric_answer"
    """This file."""
    tag: str = "answer"
    """Tag of the prompts whose last number is the answer, as in GSM8K's solutions."""
    tolerance: float = Field(default=1e-6, ge=0)
    """Largest difference, relative to the answer where that is larger than 1."""

    def tags(self) -> tuple[str, ...]:
        """The answer's."""
        return (self.tag,)

    def build(self, sources: RewardSources) -> NumericAnswer:
        """The check.

        Raises:
            UserError: an answer without a number.
        """
        found = {}
        for prompt, text in sources.known(self.tag).items():
            number = final_number(text)
            if number is None:
                raise UserError(f"the {self.tag} {text[:40]!r} of a prompt holds no number.", where="reward numeric_answer")
            found[prompt] = number
        return NumericAnswer(found, self.tolerance)


class NumericAnswer(Check):
    """Compares the final number of replies with known ones.

    Args:
        answers: prompt -> the number.
        tolerance: largest difference, relative to the answer where that is larger than 1.
    """

    def __init__(self, answers: Mapping[str, float], tolerance: float = 1e-6) -> None:
        self.answers, self.tolerance = answers, tolerance

    def holds(self, prompt: Conversation, reply: Reply) -> bool:
        """Whether the reply's final number is the answer.

        Raises:
            UserError: a prompt without an answer.
        """
        right, said = known_of(self.answers, prompt, "answer"), final_number(reply.text)
        return said is not None and abs(said - right) <= self.tolerance * max(1.0, abs(right))


def final_number(text: str) -> float | None:
    """The number after the last mark of an answer, or else the last number; commas, signs, exponents and fractions are read."""
    marks = list(_MARK.finditer(text))
    if marks:
        after = _NUMBER.search(text, marks[-1].end())
        if after:
            return _value(after.group())
    found = _NUMBER.findall(text)
    return _value(found[-1]) if found else None


def _value(text: str) -> float | None:
    above, _, below = text.replace(",", "").replace(" ", "").partition("/")
    if below and int(below) == 0:
        return None
    value = float(Fraction(above) / int(below)) if below and not re.search("[eE]", above) else float(above) / (int(below) if below else 1)
    return value if math.isfinite(value) else None
