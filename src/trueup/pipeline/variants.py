"""The rows of a probe that are no plain samples; what there is, `trueup.pipeline.variant_config` says.

Every draw has a key of its own, so the plain samples, and training, are the same with and without. A row that was made from a plain
sample is called after it: ``static:20:5~cut_50`` is the first half of ``static:20:5``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from trueup.core.errors import UserError
from trueup.core.record import Decoding, Label, SampleRecord
from trueup.core.rng import Key
from trueup.data.rows import Conversation, Message, Prompt, Reply
from trueup.data.tokens import Sequences, decode_replies, encode_prompts, encode_replies, pack
from trueup.evaluation.paraphrase import paraphrase
from trueup.pipeline.config import ProbeConfig
from trueup.pipeline.context import Context
from trueup.pipeline.measure import Measure, Rows
from trueup.pipeline.preferences import preference_pairs
from trueup.pipeline.sampling import Written, decoding_of, write
from trueup.pipeline.variant_config import (
    CutVariant,
    DemonstrationVariant,
    GreedyVariant,
    PairVariant,
    ParaphraseVariant,
    PromptVariant,
    RewordedVariant,
    TemperatureVariant,
)


def sampled_rows(chunk: Written, name: str, before: int, decoding: Decoding) -> Rows:
    """Sampled replies to be recorded as ``name:0``, ``name:1``, ..., from number ``before`` on."""
    ids = [f"{name}:{before + i}" for i in range(len(chunk.prompts))]
    return Rows(
        prompts=chunk.prompts, replies=chunk.replies, ids=ids, decoding=decoding, sequences=chunk.sequences,
        logp_sampling=chunk.sampled.logp_sampling,
    )  # fmt: skip


def check_probe(context: Context) -> None:
    """Whether the world can give what the probe's variants ask for; asked before anything is trained.

    Raises:
        UserError: it has no demonstrations or pairs, or a text put around prompts has words that its closed language lacks.
    """
    known = context.world.vocabulary()
    for i, variant in enumerate(context.config.probe.variants):
        where = f"probe.variants.{i}"
        if isinstance(variant, DemonstrationVariant) and not context.demonstrations:
            raise UserError("the world has no demonstrations to score. Remove this variant.", where=where)
        if isinstance(variant, PairVariant) and not (context.config.needs_pairs() or context.world.preferences("validation")):
            raise UserError("the run has no held-out preference pairs to score. Remove this variant.", where=where)
        if known is not None and context.config.policy_model.path is None:
            texts = [variant.before, variant.after] if isinstance(variant, PromptVariant | RewordedVariant) else []
            texts += list(variant.replace.values()) if isinstance(variant, ParaphraseVariant) else []
            strange = sorted({w for t in texts for w in t.split()} - set(known))
            if strange:
                said = f"'{strange[0]}' is no word of this world's closed language, so its models would read '<unk>'"
                raise UserError(f"{said}. Use its own words: {', '.join(sorted(w for w in known if w.isalpha())[:8])}, ...", where=where)


def variant_records(
    measure: Measure, prompts: Sequence[Prompt], written: Sequence[Written], plain: Sequence[SampleRecord], key: Key
) -> list[SampleRecord]:
    """Records of every variant that is due at this checkpoint.

    Args:
        measure: the checkpoint.
        prompts: what plain samples answer.
        written: the plain samples.
        plain: their records, in the same order.
        key: random stream of this checkpoint's variants.
    """
    if not due(measure.context.config.probe, measure.step, _last(measure.context)):
        return []
    out: list[SampleRecord] = []
    for variant in measure.context.config.probe.variants:
        name = variant.named()
        if isinstance(variant, GreedyVariant | TemperatureVariant | PromptVariant):
            out += _answered(measure, variant, prompts, key / name)
        elif isinstance(variant, DemonstrationVariant | PairVariant):
            out += _read(measure, variant)
        else:
            before = 0
            for chunk in written:
                rows = _changed(measure, variant, chunk, plain[before : before + len(chunk.prompts)])
                out += measure.records(rows) if rows.prompts else []
                before += len(chunk.prompts)
    return out


def due(config: ProbeConfig, step: int, last: int) -> bool:
    """Whether variants are measured after so many updates."""
    return config.variants_at == "all" or step in (0, last)


def _last(context: Context) -> int:
    return context.config.policy.steps if context.config.policy is not None else 0


def _answered(
    measure: Measure, variant: GreedyVariant | TemperatureVariant | PromptVariant, prompts: Sequence[Prompt], key: Key
) -> list[SampleRecord]:
    """New replies: another decoding, or the run's own decoding of other prompts."""
    decoding, name, samples = decoding_of(measure.context), variant.named(), 1
    asked = list(prompts)
    if isinstance(variant, GreedyVariant):
        decoding = replace(decoding, temperature=0.0, top_p=1.0)
    else:
        samples = variant.samples
    if isinstance(variant, TemperatureVariant):
        decoding = replace(decoding, temperature=variant.temperature)
    if isinstance(variant, PromptVariant):
        asked = [replace(p, text=around(p.text, variant.before, variant.after)) for p in prompts]
    out: list[SampleRecord] = []
    place = {p.id: i for i, p in enumerate(prompts)}
    for chunk in write(measure.policy, asked, decoding, key, samples=samples):
        rows = sampled_rows(chunk, f"{measure.arm}:{measure.step}:{name}", len(out), decoding)
        own = [prompts[place[p.id]] for p in chunk.prompts]
        tricked = isinstance(variant, PromptVariant)
        texts = [p.text for p in chunk.prompts] if tricked else None
        out += measure.records(replace(rows, prompts=own, asked=texts, variant=name, scorable=not tricked))
    return out


