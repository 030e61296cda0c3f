"""Replies of a checkpoint as records: scores of every reward model, truth, evaluations, likelihoods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from trueup.core.record import Decoding, SampleRecord
from trueup.data.rows import Conversation, Prompt, Reply
from trueup.data.tokens import Sequences
from trueup.models.policy import Policy, Reference
from trueup.ops.logprobs import chosen_logprobs, exact_kl
from trueup.ops.masking import sequence_sum
from trueup.pipeline.context import Context
from trueup.pipeline.preferences import shown
from trueup.pipeline.sampling import decoding_of
from trueup.rewards.config import Uncertain
from trueup.rewards.learned import LearnedReward
from trueup.rewards.protocol import Reward

ROWS_AT_ONCE = 128
"""Rows whose logits are held together."""


@dataclass(frozen=True, kw_only=True)
class Proxies:
    """What an arm optimises, where that is not one reward model."""

    name: str
    """Id of the first among the scores."""
    fixed: Reward
    """As it was when the arm began."""
    current: Reward
    """In force now."""
    uncertain: Uncertain | None
    """Its part that says how unsure it is."""


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Replies to be recorded, one a prompt in the list."""

    prompts: Sequence[Prompt]
    """What the replies are scored and judged as answers to."""
    replies: Sequence[Reply]
    ids: Sequence[str]
    """sample_ids."""
    variant: str | None = None
    texts: Sequence[Conversation] | None = None
    """What rewards read instead of the prompts' own text."""
    asked: Sequence[Conversation] | None = None
    """What stands in the record instead of the prompts' own text."""
    split: str = "test"
    writers: Sequence[str] | None = None
    """policy_id of each row; the checkpoint if None."""
    decoding: Decoding | None = None
    sequences: Sequences | None = None
    """The rows as the policy's tokens, for likelihoods; those are absent if None."""
    logp_sampling: Tensor | None = None
    """[B, T] the sampler's own, nats."""
    n_tokens: Sequence[int] | None = None
    """Where there are no sequences."""
    scorable: bool = True
    """The sequences hold what rewards read, so that one with the policy's tokenizer may take them."""


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A checkpoint and everything that judges it.

    Args:
        context: the run.
        policy: the checkpoint.
        reference: what KL is measured against.
        rewards: reward models by id.
        arm: whose checkpoint.
        step: updates done.
        first: id of the reward model that the arm began with.
        current: id of the reward model in force.
        proxies: what the arm optimises, where that is not one of these.
    """

    context: Context
    policy: Policy
    reference: Reference
    rewards: Mapping[str, LearnedReward]
    arm: str
    step: int
    first: str | None
    current: str | None
    proxies: Proxies | None

    @torch.no_grad()
    def records(self, rows: Rows) -> list[SampleRecord]:
        """One record a row. Exact KL only of plain samples: along replies of another decoding it estimates nothing."""
        scored = _scored(rows, self.rewards, self.first, self.current, self.proxies)
        logp, logp_ref, kl = self._likelihoods(rows.sequences)
        sampling = None if rows.logp_sampling is None or rows.sequences is None else sequence_sum(rows.logp_sampling, rows.sequences.mask)
        lengths = rows.n_tokens if rows.sequences is None else rows.sequences.mask.sum(1).tolist()
        gold = self.context.world.gold(rows.prompts, rows.replies)
        battery = self.context.world.evaluations(rows.prompts, rows.replies)
        return [
            SampleRecord(
                run=self.context.config.name,
                arm=self.arm,
                seed=self.context.config.seed,
                step=self.step,
                split=rows.split,
                prompt_id=prompt.id,
                sample_id=rows.ids[i],
                policy_id=rows.writers[i] if rows.writers else f"{self.arm}/policy-{self.step:06d}",
                prompt=shown(replace(prompt, text=rows.asked[i]) if rows.asked else prompt),
                response=reply.text,
                variant=rows.variant,
                n_tokens=None if lengths is None else lengths[i],
                finished=reply.finished,
                decoding=rows.decoding,
                logp_policy_nats=_at(logp, i),
                logp_ref_nats=_at(logp_ref, i),
                logp_sampling_nats=_at(sampling, i),
                kl_policy_ref_exact_nats=_at(kl, i) if rows.variant is None else None,
                scores={name: values[i] for name, values in scored.raw.items()},
                proxy_fixed=None if scored.fixed is None else scored.fixed[i],
                proxy_current=None if scored.current is None else scored.current[i],
                disagreement=None if scored.spread is None else scored.spread[i],
                gold=None if gold is None else gold[i].score,
                gold_components={} if gold is None else dict(gold[i].components),
                evaluations={name: v for name, values in battery.items() if (v := values[i]) is not None},
            )
            for i, (prompt, reply) in enumerate(zip(rows.prompts, rows.replies, strict=True))
        ]

    def _likelihoods(self, sequences: Sequences | None) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """[B] log pi, log pi_ref and the exact KL along the reply at the run's temperature, in training precision."""
        if sequences is None:
            return None, None, None
        temperature, parts = decoding_of(self.context).temperature, []
        for rows in torch.arange(len(sequences)).split(ROWS_AT_ONCE):
            seq = sequences.take(rows)
            ours, theirs = self.policy.logits(seq), self.reference.logits(seq)
            logp = chosen_logprobs(ours, seq.replies, seq.mask, temperature).sum(1)
            logp_ref = chosen_logprobs(theirs, seq.replies, seq.mask, temperature).sum(1)
            parts.append(torch.stack([logp, logp_ref, sequence_sum(exact_kl(ours, theirs, temperature), seq.mask)]))
        logp, logp_ref, kl = torch.cat(parts, 1)
        return logp, logp_ref, kl


@dataclass(frozen=True, kw_only=True)
class _Scores:
    """What rewards say of rows; absent columns are None."""

    raw: dict[str, list[float]]
    fixed: list[float] | None
    current: list[float] | None
    spread: list[float] | None = None


def _scored(rows: Rows, rewards: Mapping[str, LearnedReward], first: str | None, current: str | None, proxies: Proxies | None) -> _Scores:
    texts = [p.text for p in rows.prompts] if rows.texts is None else rows.texts
    seq = rows.sequences if rows.scorable else None
    raw = {name: r.raw(texts, rows.replies, seq).tolist() for name, r in rewards.items()}
    if proxies is None:
        return _Scores(raw=raw, fixed=_scaled(rewards, first, raw), current=_scaled(rewards, current, raw))
    fixed = proxies.fixed.score(texts, rows.replies, seq).tolist()
    same = proxies.current is proxies.fixed
    return _Scores(
        raw={**raw, proxies.name: fixed},
        fixed=fixed,
        current=fixed if same else proxies.current.score(texts, rows.replies, seq).tolist(),
        spread=None if proxies.uncertain is None else proxies.uncertain.spread(texts, rows.replies, seq).tolist(),
    )


def _scaled(rewards: Mapping[str, LearnedReward], name: str | None, raw: Mapping[str, Sequence[float]]) -> list[float] | None:
    if name is None or name not in rewards:
        return None
    scale = rewards[name].scale
    return [scale.gain * x + scale.shift for x in raw[name]]


def _at(values: Tensor | None, row: int) -> float | None:
    return None if values is None else values[row].item()
