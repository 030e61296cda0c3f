"""REINFORCE on whole replies with a baseline that no sibling is needed for (Williams 1992; Kool et al. 2019, "Buy 4 REINFORCE samples").

Deviations:
1. ``baseline: batch`` is the mean reward of all *other* replies of the batch, whatever their prompt, so that it leaves the gradient
   without bias; the mean of all of them would shrink it by 1 - 1/N.
2. ``baseline: moving_average`` is made of earlier batches only; the first batch has its leave-one-out mean instead.
3. The KL penalty is inside the reward, or in another form that ``kl_penalty`` names; the gradient goes through a clipped ratio, as in RLOO.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from trueup.core.rng import Key
from trueup.learn.table import Loss
from trueup.ops.weights import row_mean
from trueup.optimizers.experience import PromptBatch, sample_and_score
from trueup.optimizers.protocol import Parts
from trueup.optimizers.whole_reply import ClippedConfig, WholeReplies, penalised_reward, whole_replies, whole_reply_loss


class ReinforceConfig(ClippedConfig):
    """Score-function gradient with a constant, a batch's or a moving baseline."""

    kind: Literal["reinforce"] = "reinforce"
    """This file."""
    num_generations: int = Field(default=1, ge=1)
    """Replies sampled for each prompt."""
    baseline: Literal["none", "batch", "moving_average"] = "moving_average"
    """What is taken off every reward."""
    baseline_decay: float = Field(default=0.9, ge=0, lt=1)
    """Share of the moving average that stays at each step."""

    def build(self, parts: Parts) -> Reinforce:
        """The learner."""
        return Reinforce(self, parts)


class Reinforce:
    """Pushes every reply by its reward less a baseline."""

    def __init__(self, config: ReinforceConfig, parts: Parts) -> None:
        self.config, self.parts = config, parts
        self.average: float | None = None

    def modules(self) -> dict[str, nn.Module]:
        """The policy."""
        return {"policy": self.parts.policy.model}

    def state_dict(self) -> dict[str, Any]:
        """The moving average, null before the first step."""
        return {"average": self.average}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the moving average."""
        self.average = state["average"]

    def collect(self, batch: PromptBatch, key: Key) -> WholeReplies:
        """Sample, score, take the baseline off; then move it for the next step."""
        cfg, add = self.config, self.parts.sum_over_processes
        samples = sample_and_score(self.parts, cfg, batch, key)
        reward = penalised_reward(samples, cfg, add)
        if cfg.baseline == "none":
            return whole_replies(samples, reward, cfg)
        total, rows = add(torch.stack([reward.double().sum(), reward.new_tensor(float(len(reward))).double()])).tolist()
        others = (total - reward) / max(rows - 1, 1)
        baseline = others if self.average is None else torch.full_like(reward, self.average)
        if cfg.baseline == "moving_average":
            mean = total / rows
            self.average = mean if self.average is None else cfg.baseline_decay * self.average + (1 - cfg.baseline_decay) * mean
        return whole_replies(samples, reward - baseline, cfg)

    def totals(self, experience: WholeReplies) -> Tensor:
        """[1] replies."""
        return torch.tensor([float(len(experience))], dtype=torch.float64)

    def weigh(self, experience: WholeReplies, totals: Tensor) -> Tensor:
        """[B] every reply counts the same, times its importance weight."""
        return row_mean(experience.advantage, totals[0].item()) * experience.importance

    def loss(self, experience: WholeReplies, weight: Tensor) -> Loss:
        """Weighted sum of clipped sequence surrogates."""
        return whole_reply_loss(self.parts.policy, experience, weight, self.config)
