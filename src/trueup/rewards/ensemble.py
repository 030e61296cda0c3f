"""Several reward models as one reward, with pessimism as a setting; usable wherever a reward is."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from trueup.data.rows import Conversation, Reply
from trueup.data.tokens import Sequences
from trueup.learn.table import Table
from trueup.models.reward import RewardModel
from trueup.ops.ensembles import Aggregate, aggregate, disagreement
from trueup.rewards.learned import LearnedReward, Scale


class EnsembleReward:
    """Members that were each rescaled on the same reference samples, and a rule that makes one score of theirs.

    Args:
        members: at least one; give each its scale first, or a member with a large spread decides alone.
        rule: see `trueup.ops.ensembles.aggregate`.
        coefficient: price of disagreement, for the rules that have one.
    """

    def __init__(self, members: Sequence[LearnedReward], rule: Aggregate = "mean", coefficient: float = 0.5) -> None:
        if not members:
            raise ValueError("an ensemble needs at least one member")
        self.members, self.rule, self.coefficient = list(members), rule, coefficient

    def score(self, prompts: Sequence[Conversation], replies: Sequence[Reply], sequences: Sequences | None = None) -> Tensor:
        """[B] The members' scores under the rule; see `Reward.score`."""
        return aggregate(self.member_scores(prompts, replies, sequences), self.rule, self.coefficient)

    def member_scores(self, prompts: Sequence[Conversation], replies: Sequence[Reply], sequences: Sequences | None = None) -> Tensor:
        """[M, B] Rescaled score of each member."""
        return torch.stack([m.score(prompts, replies, sequences) for m in self.members])

    def spread(self, prompts: Sequence[Conversation], replies: Sequence[Reply], sequences: Sequences | None = None) -> Tensor:
        """[B] Standard deviation of the members' scores, divided by their number."""
        return disagreement(self.member_scores(prompts, replies, sequences))


class HeadsReward:
    """An ensemble of heads on one trunk: the trunk is passed once, whatever their number.

    Args:
        model: with one output a member, as the objective ``heads`` trains it.
        scales: one a member, measured on the same reference samples; identity if left out.
        rule: see `trueup.ops.ensembles.aggregate`.
        coefficient: price of disagreement.
        rows: rows scored at a time.
    """

    def __init__(
        self, model: RewardModel, scales: Sequence[Scale] | None = None, rule: Aggregate = "mean", coefficient: float = 0.5, rows: int = 256
    ) -> None:
        self.model, self.scales, self.rule, self.coefficient, self.rows = model, scales, rule, coefficient, rows

    def score(self, prompts: Sequence[Conversation], replies: Sequence[Reply], sequences: Sequences | None = None) -> Tensor:
        """[B] The heads' scores under the rule; see `Reward.score`."""
        return aggregate(self.member_scores(prompts, replies), self.rule, self.coefficient)

    @torch.no_grad()
    def member_scores(self, prompts: Sequence[Conversation], replies: Sequence[Reply]) -> Tensor:
        """[M, B] Rescaled score of each head."""
        features: Table = self.model.encode(prompts, replies)
        parts = [self.model.outputs(features.take(rows)).float() for rows in torch.arange(len(features)).split(self.rows)]
        raw = torch.cat(parts).T
        if self.scales is None:
            return raw
        gain, shift = (torch.tensor([[getattr(s, name)] for s in self.scales], device=raw.device) for name in ("gain", "shift"))
        return gain * raw + shift

    def spread(self, prompts: Sequence[Conversation], replies: Sequence[Reply], sequences: Sequences | None = None) -> Tensor:
        """[B] Standard deviation of the heads' scores, divided by their number."""
        return disagreement(self.member_scores(prompts, replies))
