"""REINFORCE with a leave-one-out baseline (Ahmadian et al. 2024, arXiv:2402.14740).

Deviations:
1. The KL penalty is inside the reward, one number a reply, held constant: ``score - beta * sum_t(log pi - log pi_ref)`` (the
   paper's eq. 4); ``kl_penalty`` has other forms, as a term of the loss or as the root of chi^2 (Laidlaw et al. 2024, arXiv:2403.03185).
2. The gradient goes through a clipped sequence-level ratio to the policy that sampled (as in TRL), so that several passes over one batch
   are sound; on the first pass the ratio is 1 and the gradient is REINFORCE's.
3. An optional truncated importance weight corrects for a sampler of lower precision.
"""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from trueup.core.rng import Key
from trueup.learn.learner import Stateless
from trueup.ops.policy_gradient import leave_one_out
from trueup.optimizers.experience import PromptBatch, sample_and_score
from trueup.optimizers.protocol import Parts
from trueup.optimizers.whole_reply import ClippedConfig, WholeReplies, WholeReplyLearner, penalised_reward, whole_replies


class RLOOConfig(ClippedConfig):
    """REINFORCE with a leave-one-out baseline."""

    kind: Literal["rloo"] = "rloo"
    """This file."""

    @model_validator(mode="after")
    def _enough_samples(self) -> RLOOConfig:
        if self.num_generations < 2:
            raise ValueError(f"a leave-one-out baseline needs num_generations of at least 2, got {self.num_generations}")
        return self

    def build(self, parts: Parts) -> RLOO:
        """The learner."""
        return RLOO(self, parts)


class RLOO(WholeReplyLearner[RLOOConfig], Stateless):
    """Samples K replies a prompt and pushes each by how much it beats its siblings."""

    def collect(self, batch: PromptBatch, key: Key) -> WholeReplies:
        """Sample, score, compare within prompts."""
        samples = sample_and_score(self.parts, self.config, batch, key)
        reward = penalised_reward(samples, self.config, self.parts.sum_over_processes)
        return whole_replies(samples, leave_one_out(reward, self.config.num_generations), self.config)
