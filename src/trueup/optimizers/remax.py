"""REINFORCE with the greedy reply's reward as baseline (Li et al. 2023, arXiv:2310.10505, "ReMax").

Deviations:
1. The KL penalty is one number a reply (the paper's is per token, with returns to go); the greedy reply pays it too where ``kl_penalty`` is
   ``reward``, so that both sides of the difference are on one scale. The root of chi^2 is left out of the baseline.
2. The gradient goes through a clipped ratio of whole replies, as in RLOO; on the first pass it is REINFORCE's.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from trueup.core.rng import Key
from trueup.learn.table import Loss
from trueup.ops.weights import row_mean
from trueup.optimizers.experience import PromptBatch, greedy_samples, penalised_score, reference_gap, sample_and_score
from trueup.optimizers.protocol import Parts
from trueup.optimizers.whole_reply import ClippedConfig, WholeReplies, penalised_reward, whole_replies, whole_reply_loss


class RemaxConfig(ClippedConfig):
    """Greedy baseline: one more reply a prompt, none of them a sibling."""

    kind: Literal["remax"] = "remax"
    """This file."""
    num_generations: int = Field(default=1, ge=1)
    """Replies sampled for each prompt; the greedy one comes on top."""

    def build(self, parts: Parts) -> Remax:
        """The learner."""
        return Remax(self, parts)


class Remax:
    """Pushes every reply by how much it beats the greedy one."""

    def __init__(self, config: RemaxConfig, parts: Parts) -> None:
        self.config, self.parts = config, parts

    def modules(self) -> dict[str, nn.Module]:
        """The policy."""
        return {"policy": self.parts.policy.model}

    def state_dict(self) -> dict[str, Any]:
        """Nothing beside weights."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing beside weights."""

    def collect(self, batch: PromptBatch, key: Key) -> WholeReplies:
        """Sample, decode greedily, score both."""
        cfg = self.config
        samples = sample_and_score(self.parts, cfg, batch, key)
        greedy = greedy_samples(self.parts, cfg, batch, key)
        baseline = penalised_score(greedy, cfg)
        if cfg.kl_penalty == "reward":
            baseline = baseline - cfg.beta * reference_gap(greedy).sum(1)
        reward = penalised_reward(samples, cfg, self.parts.sum_over_processes)
        return whole_replies(samples, reward - baseline.repeat_interleave(cfg.num_generations), cfg)

    def totals(self, experience: WholeReplies) -> Tensor:
        """[1] replies."""
        return torch.tensor([float(len(experience))], dtype=torch.float64)

    def weigh(self, experience: WholeReplies, totals: Tensor) -> Tensor:
        """[B] every reply counts the same, times its importance weight."""
        return row_mean(experience.advantage, totals[0].item()) * experience.importance

    def loss(self, experience: WholeReplies, weight: Tensor) -> Loss:
        """Weighted sum of clipped sequence surrogates."""
        return whole_reply_loss(self.parts.policy, experience, weight, self.config)
