"""Reward models learn through the same loop as policies: only the objective differs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from trueup.core.rng import Key
from trueup.data.rows import Judged, Reply
from trueup.learn.learner import Stateless
from trueup.learn.table import Examples, Loss, Table
from trueup.models.reward import RewardModel
from trueup.ops.masking import keep, mean_of, weighted_sum
from trueup.rewards.objectives.protocol import Judgements, ObjectiveConfig, over_pairs

ABSENT = Reply(text="")
"""Fills the places of smaller groups."""


@dataclass(frozen=True, kw_only=True)
class GroupExperience(Table):
    """Encoded groups."""

    features: Table
    """Features of all replies, every column [B, K, ...]."""
    judged: Judgements


class RewardLearner(Stateless):
    """Fits a reward model to judged groups of replies.

    Args:
        objective: the loss per group.
        model: the reward model; it gives as many outputs as the objective asks for.
    """

    def __init__(self, objective: ObjectiveConfig, model: RewardModel) -> None:
        self.objective, self.model = objective, model

    def modules(self) -> dict[str, nn.Module]:
        """The trainable part of the reward model."""
        return {"reward": self.model.module}

    def collect(self, batch: Examples[Judged], key: Key) -> GroupExperience:
        """Encode every reply of every group."""
        groups, found = batch.example, judgements(batch.example, batch.row)
        size = found.rating.shape[1]
        replies = [r for g in groups for r in (*g.replies, *[ABSENT] * (size - len(g.replies)))]
        features = self.model.encode([g.prompt.text for g in groups for _ in range(size)], replies)
        return GroupExperience(features=features.stacked(size), judged=found)

    def totals(self, experience: GroupExperience) -> Tensor:
        """[1 + N] groups that count, and the sums of the objective's coupling term."""
        rows = self.objective.counted(experience.judged).sum().double().reshape(1).cpu()
        if type(self.objective).moments is ObjectiveConfig.moments:
            return rows
        with torch.no_grad():
            return torch.cat([rows, self.objective.moments(self._outputs(experience), experience.judged).cpu()])

    def weigh(self, experience: GroupExperience, totals: Tensor) -> Tensor:
        """[B, 1 + K H] the weight of each group's loss, and of each of its outputs in the linearised coupling term."""
        counted = self.objective.counted(experience.judged)
        base = (counted.float() / max(totals[0].item(), 1.0))[:, None]
        if len(totals) == 1:
            return base
        with torch.no_grad():
            linear = self.objective.coupling(self._outputs(experience), experience.judged, totals[1:])
        return base if linear is None else torch.cat([base, linear.flatten(1)], 1)

    def loss(self, experience: GroupExperience, weight: Tensor) -> Loss:
        """Weighted sum of the objective, its coupling term and its term on the head; accuracy counts ties as half."""
        output, found = self._outputs(experience), experience.judged
        weight = weight.to(output.device)
        base = weight[:, 0]
        # a group that does not count may have no finite loss
        value = weighted_sum(keep(self.objective.loss(output, found), base > 0), base)
        if weight.shape[1] > 1:
            value = value + (weight[:, 1:] * output.flatten(1)).sum()
        head = self.model.head_weight()
        term = None if head is None else self.objective.regulariser(head)
        if term is not None:
            value = value + term * base.sum()  # weights of all groups add up to 1
        return Loss(value, _metrics(output[..., :1], found))

    def _outputs(self, experience: GroupExperience) -> Tensor:
        rows, size = experience.judged.rating.shape
        return self.model.outputs(experience.features.unstacked()).unflatten(0, (rows, size))


def judgements(groups: Sequence[Judged], row: Tensor) -> Judgements:
    """What annotators said, as columns; smaller groups are padded. ``row`` is each group's position in its data set, [B]."""
    size = max((len(g.replies) for g in groups), default=2)

    def padded(values: Sequence[float]) -> list[float]:
        return [*values, *[0.0] * (size - len(values))]

    return Judgements(
        rating=torch.tensor([padded(g.ratings) for g in groups]),
        present=torch.tensor([[i < len(g.replies) for i in range(size)] for g in groups]),
        margin=torch.tensor([g.margin or 0.0 for g in groups]),
        length=torch.tensor([padded([float(len(r.text)) for r in g.replies]) for g in groups]),
        row=row,
    )


@torch.no_grad()
def _metrics(score: Tensor, found: Judgements) -> dict[str, Any]:
    ordered = over_pairs(score, found, lambda a, b, m: (a > b).float().squeeze(-1) + 0.5 * (a == b).float().squeeze(-1), "drop")
    gap = over_pairs(score, found, lambda a, b, m: (a - b).squeeze(-1), "drop")
    distinct = over_pairs(score, found, lambda a, b, m: torch.ones_like(a).squeeze(-1), "drop") > 0
    return {
        "accuracy": mean_of(ordered, distinct),
        "margin": mean_of(gap, distinct),
        "mean_reward": mean_of(score.squeeze(-1), found.present.to(score.device)),
    }
