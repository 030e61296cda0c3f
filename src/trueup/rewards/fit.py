"""Reward models learn through the same loop as policies: only the objective differs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from trueup.core.rng import Key
from trueup.data.rows import Preference
from trueup.learn.table import Loss, Table
from trueup.models.reward import RewardModel
from trueup.ops.masking import mean_of, weighted_sum
from trueup.ops.weights import row_mean
from trueup.rewards.objectives.protocol import ObjectiveConfig


@dataclass(frozen=True, kw_only=True)
class PreferenceBatch(Table):
    """Pairs to learn from."""

    row: Tensor
    """[B] position in the data set."""
    preference: tuple[Preference, ...]


@dataclass(frozen=True, kw_only=True)
class PairExperience(Table):
    """Encoded pairs."""

    chosen: Table
    """Features of the preferred replies, as the model encodes them."""
    rejected: Table
    margin: Tensor
    """[B] stated strength of the preference, 0 where none."""


class RewardLearner:
    """Fits a reward model to pairs.

    Args:
        objective: the loss per pair.
        model: the reward model.
    """

    def __init__(self, objective: ObjectiveConfig, model: RewardModel) -> None:
        self.objective, self.model = objective, model

    def modules(self) -> dict[str, nn.Module]:
        """The trainable part of the reward model."""
        return {"reward": self.model.module}

    def state_dict(self) -> dict[str, Any]:
        """Nothing beside weights."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing beside weights."""

    def collect(self, batch: PreferenceBatch, key: Key) -> PairExperience:
        """Encode both replies of every pair."""
        pairs = batch.preference
        prompts = [p.prompt.text for p in pairs]
        return PairExperience(
            chosen=self.model.encode(prompts, [p.chosen for p in pairs]),
            rejected=self.model.encode(prompts, [p.rejected for p in pairs]),
            margin=torch.tensor([p.margin or 0.0 for p in pairs]),
        )

    def totals(self, experience: PairExperience) -> Tensor:
        """[1] pairs."""
        return torch.tensor([float(len(experience))], dtype=torch.float64)

    def weigh(self, experience: PairExperience, totals: Tensor) -> Tensor:
        """[B] every pair counts the same."""
        return row_mean(experience.margin, totals[0].item())

    def loss(self, experience: PairExperience, weight: Tensor) -> Loss:
        """Weighted sum of the objective; accuracy counts ties as half."""
        chosen, rejected = self.model.score(experience.chosen), self.model.score(experience.rejected)
        margin = experience.margin.to(chosen.device)
        per_pair = self.objective.loss(chosen, rejected, margin)
        wins = (chosen > rejected).float() + 0.5 * (chosen == rejected).float()
        return Loss(
            weighted_sum(per_pair, weight.to(per_pair.device)),
            {"accuracy": mean_of(wins), "margin": mean_of(chosen - rejected), "mean_reward": mean_of(torch.cat([chosen, rejected]))},
        )
