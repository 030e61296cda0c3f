"""Several rewards as one: weighted sums, products, and rules of which the first that applies decides."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from trueup.core.errors import UserError
from trueup.data.rows import Conversation, Reply
from trueup.data.tokens import Sequences
from trueup.rewards.dense_reward import placed_reward
from trueup.rewards.protocol import Component, Reward


class WeightedSum:
    """``sum of weight * reward``, each where it falls: dense rewards at their tokens, others at the last.

    Args:
        parts: rewards with their weights.
        names: one a part, distinct; ``1``, ``2``, ... if left out.
    """

    def __init__(self, parts: Sequence[tuple[float, Reward]], names: Sequence[str] | None = None) -> None:
        self.parts = list(parts)
        self.names = [str(i) for i in range(1, len(self.parts) + 1)] if names is None else list(names)
        if len(set(self.names)) < len(self.names) or len(self.names) != len(self.parts):
            raise ValueError(f"{len(self.parts)} parts need as many distinct names, got {self.names}")

    def score(self, prompts: Sequence[Conversation], replies: Sequence[Reply], sequences: Sequences | None = None) -> Tensor:
        """[B] see `Reward.score`."""
        total = torch.zeros(len(replies))
        for weight, reward in self.parts:
            total = total + weight * reward.score(prompts, replies, sequences).cpu()
        return total

    def token_rewards(self, prompts: Sequence[Conversation], replies: Sequence[Reply], sequences: Sequences) -> Tensor:
        """[B, T] see `DenseReward.token_rewards`."""
        total = torch.zeros(sequences.mask.shape, device=sequences.tokens.device)
        for weight, reward in self.parts:
            total = total + weight * placed_reward(reward, prompts, replies, sequences)
        return total

    def components(self) -> dict[str, Component]:
        """The parts by name."""
        return {name: Component(weight, reward) for name, (weight, reward) in zip(self.names, self.parts, strict=True)}


class Product:
    """``product of reward ** weight``, for rewards that are never negative: one that is 0 vetoes the others.

    It is one number a reply, given at the end: of a dense reward the sum counts, since a product has no place before the reply is whole.

    Args:
        parts: rewards with their exponents.
    """

    def __init__(self, parts: Sequence[tuple[float, Reward]]) -> None:
        self.parts = list(parts)

    def score(self, prompts: Sequence[Conversation], replies: Sequence[Reply], sequences: Sequences | None = None) -> Tensor:
        """[B] see `Reward.score`.

        Raises:
            UserError: a negative reward, of which no real power is defined.
        """
        total = torch.ones(len(replies))
        for weight, reward in self.parts:
            found = reward.score(prompts, replies, sequences).cpu()
            if bool((found < 0).any()):
                raise UserError(
                    f"a product of rewards needs rewards of at least 0, got {found.min().item():.4g}. Shape them first, as with sigmoid.",
                    where="reward",
                )
            total = total * found**weight
        return total


class Rules:
    """The value of the first rule that applies to a reply, given at its end; a dense reward among them counts with its sum.

    Args:
        rules: checks (a reward above 1/2 applies) with the value that each gives.
        otherwise: where none applies: a value, or a reward that is asked about those replies.
    """

    def __init__(self, rules: Sequence[tuple[Reward, float]], otherwise: float | Reward = 0.0) -> None:
        self.rules, self.otherwise = list(rules), otherwise

    def score(self, prompts: Sequence[Conversation], replies: Sequence[Reply], sequences: Sequences | None = None) -> Tensor:
        """[B] see `Reward.score`."""
        if isinstance(self.otherwise, int | float):
            found = torch.full((len(replies),), float(self.otherwise))
        else:
            found = self.otherwise.score(prompts, replies, sequences).cpu()
        for check, value in reversed(self.rules):
            found = torch.where(check.score(prompts, replies, sequences).cpu() > 0.5, torch.full_like(found, value), found)
        return found
