"""A reward model that follows principles, steered by the list it is given (SALMON; Sun et al. 2023, arXiv:2310.05910)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from trueup.data.principles import with_principles
from trueup.data.rows import Conversation, Reply
from trueup.data.tokens import Sequences
from trueup.rewards.protocol import Reward


class PrincipleReward:
    """Asks a reward about every prompt with principles behind it.

    Args:
        reward: fitted to rows of `trueup.data.principles.principle_preferences`.
        principles: texts, in the words that the reward was fitted to; assign `principles` to steer otherwise. An empty list makes it a
            generic reward.
    """

    def __init__(self, reward: Reward, principles: Sequence[str] = ()) -> None:
        self.reward, self.principles = reward, tuple(principles)

    def score(self, prompts: Sequence[Conversation], replies: Sequence[Reply], sequences: Sequences | None = None) -> Tensor:
        """[B] see `Reward.score`."""
        if not self.principles:
            return self.reward.score(prompts, replies, sequences)
        # the policy's tokens do not hold the principles
        return self.reward.score([with_principles(p, self.principles) for p in prompts], replies)