def _changed(
    measure: Measure, variant: RewordedVariant | ParaphraseVariant | CutVariant, chunk: Written, plain: Sequence[SampleRecord]
) -> Rows:
    """Plain samples, changed, to be scored again; those that the change leaves alone are left out."""
    name = variant.named()
    if isinstance(variant, CutVariant):
        made, lengths = _cut(measure, chunk.sequences, variant.share)
    elif isinstance(variant, ParaphraseVariant):
        made, lengths = [_said_otherwise(r, variant.replace) for r in chunk.replies], None
    else:
        made, lengths = list(chunk.replies), None
    kept = [i for i, reply in enumerate(made) if reply is not None]
    texts: list[Conversation] | None = None
    if isinstance(variant, RewordedVariant):
        texts = [around(chunk.prompts[i].text, variant.before, variant.after) for i in kept]
    return Rows(
        prompts=[chunk.prompts[i] for i in kept],
        replies=[reply for reply in made if reply is not None],
        ids=[f"{plain[i].sample_id}~{name}" for i in kept],
        variant=name,
        texts=texts,
        asked=texts,
        decoding=plain[0].decoding if plain else None,
        n_tokens=None if lengths is None else [lengths[i] for i in kept],
    )


def _cut(measure: Measure, sequences: Sequences, share: float) -> tuple[list[Reply | None], list[int]]:
    """The first tokens of each reply and how many they are, its end not counted; None where nothing would be left out, or left."""
    ended = (sequences.replies == measure.policy.tokenizer.eos_token_id) & sequences.mask
    body = sequences.mask & ~ended
    lengths = [math.ceil(share * n) for n in body.sum(1).tolist()]
    part = body.cumsum(1) <= body.new_tensor(lengths, dtype=body.cumsum(1).dtype)[:, None]
    replies = decode_replies(measure.policy.tokenizer, sequences.replies, body & part)
    whole = body.sum(1).tolist()
    return [r if 0 < n < w else None for r, n, w in zip(replies, lengths, whole, strict=True)], lengths


