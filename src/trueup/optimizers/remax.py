"""REINFORCE with the greedy reply's reward as baseline (Li et al. 2023, arXiv:2310.10505, "ReMax").

Deviations:
1. The KL penalty is one number a reply (the paper's is per token, with returns to go); the greedy reply pays it too where ``kl_penalty`` is
   ``reward``, so that both sides of the difference are on one scale. The root of chi^2 is left out of the baseline.
2. The gradient goes through a clipped ratio of whole replies, as in RLOO; on the first pass it is REINFORCE's.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from trueup.core.rng import Key
from trueup.learn.learner import Stateless
from trueup.optimizers.experience import PromptBatch, greedy_samples, penalised_score, reference_gap, sample_and_score
from trueup.optimizers.protocol import Parts
from trueup.optimizers.whole_reply import ClippedConfig, WholeReplies, WholeReplyLearner, penalised_reward, whole_replies


class RemaxConfig(ClippedConfig):
    """Greedy baseline: one more reply a prompt, none of them a sibling."""

    kind: Literal["remax"] = "remax"
    """This file."""
    num_generations: int = Field(default=1, ge=1)
    """Replies sampled for each prompt; the greedy one comes on top."""

    def build(self, parts: Parts) -> Remax:
        """The learner."""
        return Remax(self, parts)


class Remax(WholeReplyLearner[RemaxConfig], Stateless):
    """Pushes every reply by how much it beats the greedy one."""

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
