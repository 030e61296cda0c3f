"""A reward that is a program: the world's own gold, for controls."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from trueup.data.rows import Conversation, Reply
from trueup.data.tokens import Sequences


class ProgrammedReward:
    """Scores replies with a function of text.

    Args:
        program: prompts and replies to one number a row.
        gain: the result is ``gain * number + shift``.
        shift: see ``gain``.
    """

    def __init__(
        self, program: Callable[[Sequence[Conversation], Sequence[Reply]], Sequence[float]], gain: float = 1.0, shift: float = 0.0
    ) -> None:
        self.program, self.gain, self.shift = program, gain, shift

    def score(self, prompts: Sequence[Conversation], replies: Sequence[Reply], sequences: Sequences | None = None) -> Tensor:
        """[B] float32; see `Reward.score`."""
        return self.gain * torch.tensor(self.program(prompts, replies), dtype=torch.float32) + self.shift
