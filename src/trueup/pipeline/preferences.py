"""The offline preference set of a run: the world's own, or sampled from the SFT policy and labelled by the world."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace

from torch import Tensor

from trueup.core.errors import UserError
from trueup.core.record import OFFLINE_ARM, Label, SampleRecord
from trueup.core.rng import Key
from trueup.data.rows import Conversation, Preference, Prompt, Reply, Split
from trueup.models.policy import Policy
from trueup.pipeline.context import Context
from trueup.pipeline.sampling import decoding_of, replies_of, write
from trueup.rewards.learned import LearnedReward
from trueup.sandbox.world import World
from trueup.store.atomic import write_text
from trueup.store.records import read_records

STAGE = "preferences"
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


def preference_pairs(context: Context, policy: Policy, split: Split) -> list[Preference]:
    """Training or held-out pairs.

    Raises:
        UserError: the world has neither pairs nor annotators.
    """
    pairs = list(context.world.preferences(split))
    if pairs:
        return pairs
    path = context.run.root / "data" / f"preferences-{split}.jsonl"
    if not path.exists():
        found = _sample_pairs(context, policy, split)
        if context.accelerator.is_main_process:
            write_text(path, "".join(json.dumps(asdict(p), ensure_ascii=False) + "\n" for p in found))
        context.accelerator.wait_for_everyone()
    return [_from_json(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def _sample_pairs(context: Context, policy: Policy, split: Split) -> list[Preference]:
    config, key = context.config.sampled_preferences, context.key / STAGE / split
    wanted = config.pairs if split == "train" else config.validation_pairs
    prompts = list(context.world.prompts(split))
    if not prompts:
        raise UserError(f"the world has no {split} prompts to sample preference pairs for.", where="world")
    order = (key / "prompts").permutation(len(prompts))
    out: list[Preference] = []
    for turn in range(20):
        missing = wanted - len(out)
        if missing <= 0:
            break
        picked = [prompts[int(order[(turn * wanted + i) % len(prompts)])] for i in range(missing)]
        decoding = replace(decoding_of(context), temperature=config.temperature)
        rows, replies = replies_of(write(policy, picked, decoding, key / "sample" / turn, samples=2))
        out += _labelled(context.world, rows, replies, key / "label" / turn, f"{split}-{turn}")
    if len(out) < wanted:
        raise UserError(
            f"only {len(out)} of {wanted} pairs could be labelled: the policy's replies hardly differ.", where="sampled_preferences"
        )
    return out[:wanted]


def _labelled(world: World, prompts: Sequence[Prompt], replies: Sequence[Reply], key: Key, name: str) -> list[Preference]:
    """Pairs of neighbours with different texts, as the world's annotators prefer them; ties are left out."""
    out = []
    for i in range(0, len(prompts), 2):
        first, second = replies[i], replies[i + 1]
        if first.text == second.text or not first.text.strip() or not second.text.strip():
            continue
        label = world.label(prompts[i], first, second, key / i)
        if label is None:
            raise UserError("the world has no preference pairs and no annotators to make them.", where="world")
        annotator, preference = label
        if preference == 0.5:
            continue
        chosen, rejected = (first, second) if preference > 0.5 else (second, first)
        out.append(
            Preference(
                id=f"{name}-{i}",
                prompt=prompts[i],
                chosen=chosen,
                rejected=rejected,
                chosen_source="sft",
                rejected_source="sft",
                annotator=annotator,
            )
        )
    return out


def _from_json(row: dict[str, object]) -> Preference:
    values = dict(row)
    prompt = dict(values.pop("prompt"))  # type: ignore[call-overload]
    if not isinstance(prompt["text"], str):
        prompt["text"] = tuple(prompt["text"])
    replies = {name: Reply(**values.pop(name)) for name in ("chosen", "rejected")}  # type: ignore[arg-type]
    return Preference(prompt=Prompt(**prompt), **replies, **values)  # type: ignore[arg-type]


def offline_records(context: Context, pairs: Sequence[Preference], split: Split, reward: LearnedReward) -> list[SampleRecord]:
    """Both replies of every held-out pair, with the first reward model's score, gold and the annotator's label."""
    prompts = [p.prompt for p in pairs for _ in range(2)]
    replies = [r for p in pairs for r in (p.chosen, p.rejected)]
    raw = reward.raw([p.text for p in prompts], replies).tolist()
    gold = context.world.gold(prompts, replies)
    # these rows belong to all arms, so they have a first proxy only where all arms begin with the same one
    alike = all(arm.reward.kind in ("learned", "gold") for arm in context.config.arms)
    out = []
    for i, (prompt, reply) in enumerate(zip(prompts, replies, strict=True)):
        pair, won = pairs[i // 2], i % 2 == 0
        names = [f"offline:{pair.id}:{side}" for side in ("chosen", "rejected")]
        out.append(
            SampleRecord(
                run=context.config.name,
                arm=OFFLINE_ARM,
                seed=context.config.seed,
                step=None,
                split=split,
                prompt_id=prompt.id,
                sample_id=names[i % 2],
                policy_id=(pair.chosen_source if won else pair.rejected_source) or "unknown",
                prompt=shown(prompt),
                response=reply.text,
                finished=reply.finished,
                scores={"rm-0": raw[i]},
                proxy_fixed=reward.scale.gain * raw[i] + reward.scale.shift if alike else None,
                gold=None if gold is None else gold[i].score,
                gold_components={} if gold is None else dict(gold[i].components),
                labels=[Label(annotator=pair.annotator, other_sample_id=names[1 - i % 2], preference=float(won))],
            )
        )
    return out


Scorer = Callable[[Sequence[Conversation], Sequence[Reply]], Tensor]


def score_offline(context: Context, name: str, score: Scorer) -> None:
    """Add another reward's scores to the records of the held-out pairs: what a refit forgets shows there."""
    path = context.run.records_path("offline")
    records = read_records(path) if path.exists() else []
    if not records or all(name in r.scores for r in records):
        return
    prompts = {p.id: p for split in SPLITS for p in context.world.prompts(split)}
    texts = [prompts[r.prompt_id].text if r.prompt_id in prompts else r.prompt for r in records]
    found = score(texts, [Reply(text=r.response, finished=bool(r.finished)) for r in records]).tolist()
    context.run.write_records("offline", [replace(r, scores={**r.scores, name: s}) for r, s in zip(records, found, strict=True)])


def shown(prompt: Prompt) -> str:
    """A prompt as one text for people to read."""
    return prompt.text if isinstance(prompt.text, str) else "\n".join(f"{m['role']}: {m['content']}" for m in prompt.text)
