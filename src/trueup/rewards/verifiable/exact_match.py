"""1 where the reply is the answer, up to case, spaces and surrounding punctuation (the normalisation of SQuAD, Rajpurkar et al. 2016)."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from trueup.data.rows import Conversation, Reply
from trueup.data.tokens import Sequences
from trueup.rewards.verifiable.reference import reference_of


class ExactMatch:
    """Compares replies with known answers.

    Args:
        answers: prompt -> the answer, or all answers that are right.
        contained: the answer somewhere in the reply, as whole words, is enough.
    """

    def __init__(self, answers: Mapping[str, str | Sequence[str]], *, contained: bool = False) -> None:
        self.answers, self.contained = answers, contained

    def score(self, prompts: Sequence[Conversation], replies: Sequence[Reply], sequences: Sequences | None = None) -> Tensor:
        """[B] 1 or 0; see `Reward.score`.

        Raises:
            UserError: a prompt without an answer.
        """
        found = []
        for prompt, reply in zip(prompts, replies, strict=True):
            right = reference_of(self.answers, prompt, "answer")
            said = normalised(reply.text)
            wanted = [normalised(a) for a in ([right] if isinstance(right, str) else right)]
            found.append(any(f" {a} " in f" {said} " if self.contained else a == said for a in wanted))
        return torch.tensor(found, dtype=torch.float32)


def normalised(text: str) -> str:
    """Lower case, single spaces, no punctuation at the ends of words, no articles."""
    words = (w.strip(string.punctuation) for w in text.lower().split())
    return " ".join(w for w in words if w and w not in ("a", "an", "the"))
