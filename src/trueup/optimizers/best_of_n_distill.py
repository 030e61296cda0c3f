"""Distilling best-of-n sampling into the policy (Sessa et al. 2024, arXiv:2407.14622, "BOND": its forward term).

The target is pi_n, the law of the best of n replies of the *reference*: pi_n(y) = F(r(y))^n - F(r(y)-)^n, shared by reference
probability among replies of equal reward. Every step samples n replies of the reference to each prompt and imitates the best, so the
loss is KL(pi_n‖pi) up to a constant and its optimum is pi_n itself, at a KL(pi_n‖pi_ref) of at most log n - (n - 1)/n nats.

Deviations:
1. BOND adds the reverse direction, on the policy's own samples with estimated quantiles; here is the forward one alone, which is
   unbiased and needs no quantile.
2. The anchor stays the reference; the paper's iterated variant moves it.
3. The sampler's temperature and ``top_p`` make the reference that is distilled.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from trueup.core.rng import Key
from trueup.data.tokens import Sequences, decode_replies
from trueup.decoding.rollout import Rollout
from trueup.learn.learner import Stateless
from trueup.learn.table import Loss, Table
from trueup.models.policy import Policy
from trueup.ops.masking import mean_of, sequence_sum, weighted_sum
from trueup.ops.selection import best_of_groups
from trueup.ops.weights import token_mean
from trueup.optimizers.experience import PromptBatch
from trueup.optimizers.protocol import OnlineConfig, Parts
from trueup.rewards.dense_reward import placed_reward


class BestOfNDistillConfig(OnlineConfig):
    """Imitate the best of n replies of the reference."""

    kind: Literal["best_of_n_distill"] = "best_of_n_distill"
    """This file."""
    num_generations: int = Field(default=4, ge=2)
    """n: replies of the reference to each prompt."""
    beta: float = Field(default=0.0, ge=0, le=0)
    """Always 0: how far the policy goes is set by n alone."""

    @model_validator(mode="after")
    def _no_importance(self) -> BestOfNDistillConfig:
        if self.importance_cap is not None:
            raise ValueError("importance_cap corrects samples of the policy, and none are drawn; leave it out")
        return self

    def build(self, parts: Parts) -> BestOfNDistill:
        """The learner."""
        return BestOfNDistill(self, parts)


@dataclass(frozen=True, kw_only=True)
class BestOfNDistillExperience(Table):
    """The best reply to each prompt."""

    sequences: Sequences
    logp_ref: Tensor
    """[B] of the whole reply, nats."""
    score: Tensor
    """[B] of the best reply."""
    mean_score: Tensor
    """[B] over all n replies to the prompt."""
    finished: Tensor
    """[B]"""


class BestOfNDistill(Stateless):
    """Samples the reference, imitates the best."""

    def __init__(self, config: BestOfNDistillConfig, parts: Parts) -> None:
        self.config, self.parts = config, parts
        self.rollout = reference_rollout(parts)

    def modules(self) -> dict[str, nn.Module]:
        """The policy."""
        return {"policy": self.parts.policy.model}

    def collect(self, batch: PromptBatch, key: Key) -> BestOfNDistillExperience:
        """Sample the reference, score, keep the best."""
        cfg, n = self.config, self.config.num_generations
        seq = self.rollout.sample(
            [list(ids) for ids in batch.ids],
            num_samples=n,
            max_tokens=cfg.max_completion_length,
            temperature=cfg.temperature,
            top_p=cfg.top_p,
            key=key / "rollout",
            first_row=int(batch.row[0]) * n,
        ).sequences
        replies = decode_replies(self.parts.policy.tokenizer, seq.replies, seq.mask)
        prompts = [p for p in batch.prompt for _ in range(n)]
        score = placed_reward(self.parts.reward, prompts, replies, seq).sum(1)
        finished = torch.tensor([r.finished for r in replies], device=score.device)
        rows = best_of_groups(score - cfg.missing_eos_penalty * (~finished).float(), n).nonzero().squeeze(1)
        best = seq.take(rows)
        return BestOfNDistillExperience(
            sequences=best,
            logp_ref=sequence_sum(self.parts.reference.logprobs(best, cfg.temperature), best.mask),
            score=score[rows],
            mean_score=score.view(-1, n).mean(1),
            finished=finished[rows],
        )

    def totals(self, experience: BestOfNDistillExperience) -> Tensor:
        """[1] tokens."""
        return torch.tensor([float(experience.sequences.mask.sum())], dtype=torch.float64)

    def weigh(self, experience: BestOfNDistillExperience, totals: Tensor) -> Tensor:
        """[B, T] every token counts the same."""
        return token_mean(experience.sequences.mask, totals[0].item())

    def loss(self, experience: BestOfNDistillExperience, weight: Tensor) -> Loss:
        """Weighted sum of minus log-probability."""
        e, mask = experience, experience.sequences.mask
        logp = self.parts.policy.logprobs(e.sequences, self.config.temperature)
        return Loss(
            weighted_sum(-logp, weight, mask),
            {
                "nll_nats": mean_of(-logp, mask),
                "reward": mean_of(e.mean_score),
                "reward/kept": mean_of(e.score),
                "log_ratio_of_best_nats": mean_of(sequence_sum(logp, mask) - e.logp_ref),
                "completions/mean_length": mean_of(mask.sum(1)),
                "completions/clipped_ratio": mean_of(~e.finished),
            },
        )


def reference_rollout(parts: Parts) -> Rollout:
    """A sampler of the reference, at the precision of the policy's; of an adapted policy, of a copy without the adapter."""
    reference = parts.reference
    model = copy.deepcopy(reference.model).unload() if reference.adapter else reference.model
    policy = Policy(model, parts.policy.tokenizer, reference.precision)
    return Rollout(policy, parts.rollout.precision, fused=parts.rollout.fused)