def _said_otherwise(reply: Reply, replacements: Mapping[str, str]) -> Reply | None:
    """The reply with words exchanged; None where none of them occurs."""
    if not replacements:
        text = paraphrase(reply.text)
    else:
        found = re.compile("|".join(rf"(?<!\w){re.escape(w)}(?!\w)" for w in sorted(replacements, key=len, reverse=True)))
        text = found.sub(lambda m: replacements[m.group()], reply.text)
    return None if text is None or text == reply.text else replace(reply, text=text)


def _read(measure: Measure, variant: DemonstrationVariant | PairVariant) -> list[SampleRecord]:
    """Texts that others wrote, the same at every checkpoint, under this one; those that do not fit its context are left out."""
    context, name = measure.context, variant.named()
    stream, prefix = context.key / "probe" / "variants" / name, f"{measure.arm}:{measure.step}:{name}"
    if isinstance(variant, DemonstrationVariant):
        drawn = [context.demonstrations[i] for i in _drawn(len(context.demonstrations), variant.rows, stream)]
        drawn = [d for d in drawn if _fits(measure, d.prompt, d.reply)]
        return measure.records(
            Rows(
                prompts=[d.prompt for d in drawn],
                replies=[d.reply for d in drawn],
                ids=[f"{prefix}:{i}" for i in range(len(drawn))],
                variant=name,
                split="train",
                writers=[d.source or "unknown" for d in drawn],
                sequences=_packed(measure, [(d.prompt, d.reply) for d in drawn]),
                scorable=False,
            )
        )
    held_out = preference_pairs(context, measure.policy, "validation")
    pairs = [held_out[i] for i in _drawn(len(held_out), variant.pairs, stream)]
    pairs = [p for p in pairs if _fits(measure, p.prompt, p.chosen) and _fits(measure, p.prompt, p.rejected)]
    both = [(p.prompt, r) for p in pairs for r in (p.chosen, p.rejected)]
    records = measure.records(
        Rows(
            prompts=[p for p, _ in both],
            replies=[r for _, r in both],
            ids=[f"{prefix}:{p.id}:{side}" for p in pairs for side in ("chosen", "rejected")],
            variant=name,
            split="validation",
            writers=[w or "unknown" for p in pairs for w in (p.chosen_source, p.rejected_source)],
            sequences=_packed(measure, both),
            scorable=False,
        )
    )
    for won, lost, pair in zip(records[::2], records[1::2], pairs, strict=True):
        won.labels.append(Label(annotator=pair.annotator, other_sample_id=lost.sample_id, preference=1.0))
        lost.labels.append(Label(annotator=pair.annotator, other_sample_id=won.sample_id, preference=0.0))
    return records


def _fits(measure: Measure, prompt: Prompt, reply: Reply) -> bool:
    tokenizer, most = measure.policy.tokenizer, measure.policy.max_tokens
    return most is None or len(encode_prompts(tokenizer, [prompt.text])[0]) + len(encode_replies(tokenizer, [reply])[0]) <= most


def _packed(measure: Measure, rows: Sequence[tuple[Prompt, Reply]]) -> Sequences | None:
    """The rows as the policy's tokens."""
    tokenizer = measure.policy.tokenizer
    asked, said = encode_prompts(tokenizer, [p.text for p, _ in rows]), encode_replies(tokenizer, [r for _, r in rows])
    return pack(asked, said, tokenizer.pad_token_id) if rows else None


def _drawn(rows: int, wanted: int, key: Key) -> list[int]:
    """Positions of a random part, in order."""
    return sorted(int(i) for i in key.permutation(rows)[:wanted])


def around(text: Conversation, before: str, after: str) -> Conversation:
    """A prompt with words put before and after it; of messages, around the last one."""

    def joined(words: str) -> str:
        return " ".join(part for part in (before.strip(), words, after.strip()) if part)

    if isinstance(text, str):
        return joined(text)
    last: Message = {"role": text[-1]["role"], "content": joined(text[-1]["content"])}
    return (*text[:-1], last)
