"""The reward of a run that has none, for optimizers that learn from pairs alone."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from trueup.core.errors import UserError
from trueup.data.rows import Conversation, Reply
from trueup.data.tokens import Sequences


class AbsentReward:
    """Refuses to score."""

    def score(self, prompts: Sequence[Conversation], replies: Sequence[Reply], sequences: Sequences | None = None) -> Tensor:
        """Never returns.

        Raises:
            UserError: always.
        """
        raise UserError("a reward is asked for, but 'reward' is null and the arm names none. Give the arm a reward.", where="arms")
