"""What checks of one reply share: 1 where the check holds, else 0."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from trueup.data.rows import Conversation, Reply
from trueup.data.tokens import Sequences


class Check(ABC):
    """A reward that looks at one reply at a time; the file's one subclass implements `holds`."""

    @abstractmethod
    def holds(self, prompt: Conversation, reply: Reply) -> bool:
        """Whether the reply is right.

        Raises:
            UserError: nothing is known of a prompt of which something must be.
        """

    def score(self, prompts: Sequence[Conversation], replies: Sequence[Reply], sequences: Sequences | None = None) -> Tensor:
        """[B] 1 or 0; see `Reward.score`."""
        return torch.tensor([self.holds(p, r) for p, r in zip(prompts, replies, strict=True)], dtype=torch.float32)
