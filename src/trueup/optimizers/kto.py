"""Kahneman–Tversky optimisation (Ethayarajh et al. 2024, arXiv:2402.01306): replies are gains or losses against a reference point.

Deviations:
1. Data are pairs; both replies of a pair count, the chosen one as desirable and the rejected one as undesirable.
2. The reference point, an estimate of KL(pi‖pi_ref) that is held constant, comes from mismatched rows as in the authors' code, but
   two neighbouring rows exchange their replies instead of all moving on by one, so that processes with an even share of the rows mismatch
   what one process would; the mean is over all rows, 0 where it is negative. It is taken under the present policy for each minibatch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from trueup.core.errors import UserError
from trueup.core.rng import Key
from trueup.data.rows import Judged
from trueup.data.tokens import Sequences
from trueup.learn.learner import Stateless
from trueup.learn.table import Examples, Loss, Table
from trueup.ops.masking import mean_of, weighted_sum
from trueup.ops.preference import kto_loss
from trueup.ops.weights import row_mean
from trueup.optimizers.offline import encode_pairs, pair_logps, pair_metrics
from trueup.optimizers.protocol import OfflineConfig, Parts


class KTOConfig(OfflineConfig):
    """Saturating gains of chosen replies and losses of rejected ones."""

    uses_reward: ClassVar[bool] = False
    kind: Literal["kto"] = "kto"
    """This file."""
    beta: float = Field(default=0.1, gt=0)
    """Implicit rewards are beta times the log-ratio; how fast gains and losses saturate (TRL's name)."""
    desirable_weight: float = Field(default=1.0, ge=0)
    """Weight of chosen replies (TRL's name)."""
    undesirable_weight: float = Field(default=1.0, ge=0)
    """Weight of rejected replies (TRL's name)."""

    def build(self, parts: Parts) -> KTO:
        """The learner."""
        return KTO(self, parts)


@dataclass(frozen=True, kw_only=True)
class KTOExperience(Table):
    """Encoded pairs, and the same prompts with replies to others."""

    sequences: Sequences
    """Every column [B, 2, ...], the chosen reply first."""
    logp_ref: Tensor
    """[B, 2] nats."""
    mismatched: Sequences
    """[B, 2, ...]"""
    mismatched_ref: Tensor
    """[B, 2] nats."""


class KTO(Stateless):
    """Raises chosen replies and lowers rejected ones, each as far as it is from saturation."""

    def __init__(self, config: KTOConfig, parts: Parts) -> None:
        self.config, self.parts = config, parts

    def modules(self) -> dict[str, nn.Module]:
        """The policy."""
        return {"policy": self.parts.policy.model}

    def collect(self, batch: Examples[Judged], key: Key) -> KTOExperience:
        """Encode the pairs and their mismatches; ask the reference once.

        Raises:
            UserError: a process has one pair alone.
        """
        rows = batch.example
        if len(rows) < 2:
            raise UserError("kto mismatches pairs with one another, so it needs at least 2 a step and process. Raise prompts_per_step.")
        strangers = tuple(_with_replies_of(g, other) for g, other in zip(rows, neighbours(rows), strict=True))
        sequences = encode_pairs(self.parts.policy, batch)
        mismatched = encode_pairs(self.parts.policy, Examples(row=batch.row, example=strangers))
        return KTOExperience(
            sequences=sequences,
            logp_ref=pair_logps(self.parts.reference, sequences),
            mismatched=mismatched,
            mismatched_ref=pair_logps(self.parts.reference, mismatched),
        )

    @torch.no_grad()
    def totals(self, experience: KTOExperience) -> Tensor:
        """[2] pairs, and the sum over them of the mismatched replies' mean log-ratio."""
        gap = pair_logps(self.parts.policy, experience.mismatched) - experience.mismatched_ref
        return torch.tensor([float(len(experience)), gap.mean(1).sum().item()], dtype=torch.float64)

    def weigh(self, experience: KTOExperience, totals: Tensor) -> Tensor:
        """[B, 2] every pair counts the same; beside it the reference point, which is a fact of the whole minibatch."""
        base = row_mean(experience.logp_ref, totals[0].item())
        point = max(totals[1].item() / max(totals[0].item(), 1.0), 0.0)
        return torch.stack([base, torch.full_like(base, point)], 1)

    def loss(self, experience: KTOExperience, weight: Tensor) -> Loss:
        """Weighted sum of what replies lack in value."""
        e, cfg, point = experience, self.config, weight[0, 1]
        logp = pair_logps(self.parts.policy, e.sequences)
        ratio = logp - e.logp_ref
        loss = kto_loss(ratio, point, cfg.beta, cfg.desirable_weight, cfg.undesirable_weight)
        return Loss(
            weighted_sum(loss, weight[:, 0]),
            {**pair_metrics(logp, cfg.beta * ratio), "kl": mean_of(weight[:, 1])},
        )


def neighbours(rows: Sequence[Judged]) -> list[Judged]:
    """Rows change places two by two (of an odd number, the last three in turn), so it does not matter how many processes share them."""
    found = [rows[i ^ 1] for i in range(len(rows) - len(rows) % 2)]
    if len(rows) % 2:
        found[-2:] = [rows[-1], rows[-3], rows[-2]]
    return found


def _with_replies_of(group: Judged, other: Judged) -> Judged:
    """A prompt with the replies to another."""
    return Judged(id=group.id, prompt=group.prompt, replies=other.replies, ratings=other.ratings, where=group.where)
