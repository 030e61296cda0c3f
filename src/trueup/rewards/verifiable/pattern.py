"""1 where a regular expression matches the reply: formats, forbidden words, required parts."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor

from trueup.core.errors import UserError
from trueup.data.rows import Conversation, Reply
from trueup.data.tokens import Sequences


class Pattern:
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

    def score(self, prompts: Sequence[Conversation], replies: Sequence[Reply], sequences: Sequences | None = None) -> Tensor:
        """[B] 1 or 0; see `Reward.score`."""
        look = self.pattern.fullmatch if self.whole else self.pattern.search
        return torch.tensor([(look(r.text) is not None) == self.wanted for r in replies], dtype=torch.float32)
