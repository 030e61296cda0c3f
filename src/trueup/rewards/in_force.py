"""The reward an optimizer sees, which may be replaced while it trains."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from trueup.data.rows import Conversation, Reply
from trueup.data.tokens import Sequences
from trueup.rewards.dense_reward import placed_reward
from trueup.rewards.protocol import Reward


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
