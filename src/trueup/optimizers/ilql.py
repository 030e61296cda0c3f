"""Implicit language Q-learning: values of tokens from given replies, and a policy tilted by them (Snell et al. 2022, arXiv:2206.11871).

The learned policy is pi_ref(token) exp(strength (Q - V)), with the lesser of the two slow copies of Q.

Deviations:
1. The tilted policy is not computed while decoding: the policy itself is trained towards it, by KL(tilted‖pi) at every state of the data,
   so it is sampled, probed and saved like any other. `ILQL.tilted` gives the tilted distribution itself.
2. What is tilted is the reference. The paper fine-tunes a model on the data for it; in a run that is the SFT policy.
3. Values have a trunk of their own with linear V and two-layer Q heads; slow copies are of the Q heads only, and follow once a step.
4. Rewards are the arm's, where they fall: on the last token unless the reward is dense. A reply that was cut short ends like others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from trueup.core.rng import Key
from trueup.data.rows import Judged
from trueup.data.tokens import Sequences
from trueup.learn.learner import Stateless
from trueup.learn.table import Examples, Loss, Mean, Table
from trueup.models.q_heads import QModel, QValues, q_from_policy
from trueup.ops.action_values import expectile_loss, step_target, tilted_logprobs
from trueup.ops.masking import mean_of, sequence_sum, weighted_sum
from trueup.ops.weights import counts, token_mean
from trueup.optimizers.offline import encode_pairs, prompts_twice
from trueup.optimizers.protocol import OfflineConfig, Parts
from trueup.rewards.dense_reward import placed_reward


class ILQLConfig(OfflineConfig):
    """Token values by expectile regression; the policy follows them."""

    kind: Literal["ilql"] = "ilql"
    """This file."""
    gamma: float = Field(default=0.99, gt=0, le=1)
    """Discount per token."""
    expectile: float = Field(default=0.7, gt=0, lt=1)
    """Which expectile of its tokens' values the value of a state is; 0.5 is their mean, towards 1 the best one in the data."""
    cql_coef: float = Field(default=0.1, ge=0)
    """Weight of the term that keeps the values of tokens that the data lack low."""
    strength: float = Field(default=1.0, ge=0)
    """Nats by which a token gains for each unit of its advantage."""
    target_share: float = Field(default=0.005, gt=0, le=1)
    """How far the slow copies move towards the heads at each step."""

    def build(self, parts: Parts) -> ILQL:
        """The learner."""
        return ILQL(self, parts, q_from_policy(parts.policy, Key(0) / "ilql"))


@dataclass(frozen=True, kw_only=True)
class ILQLExperience(Table):
    """Given replies, both of a pair in a row, with their rewards."""

    sequences: Sequences
    """Every column [B, 2, ...]."""
    reward: Tensor
    """[B, 2, T] where it falls."""


class ILQL(Stateless):
    """Learns values of tokens, and moves the policy towards the reference tilted by them."""

    def __init__(self, config: ILQLConfig, parts: Parts, values: QModel) -> None:
        self.config, self.parts, self.values = config, parts, values

    def modules(self) -> dict[str, nn.Module]:
        """The policy and the values."""
        return {"policy": self.parts.policy.model, "values": self.values}

    def collect(self, batch: Examples[Judged], key: Key) -> ILQLExperience:
        """Encode and score the data; the slow copies take a step."""
        self.values.follow(self.config.target_share)
        sequences = encode_pairs(self.parts.policy, batch)
        flat = sequences.unstacked()
        reward = placed_reward(self.parts.reward, *prompts_twice(batch), flat)
        return ILQLExperience(sequences=sequences, reward=reward.unflatten(0, (-1, 2)))

    def totals(self, experience: ILQLExperience) -> Tensor:
        """[2] replies and tokens."""
        return counts(experience.sequences.mask.flatten(0, 1))

    def weigh(self, experience: ILQLExperience, totals: Tensor) -> Tensor:
        """[B, 2, T] every token counts the same."""
        return token_mean(experience.sequences.mask.flatten(0, 1), totals[1].item()).view(experience.reward.shape)

    def loss(self, experience: ILQLExperience, weight: Tensor) -> Loss:
        """Weighted sum of the losses of Q, V and the policy."""
        e, cfg = experience, self.config
        flat, reward = e.sequences.unstacked(), e.reward.flatten(0, 1)
        mask = flat.mask
        found, chosen = self.values(flat), flat.replies[mask]
        value = torch.zeros_like(reward).masked_scatter(mask, found.v.detach())
        target = step_target(reward, value, mask, cfg.gamma)[mask]
        said = found.q.gather(2, chosen.expand(len(found.q), -1)[..., None]).squeeze(2)
        slow = found.slow.gather(1, chosen[:, None]).squeeze(1)
        q_loss = ((target - said) ** 2).sum(0)
        v_loss = expectile_loss(slow - found.v, cfg.expectile)
        low = torch.stack([F.cross_entropy(q, chosen, reduction="none") for q in found.q]).sum(0)
        policy = self._distance(flat, found)
        total = q_loss + v_loss + cfg.cql_coef * low + policy
        metrics: dict[str, Mean] = {
            "reward": mean_of(sequence_sum(reward, mask)),
            "loss/q": mean_of(q_loss),
            "loss/value": mean_of(v_loss),
            "loss/cql": mean_of(low),
            "loss/policy": mean_of(policy),
            "advantage": mean_of(slow - found.v),
            "value": mean_of(found.v),
        }
        return Loss(weighted_sum(total, weight.flatten(0, 1)[mask]), metrics)

    @torch.no_grad()
    def tilted(self, sequences: Sequences, found: QValues | None = None) -> Tensor:
        """[n, V] log-probabilities of the tilted reference at each reply token, in the order of ``sequences.mask``; nats.

        Args:
            sequences: rows.
            found: their values, where they are known.
        """
        slow = (found or self.values(sequences)).slow
        return tilted_logprobs(self.parts.reference.logits(sequences)[sequences.mask], slow, self.config.strength)

    def _distance(self, sequences: Sequences, found: QValues) -> Tensor:
        """[n] KL(tilted‖pi) at each reply token."""
        wanted = self.tilted(sequences, found)
        logp = self.parts.policy.logits(sequences)[sequences.mask].float().log_softmax(-1)
        return F.kl_div(logp, wanted, reduction="none", log_target=True).sum(-1)
