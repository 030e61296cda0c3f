"""1 where the last number of the reply is the right one, as GSM8K is scored (Cobbe et al. 2021, arXiv:2110.14168).

Deviations:
1. Where the reply marks its answer (``####``, ``\\boxed{...}`` or "answer is"), the number after the last mark counts instead.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from fractions import Fraction

import torch
from torch import Tensor

from trueup.data.rows import Conversation, Reply
from trueup.data.tokens import Sequences
from trueup.rewards.verifiable.reference import reference_of

_NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:[eE][-+]?\d{1,3})?(?:\s*/\s*\d+)?|[-+]?\.\d+")
_MARK = re.compile(r"####|\\boxed\{|answer is:?", re.IGNORECASE)


class NumericAnswer:
    """Compares the final number of replies with known ones.

    Args:
        answers: prompt -> the number.
        tolerance: largest difference, relative to the answer where that is larger than 1.
    """

    def __init__(self, answers: Mapping[str, float], tolerance: float = 1e-6) -> None:
        self.answers, self.tolerance = answers, tolerance

    def score(self, prompts: Sequence[Conversation], replies: Sequence[Reply], sequences: Sequences | None = None) -> Tensor:
        """[B] 1 or 0; see `Reward.score`.

        Raises:
            UserError: a prompt without an answer.
        """
        found = []
        for prompt, reply in zip(prompts, replies, strict=True):
            right, said = reference_of(self.answers, prompt, "answer"), final_number(reply.text)
            found.append(said is not None and abs(said - right) <= self.tolerance * max(1.0, abs(right)))
        return torch.tensor(found, dtype=torch.float32)


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
