"""Measuring a checkpoint: sample test prompts, score them with every reward model, the truth and the evaluations; write records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from trueup.core.record import Label, SampleRecord
from trueup.core.rng import Key
from trueup.data.rows import Prompt, Reply
from trueup.models.policy import Policy, Reference
from trueup.pipeline.context import Context
from trueup.pipeline.measure import Measure, Proxies
from trueup.pipeline.reward import FIRST
from trueup.pipeline.sampling import Written, decoding_of, write
from trueup.pipeline.variants import sampled_rows, variant_records
from trueup.rewards.learned import LearnedReward


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
    measure = Measure(
        context=context, policy=policy, reference=reference, rewards=rewards, arm=arm, step=step, first=first, current=current,
        proxies=proxies,
    )  # fmt: skip
    key, prompts = context.key / "probe" / step, probe_prompts(context)
    written = write(policy, prompts, decoding_of(context), key, samples=context.config.probe.samples_per_prompt)
    out: list[SampleRecord] = []
    for chunk in written:
        out += measure.records(sampled_rows(chunk, f"{arm}:{step}", len(out), decoding_of(context)))
    if context.config.probe.labels_per_prompt:
        out = _labelled(context, out, written, key)
    return out + variant_records(measure, prompts, written, out, key / "variants")


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
