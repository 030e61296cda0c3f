"""Changes of a reward before optimisation: clipping, a bounded sigmoid to a reference, a length penalty.

Monotone shaping changes no choice of best-of-n within a prompt; a bounded one limits what one step can gain. Clipping and the sigmoid
are functions of a reply's whole score, so they are given at its end, also where the reward they shape is dense; the length penalty
leaves a dense reward where it falls.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from trueup.data.rows import Conversation, Reply
from trueup.data.tokens import Sequences
from trueup.data.turns import prompt_id
from trueup.ops.returns import on_last
from trueup.rewards.dense_reward import placed_reward
from trueup.rewards.known import known_of
from trueup.rewards.protocol import Reward


class Clipped:
    """The reward, held between two values.

    Args:
        reward: what is shaped.
        low: least value.
        high: largest value.
    """

    def __init__(self, reward: Reward, low: float, high: float) -> None:
        if not low < high:
            raise ValueError(f"low {low} must be below high {high}")
        self.reward, self.low, self.high = reward, low, high

    def score(self, prompts: Sequence[Conversation], replies: Sequence[Reply], sequences: Sequences | None = None) -> Tensor:
        """[B] see `Reward.score`."""
        return self.reward.score(prompts, replies, sequences).clamp(self.low, self.high)


class SigmoidToReference:
    """sigmoid(reward - reward of the prompt's reference replies): the Bradley–Terry chance to win against them (PAR, Fu et al. 2025,
    arXiv:2502.18770).

    Args:
        reward: what is shaped.
        references: prompt -> one or more replies to compare with, such as samples of the SFT policy; the mean of the sigmoids counts.
    """

    def __init__(self, reward: Reward, references: Mapping[str, Sequence[Reply]]) -> None:
        self.reward, self.references = reward, references
        self._known: dict[str, Tensor] = {}

    def score(self, prompts: Sequence[Conversation], replies: Sequence[Reply], sequences: Sequences | None = None) -> Tensor:
        """[B] between 0 and 1; see `Reward.score`.

        Raises:
            UserError: a prompt without references.
        """
        found = self.reward.score(prompts, replies, sequences)
        return torch.stack([torch.sigmoid(x - self._reference(p)).mean() for x, p in zip(found, prompts, strict=True)])

    def _reference(self, prompt: Conversation) -> Tensor:
        key = prompt_id(prompt)
        if key not in self._known:
            replies = list(known_of(self.references, prompt, "reference reply"))
            self._known[key] = self.reward.score([prompt] * len(replies), replies)
        return self._known[key]


class LengthPenalty:
    """The reward minus a price for every word beyond what is free (after Singhal et al. 2023, arXiv:2310.03716, section 4).

    Args:
        reward: what is shaped.
        per_word: price of a word.
        free_words: words that cost nothing.
    """

    def __init__(self, reward: Reward, per_word: float, free_words: int = 0) -> None:
        self.reward, self.per_word, self.free_words = reward, per_word, free_words

    def score(self, prompts: Sequence[Conversation], replies: Sequence[Reply], sequences: Sequences | None = None) -> Tensor:
        """[B] see `Reward.score`."""
        found = self.reward.score(prompts, replies, sequences)
        return found - self._price(replies).to(found.device)

    def token_rewards(self, prompts: Sequence[Conversation], replies: Sequence[Reply], sequences: Sequences) -> Tensor:
        """[B, T] see `DenseReward.token_rewards`; the price falls on the last token."""
        price = self._price(replies).to(sequences.tokens.device)
        return placed_reward(self.reward, prompts, replies, sequences) - on_last(price, sequences.mask)

    def _price(self, replies: Sequence[Reply]) -> Tensor:
        words = torch.tensor([float(len(r.text.split())) for r in replies])
        return self.per_word * (words - self.free_words).clamp(min=0)
