"""Maximum-entropy inverse reinforcement learning on completions (Ziebart et al. 2008): demonstrations against samples of a policy.

One action is a whole reply, and the partition function is taken over the demonstration and the samples beside it, so the gradient is the
demonstrations' mean score minus the mean under softmax(score): at the optimum features of both match.

Deviations:
1. Samples stand for all replies with equal weight (they are taken to come from the policy that the score itself induces).
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from trueup.rewards.objectives.best_of_k import best_of_k_loss
from trueup.rewards.objectives.protocol import Judgements, RankingConfig


class MaxEntConfig(RankingConfig):
    """The demonstration (the highest rating of its group) among samples of a policy."""

    kind: Literal["max_ent"] = "max_ent"
    """This file."""

    def loss(self, output: Tensor, judged: Judgements) -> Tensor:
        """[B] -log softmax(score) of the demonstration: the best-of-K loss, with the demonstration for the pick."""
        return best_of_k_loss(output[..., 0], judged.rating, judged.present)
