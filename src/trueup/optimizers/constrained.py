"""Constrained RLHF: several rewards, each held at a threshold by a multiplier of its own (Moskovitz et al. 2023, arXiv:2310.04373).

``xi`` (equality: ``J_i = theta_i``, multipliers tanh), ``mu`` (``J_i >= theta_i``, sigmoid) and ``all`` (``mu`` with the rewards in the
objective too). The objective is minus beta times KL; where all is still, the policy is
``ref exp(sum w_i r_i / (beta w_0))`` with ``w_0 = N - sum nu``, ``w_i = nu_i`` (``all``: plus the weight of the part), at the thresholds.
A multiplier that stays near its bound says that the threshold is out of reach, or that ``beta`` is too large for it.

Deviations:
1. The mixed advantage is standardised, not each advantage before mixing (``whiten: each`` does the latter). At any tilted policy the
   advantage of the KL term is minus a multiple of the rewards', so that after each is standardised they cancel at equal weights whatever
   the threshold, and multipliers swing instead of settling.
2. Multipliers move once a rollout, by its mean rewards, and serve the next one, at a rate of 0.03 by default; the code of the paper moves
   them at every minibatch, at 0.1.
3. Heads of one critic instead of a critic for each objective; the losses of all heads are added.
4. The penalty for replies that did not end belongs to the KL objective.
5. Thresholds are given, not searched for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from trueup.core.errors import UserError, did_you_mean
from trueup.core.rng import Key
from trueup.data.tokens import Sequences
from trueup.learn.table import Loss, Table
from trueup.models.value import ValueModel, value_from_policy
from trueup.ops.lagrange import Squash, ascended, objective_weights, squashed
from trueup.ops.masking import keep, mean_of, weighted_sum
from trueup.ops.policy_gradient import clipped_surrogate, value_loss
from trueup.ops.returns import gae, moments, shaped_reward, standardise
from trueup.optimizers.actor_critic import ActorCriticConfig, mixed_counts, mixed_mean, mixed_parts
from trueup.optimizers.experience import PromptBatch, importance_weight, penalised_score, reference_gap, sample_and_score, sampling_gap
from trueup.optimizers.pretraining import PretrainingMix, sampled_rows
from trueup.optimizers.protocol import Parts
from trueup.rewards.config import NamedParts, RewardConfig
from trueup.rewards.dense_reward import placed_reward
from trueup.rewards.protocol import components_of


class ConstrainedConfig(ActorCriticConfig):
    """Means of rewards held at thresholds, close to the reference."""

    kind: Literal["constrained"] = "constrained"
    """This file."""
    thresholds: dict[str, float] = Field(min_length=1)
    """Part of the arm's reward (a ``sum`` or ``rules``) -> its mean, in the part's own units, before its weight."""
    variant: Literal["xi", "mu", "all"] = "xi"
    """``xi`` holds means at their thresholds, ``mu`` at or above them, ``all`` also maximises the weighted sum."""
    multiplier_lr: float = Field(default=0.03, gt=0)
    """Step size of the multipliers, before squashing."""
    multiplier_momentum: float = Field(default=0.1, ge=0, lt=1)
    """Share of their running gradient that is kept."""
    multiplier_init: float = 0.0
    """Where they begin, before squashing: 0 is 0 for ``xi``, 1/2 for the others."""
    whiten: Literal["total", "each"] = "total"
    """What is standardised: the mixed advantage, or each advantage before mixing, as in the paper (see the header)."""

    def check_reward(self, reward: RewardConfig) -> None:
        """See `ChecksReward`; a reward of an outside module is looked at when it is built."""
        if isinstance(reward, NamedParts) or "." not in reward.kind:
            self.seen(reward.names() if isinstance(reward, NamedParts) else ())

    def build(self, parts: Parts) -> Constrained:
        """The learner."""
        names = self.seen(tuple(components_of(parts.reward)))
        return Constrained(self, parts, names, value_from_policy(parts.policy, len(names) + 1))

    def seen(self, found: Sequence[str]) -> tuple[str, ...]:
        """The parts of the reward that the optimizer looks at: those with a threshold, then the others.

        Args:
            found: parts that the reward has.

        Raises:
            UserError: the reward has no parts, not those, or one that nothing would be done with.
        """
        where = "optimizer.thresholds"
        if not found:
            raise UserError(
                "constraints are on the parts of the arm's reward, and this one has none. Use reward: {kind: sum, parts: [...]}, with one "
                "part if there is one reward.",
                where=where,
            )
        for name in self.thresholds:
            if name not in found:
                raise UserError(f"the reward has no part '{name}'.{did_you_mean(name, found)} It has: {', '.join(found)}.", where=where)
        idle = [n for n in found if n not in self.thresholds]
        if idle and self.variant != "all":
            raise UserError(
                f"part '{idle[0]}' of the reward has no threshold, so '{self.variant}' would ignore it. Give it one, take it out, or use "
                "variant: all.",
                where=where,
            )
        return (*(n for n in found if n in self.thresholds), *idle)


@dataclass(frozen=True, kw_only=True)
class ConstrainedExperience(Table):
    """Scored replies; S objectives, KL first."""

    sequences: Sequences
    logp_old: Tensor
    """[B, T] nats."""
    value_old: Tensor
    """[B, T, S]"""
    advantage: Tensor
    """[B, T] mixed, standardised."""
    target: Tensor
    """[B, T, S] value targets."""
    importance: Tensor
    """[B]"""
    score: Tensor
    """[B] weighted sum."""
    part: Tensor
    """[B, S - 1] score of each part."""
    finished: Tensor
    """[B]"""
    kl: Tensor
    """[B] log pi - log pi_ref of the reply (k1), nats."""
    sampling_gap: Tensor
    """[B] nats."""
    demonstration: Sequences
    """One a reply; without columns where none are mixed in."""


class Constrained:
    """Policy, a critic with a head an objective, and a multiplier a threshold."""

    def __init__(self, config: ConstrainedConfig, parts: Parts, names: tuple[str, ...], critic: ValueModel) -> None:
        self.config, self.parts, self.names, self.critic = config, parts, names, critic
        self.mix = PretrainingMix(parts.policy, parts.demonstrations, config.ptx_coef)
        self.held = names[: len(config.thresholds)]
        self.squash: Squash = "tanh" if config.variant == "xi" else "sigmoid"
        self.raw = torch.full((len(self.held),), config.multiplier_init, dtype=torch.float64)
        self.velocity = torch.zeros_like(self.raw)

    def modules(self) -> dict[str, nn.Module]:
        """The policy and the critic."""
        return {"policy": self.parts.policy.model, "critic": self.critic}

    def state_dict(self) -> dict[str, Any]:
        """Multipliers before squashing, and their running gradients, by name."""
        return {name: {n: float(x) for n, x in zip(self.held, values, strict=True)} for name, values in self._moving().items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the multipliers."""
        self.raw, self.velocity = (torch.tensor([state[name][n] for n in self.held], dtype=torch.float64) for name in self._moving())

    def _moving(self) -> dict[str, Tensor]:
        return {"raw": self.raw, "velocity": self.velocity}

    def multipliers(self) -> dict[str, float]:
        """nu by name."""
        return dict(zip(self.held, squashed(self.raw, self.squash).tolist(), strict=True))

    def weights(self) -> Tensor:
        """[S] float64, what each objective counts at present."""
        found = components_of(self.parts.reward)
        own = torch.tensor([found[n].weight if self.config.variant == "all" else 0.0 for n in self.names], dtype=torch.float64)
        weights = objective_weights(squashed(self.raw, self.squash), own[: len(self.held)])
        return torch.cat([weights, own[len(self.held) :]])

    def collect(self, batch: PromptBatch, key: Key) -> ConstrainedExperience:
        """Sample, score each part, mix advantages; then move the multipliers for the next step."""
        cfg, found = self.config, components_of(self.parts.reward)
        # the first part is scored while sampling, so that no part is scored twice
        samples = sample_and_score(replace(self.parts, reward=found[self.names[0]].reward), cfg, batch, key)
        mask, gap, seq = samples.mask, reference_gap(samples), samples.sequences
        others = [placed_reward(found[n].reward, samples.prompt, samples.reply, seq) for n in self.names[1:]]
        penalty = penalised_score(samples, cfg) - samples.score
        rewards = [shaped_reward(penalty, gap, mask, cfg.beta), samples.token_score, *others]
        values = [keep(v, mask) for v in self.critic.values(seq).unbind(-1)]
        advantages = [gae(r, v, mask, cfg.gamma, cfg.lam) for r, v in zip(rewards, values, strict=True)]
        part = torch.stack([r.sum(1) for r in rewards[1:]], 1)
        mixed = self._mixed(advantages, mask)
        self._ascend(part[:, : len(self.held)])
        return ConstrainedExperience(
            sequences=seq,
            logp_old=samples.logp,
            value_old=torch.stack(values, -1),
            advantage=mixed,
            target=torch.stack([a + v for a, v in zip(advantages, values, strict=True)], -1),
            importance=importance_weight(samples, cfg),
            score=part @ torch.tensor([found[n].weight for n in self.names], device=part.device),
            part=part,
            finished=samples.finished,
            kl=gap.sum(1),
            sampling_gap=sampling_gap(samples),
            demonstration=self.mix.draw(key, sampled_rows(batch, cfg)),
        )

    def _mixed(self, advantages: list[Tensor], mask: Tensor) -> Tensor:
        def whitened(x: Tensor) -> Tensor:
            return standardise(x, mask, self.parts.sum_over_processes(moments(x, mask)))

        if self.config.whiten == "each":
            advantages = [whitened(a) for a in advantages]
        mixed = torch.stack([w * a for w, a in zip(self.weights().tolist(), advantages, strict=True)]).sum(0)
        return mixed if self.config.whiten == "each" else whitened(mixed)

    def _ascend(self, part: Tensor) -> None:
        """[B, N] scores of the constrained parts move their multipliers."""
        rows = torch.full((1,), float(len(part)), dtype=torch.float64, device=part.device)
        sums = self.parts.sum_over_processes(torch.cat([part.double().sum(0), rows])).cpu()
        wanted = torch.tensor([self.config.thresholds[n] for n in self.held], dtype=torch.float64)
        self.raw, self.velocity = ascended(
            self.raw, self.velocity, sums[:-1] / sums[-1] - wanted, self.squash, self.config.multiplier_lr, self.config.multiplier_momentum
        )

    def totals(self, experience: ConstrainedExperience) -> Tensor:
        """[3] replies, their tokens, tokens of demonstrations."""
        return mixed_counts(experience.sequences, experience.demonstration)

    def weigh(self, experience: ConstrainedExperience, totals: Tensor) -> Tensor:
        """[B, T + D] every token counts the same, times its reply's importance weight; then the tokens of demonstrations."""
        return mixed_mean(experience.sequences, experience.demonstration, totals, experience.importance)

    def loss(self, experience: ConstrainedExperience, weight: Tensor) -> Loss:
        """Weighted sum of the policy's loss, those of all value heads, and of the demonstrations' cross-entropy."""
        e, cfg, mask = experience, self.config, experience.sequences.mask
        logp = self.parts.policy.logprobs(e.sequences, cfg.temperature)
        surrogate = clipped_surrogate(logp, e.logp_old, e.advantage, mask, cfg.cliprange)
        heads = zip(self.critic.values(e.sequences).unbind(-1), e.value_old.unbind(-1), e.target.unbind(-1), strict=True)
        critic = torch.stack([value_loss(v, old, target, mask, cfg.cliprange_value) for v, old, target in heads]).sum(0)
        shown = self.mix.loss(e.demonstration)
        tokens, demonstrated = mixed_parts(weight, e.sequences)
        return Loss(
            weighted_sum(surrogate.loss + cfg.vf_coef * critic, tokens, mask) + weighted_sum(shown, demonstrated),
            {
                "reward": mean_of(e.score),
                **{f"reward/{n}": mean_of(x) for n, x in zip(self.names, e.part.unbind(1), strict=True)},
                **{f"multiplier/{n}": mean_of(torch.full_like(e.score, x)) for n, x in self.multipliers().items()},
                "objective/kl": mean_of(e.kl),
                "policy/clip_ratio": mean_of(surrogate.clipped, mask),
                "policy/entropy_sampled": mean_of(-logp, mask),
                "loss/policy": mean_of(surrogate.loss, mask),
                "loss/value": mean_of(critic, mask),
                **({"loss/ptx": mean_of(shown, e.demonstration.mask)} if cfg.ptx_coef else {}),
                "completions/mean_length": mean_of(mask.sum(1)),
                "completions/clipped_ratio": mean_of(~e.finished),
                "sampling_gap_nats": mean_of(e.sampling_gap),
            },
        )
