"""Measuring a checkpoint: sample test prompts, score them with every reward model, the truth and the evaluations; write records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trueup.core.record import Label, SampleRecord
from trueup.core.rng import Key
from trueup.data.rows import Prompt, Reply
from trueup.models.policy import Policy, Reference
from trueup.ops.logprobs import chosen_logprobs, exact_kl
from trueup.ops.masking import sequence_sum
from trueup.pipeline.context import Context
from trueup.pipeline.preferences import shown
from trueup.pipeline.reward import FIRST
from trueup.pipeline.sampling import Written, decoding_of, write
from trueup.rewards.config import Uncertain
from trueup.rewards.learned import LearnedReward
from trueup.rewards.protocol import Reward


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


def probe_prompts(context: Context) -> list[Prompt]:
    """The test prompts every checkpoint of every arm is measured on."""
    prompts = list(context.world.prompts("test"))
    order = (context.key / "probe" / "prompts").permutation(len(prompts))
    return [prompts[int(i)] for i in order[: context.config.probe.prompts]]


@torch.no_grad()
def probe(
    context: Context,
    policy: Policy,
    reference: Reference,
    rewards: Mapping[str, LearnedReward],
    *,
    arm: str,
    step: int,
    first: str | None = FIRST,
    current: str | None = FIRST,
    proxies: Proxies | None = None,
) -> list[SampleRecord]:
    """Records of one checkpoint.

    Draws come from the step alone, not from the arm: arms are compared on common random numbers, and training never sees them.

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
    key = context.key / "probe" / step
    samples = context.config.probe.samples_per_prompt
    written = write(policy, probe_prompts(context), decoding_of(context), key, samples=samples)
    out: list[SampleRecord] = []
    for chunk in written:
        scored = _scored(chunk, rewards, first, current, proxies)
        out += _chunk_records(context, chunk, policy, reference, scored, arm=arm, step=step, before=len(out))
    return _labelled(context, out, written, key) if context.config.probe.labels_per_prompt else out


def _chunk_records(
    context: Context,
    chunk: Written,
    policy: Policy,
    reference: Reference,
    scored: _Scores,
    *,
    arm: str,
    step: int,
    before: int,
) -> list[SampleRecord]:
    decoding, seq = decoding_of(context), chunk.sequences
    logp, logp_ref, kl = _likelihoods(policy, reference, chunk, decoding.temperature)
    gold = context.world.gold(chunk.prompts, chunk.replies)
    battery = context.world.evaluations(chunk.prompts, chunk.replies)
    sampling = sequence_sum(chunk.sampled.logp_sampling, seq.mask).tolist()
    lengths = seq.mask.sum(1).tolist()
    return [
        SampleRecord(
            run=context.config.name,
            arm=arm,
            seed=context.config.seed,
            step=step,
            split="test",
            prompt_id=prompt.id,
            sample_id=f"{arm}:{step}:{before + i}",
            policy_id=f"{arm}/policy-{step:06d}",
            prompt=shown(prompt),
            response=reply.text,
            n_tokens=lengths[i],
            finished=reply.finished,
            decoding=decoding,
            logp_policy_nats=logp[i].item(),
            logp_ref_nats=logp_ref[i].item(),
            logp_sampling_nats=sampling[i],
            kl_policy_ref_exact_nats=kl[i].item(),
            scores={name: values[i] for name, values in scored.raw.items()},
            proxy_fixed=None if scored.fixed is None else scored.fixed[i],
            proxy_current=None if scored.current is None else scored.current[i],
            disagreement=None if scored.spread is None else scored.spread[i],
            gold=None if gold is None else gold[i].score,
            gold_components={} if gold is None else dict(gold[i].components),
            evaluations={name: v for name, values in battery.items() if (v := values[i]) is not None},
        )
        for i, (prompt, reply) in enumerate(zip(chunk.prompts, chunk.replies, strict=True))
    ]


@dataclass(frozen=True, kw_only=True)
class _Scores:
    """What rewards say of a chunk's rows; absent columns are None."""

    raw: dict[str, list[float]]
    fixed: list[float] | None
    current: list[float] | None
    spread: list[float] | None = None


def _scored(
    chunk: Written, rewards: Mapping[str, LearnedReward], first: str | None, current: str | None, proxies: Proxies | None
) -> _Scores:
    texts, seq = [p.text for p in chunk.prompts], chunk.sequences
    raw = {name: r.raw(texts, chunk.replies, seq).tolist() for name, r in rewards.items()}
    if proxies is None:
        return _Scores(raw=raw, fixed=_scaled(rewards, first, raw), current=_scaled(rewards, current, raw))
    fixed = proxies.fixed.score(texts, chunk.replies, seq).tolist()
    same = proxies.current is proxies.fixed
    return _Scores(
        raw={**raw, proxies.name: fixed},
        fixed=fixed,
        current=fixed if same else proxies.current.score(texts, chunk.replies, seq).tolist(),
        spread=None if proxies.uncertain is None else proxies.uncertain.spread(texts, chunk.replies, seq).tolist(),
    )


def _scaled(rewards: Mapping[str, LearnedReward], name: str | None, raw: Mapping[str, Sequence[float]]) -> list[float] | None:
    if name is None or name not in rewards:
        return None
    scale = rewards[name].scale
    return [scale.gain * x + scale.shift for x in raw[name]]


def _likelihoods(policy: Policy, reference: Reference, chunk: Written, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    """[B] log pi, log pi_ref and the exact KL along the reply, in training precision; rows in pieces to bound memory."""
    parts = []
    for rows in torch.arange(len(chunk.sequences)).split(128):
        seq = chunk.sequences.take(rows)
        ours, theirs = policy.logits(seq), reference.logits(seq)
        logp = chosen_logprobs(ours, seq.replies, seq.mask, temperature).sum(1)
        logp_ref = chosen_logprobs(theirs, seq.replies, seq.mask, temperature).sum(1)
        parts.append(torch.stack([logp, logp_ref, sequence_sum(exact_kl(ours, theirs, temperature), seq.mask)]))
    logp, logp_ref, kl = torch.cat(parts, 1)
    return logp, logp_ref, kl


def _labelled(context: Context, records: list[SampleRecord], written: Sequence[Written], key: Key) -> list[SampleRecord]:
    """The records with fresh comparisons of neighbouring replies to the same prompt by the world's annotators."""
    prompts = [p for w in written for p in w.prompts]
    replies: list[Reply] = [r for w in written for r in w.replies]
    samples, wanted = context.config.probe.samples_per_prompt, context.config.probe.labels_per_prompt
    for start in range(0, len(records), samples):
        for turn in range(min(wanted, samples // 2)):
            i, j = start + 2 * turn, start + 2 * turn + 1
            label = context.world.label(prompts[i], replies[i], replies[j], key / "label" / i)
            if label is not None:
                annotator, preference = label
                records[i].labels.append(Label(annotator=annotator, other_sample_id=records[j].sample_id, preference=preference))
                records[j].labels.append(Label(annotator=annotator, other_sample_id=records[i].sample_id, preference=1 - preference))
    return records
