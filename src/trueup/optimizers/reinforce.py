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

from trueup.core.rng import Key
from trueup.optimizers.experience import PromptBatch, sample_and_score
from trueup.optimizers.protocol import Parts
from trueup.optimizers.whole_reply import ClippedConfig, WholeReplies, WholeReplyLearner, penalised_reward, whole_replies


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


class Reinforce(WholeReplyLearner[ReinforceConfig]):
    """Pushes every reply by its reward less a baseline."""

    average: float | None = None
    """Moving average of rewards; None before the first step."""

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
