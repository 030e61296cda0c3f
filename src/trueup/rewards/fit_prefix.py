"""Scorers of prefixes learn from a policy's own replies: at every token, what the whole reply scored."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trueup.core.rng import Key
from trueup.data.segments import Category
from trueup.data.tokens import Sequences
from trueup.learn.learner import Stateless
from trueup.learn.table import Loss, Table
from trueup.models.reward import TrunkReward
from trueup.rewards.dense.protocol import DenseObjectiveConfig, SegmentTargets
from trueup.rewards.fit_dense import DenseExperience, DenseLearner

WHOLE = Category(name="reply", labels=("reply",), unit="reply", reading="value")


@dataclass(frozen=True, kw_only=True)
class ScoredReplies(Table):
    """Replies of a policy as its tokens, with their scores."""

    sequences: Sequences
    """In the policy's tokens, which the scorer shares."""
    score: Tensor
    """[B] of the whole reply."""


class PrefixLearner(Stateless):
    """Fits a scorer of prefixes to scored replies; a reply is one segment.

    Args:
        objective: what a prefix learns; one that does not classify, unless scores lie between 0 and 1.
        model: a causal trunk with one output and the policy's tokenizer.
    """

    def __init__(self, objective: DenseObjectiveConfig, model: TrunkReward) -> None:
        self.dense = DenseLearner(objective, model, [WHOLE])

    def modules(self) -> dict[str, nn.Module]:
        """Trunk and head."""
        return self.dense.modules()

    def collect(self, batch: ScoredReplies, key: Key) -> DenseExperience:
        """Each reply as one segment."""
        length = batch.sequences.mask.sum(1)
        one = length.new_zeros((len(batch), 1))
        segments = SegmentTargets(
            first=one, last=length[:, None] - 1, category=one, target=batch.score[:, None].float(), present=torch.ones_like(one).bool()
        )
        return DenseExperience(sequences=batch.sequences, segments=segments)

    def totals(self, experience: DenseExperience) -> Tensor:
        """[1] elements."""
        return self.dense.totals(experience)

    def weigh(self, experience: DenseExperience, totals: Tensor) -> Tensor:
        """[B, 1] elements count the same."""
        return self.dense.weigh(experience, totals)

    def loss(self, experience: DenseExperience, weight: Tensor) -> Loss:
        """Weighted sum over replies."""
        return self.dense.loss(experience, weight)
