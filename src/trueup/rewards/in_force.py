"""The reward an optimizer sees, which may be replaced while it trains."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from trueup.data.rows import Conversation, Reply
from trueup.data.tokens import Sequences
from trueup.rewards.dense_reward import placed_reward
from trueup.rewards.protocol import Component, Reward, components_of


class RewardInForce:
    """Passes every question on to the present reward.

    Args:
        reward: the first one; assign `reward` to replace it.
    """

    def __init__(self, reward: Reward) -> None:
        self.reward = reward

    def score(self, prompts: Sequence[Conversation], replies: Sequence[Reply], sequences: Sequences | None = None) -> Tensor:
        """[B] see `Reward.score`."""
        return self.reward.score(prompts, replies, sequences)

    def token_rewards(self, prompts: Sequence[Conversation], replies: Sequence[Reply], sequences: Sequences) -> Tensor:
        """[B, T] see `DenseReward.token_rewards`; of a reward that is not dense, its score on the last token."""
        return placed_reward(self.reward, prompts, replies, sequences)

    def components(self) -> dict[str, Component]:
        """What the present reward is made of; empty where it is of one piece."""
        return components_of(self.reward)


def in_force(reward: Reward) -> Reward:
    """The reward itself, or the one that is in force behind it."""
    return reward.reward if isinstance(reward, RewardInForce) else reward
