"""Advantage-leftover-lunch learning: policy gradient on given replies that beat the reference (Baheti et al. 2023, arXiv:2305.14718).

Deviations:
1. The value of a prompt is the mean score of ``num_generations`` fresh replies of the reference, drawn at each step, instead of a head that
   was fitted to such scores.
2. Both replies of a pair are data; which one was preferred is not looked at, the arm's reward scores both.
3. With ``priority`` a reply weighs in proportion to its advantage among those of the minibatch, which is the expectation of the
   authors' sampling of replies in that proportion.
4. The reply's ratio is clipped and held constant as in the authors' code, so that clipping never stops its gradient.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from trueup.core.rng import Key
from trueup.data.rows import Judged
from trueup.data.tokens import Sequences, decode_replies, encode_prompts
from trueup.decoding.rollout import Rollout
from trueup.learn.learner import Stateless
from trueup.learn.table import Examples, Loss, Table
from trueup.models.policy import policy_of
from trueup.ops.masking import mean_of, sequence_sum, weighted_sum
from trueup.ops.offline_gradient import Variant, advantage_loss, positive
from trueup.optimizers.offline import encode_pairs, prompts_twice
from trueup.optimizers.protocol import OfflineConfig, Parts


class ALoLConfig(OfflineConfig):
    """Advantage-weighted imitation of replies that beat the reference."""

    kind: Literal["a_lol"] = "a_lol"
    """This file."""
    variant: Variant = "plain"
    """Weight of a reply: ``plain`` its clipped ratio to the reference, ``seq`` each token's, ``ref_free`` 1, ``kl`` 1 and a KL penalty."""
    epsilon: float = Field(default=0.9, gt=0, lt=1)
    """Half-width of the interval that ratios are clipped to."""
    beta: float = Field(default=0.1, ge=0)
    """KL coefficient of ``kl``; a reply whose advantage is less is pushed down."""
    priority: bool = True
    """Weigh replies in proportion to their advantage."""
    num_generations: int = Field(default=4, ge=1)
    """Replies of the reference that the value of a prompt is the mean of."""

    def build(self, parts: Parts) -> ALoL:
        """The learner."""
        return ALoL(self, parts)


@dataclass(frozen=True, kw_only=True)
class ALoLExperience(Table):
    """Given replies, both of a pair in a row, and how far they beat the reference."""

    sequences: Sequences
    """Every column [B, 2, ...]."""
    logp_ref: Tensor
    """[B, 2, T] nats."""
    advantage: Tensor
    """[B, 2] not below 0."""
    score: Tensor
    """[B, 2]"""
    baseline: Tensor
    """[B] mean score of the reference's own replies."""


class ALoL(Stateless):
    """Imitates given replies by how far they beat the reference's own."""

    def __init__(self, config: ALoLConfig, parts: Parts) -> None:
        self.config, self.parts = config, parts
        self.rollout = Rollout(policy_of(parts.reference, parts.policy.tokenizer), parts.rollout.precision)

    def modules(self) -> dict[str, nn.Module]:
        """The policy."""
        return {"policy": self.parts.policy.model}

    def collect(self, batch: Examples[Judged], key: Key) -> ALoLExperience:
        """Score the replies of the data and those that the reference writes now."""
        sequences = encode_pairs(self.parts.policy, batch)
        flat = sequences.unstacked()
        score = self.parts.reward.score(*prompts_twice(batch), flat).to(flat.tokens.device).unflatten(0, (-1, 2))
        baseline = self._baseline(batch, key)
        return ALoLExperience(
            sequences=sequences,
            logp_ref=self.parts.reference.logprobs(flat).unflatten(0, (-1, 2)),
            advantage=positive(score - baseline[:, None]),
            score=score,
            baseline=baseline,
        )

    def totals(self, experience: ALoLExperience) -> Tensor:
        """[2] replies with an advantage, and the sum of the advantages."""
        a = experience.advantage
        return torch.tensor([(a > 0).sum().item(), a.sum(dtype=torch.float64).item()], dtype=torch.float64)

    def weigh(self, experience: ALoLExperience, totals: Tensor) -> Tensor:
        """[B, 2] replies with an advantage, alike or in proportion to it; the others 0."""
        a = experience.advantage
        if self.config.priority:
            return a / max(totals[1].item(), 1e-12)
        return (a > 0).float() / max(totals[0].item(), 1.0)

    def loss(self, experience: ALoLExperience, weight: Tensor) -> Loss:
        """Weighted sum of minus advantage times log-probability."""
        e, cfg = experience, self.config
        flat, logp_ref, advantage = e.sequences.unstacked(), e.logp_ref.flatten(0, 1), e.advantage.flatten()
        mask = flat.mask
        logp = self.parts.policy.logprobs(flat)
        loss = advantage_loss(logp, logp_ref, advantage, mask, cfg.variant, cfg.epsilon, cfg.beta)
        ratio = sequence_sum(logp - logp_ref, mask)
        return Loss(
            weighted_sum(loss, weight.flatten()),
            {
                "reward": mean_of(e.score),
                "baseline": mean_of(e.baseline),
                "advantage": mean_of(advantage),
                "kept_share": mean_of(advantage > 0),
                "policy/clip_ratio": mean_of((ratio.exp() - 1).abs() > cfg.epsilon, advantage > 0),
                "logps/kept": mean_of(sequence_sum(logp, mask), advantage > 0),
                "log_ratio/kept": mean_of(ratio, advantage > 0),
            },
        )

    def _baseline(self, batch: Examples[Judged], key: Key) -> Tensor:
        """[B] Mean score of the reference's replies to each prompt; draws are keyed by the pair's place in the data."""
        tokenizer, k = self.parts.policy.tokenizer, self.config.num_generations
        prompts = [g.prompt.text for g in batch.example]
        sampled = self.rollout.sample(
            encode_prompts(tokenizer, prompts), num_samples=k, max_tokens=self.config.max_completion_length,
            key=key / "baseline", numbers=batch.row.tolist(),
        ).sequences  # fmt: skip
        replies = decode_replies(tokenizer, sampled.replies, sampled.mask)
        score = self.parts.reward.score([p for p in prompts for _ in range(k)], replies, sampled)
        return score.to(sampled.tokens.device).unflatten(0, (-1, k)).mean(1)
