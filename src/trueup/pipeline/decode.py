"""`trueup decode`: prompts answered by ways of decoding side by side, as sample records and as lines of text.

Prompts are answered in chunks. A chunk's records are written at once, under a name of its own, and are the mark that it is done: a resumed
run answers what is missing. Draws depend on the seed and the row, so the result is the same.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trueup.core.config import digest
from trueup.core.errors import UserError
from trueup.core.record import Decoding, SampleRecord
from trueup.core.rng import Key
from trueup.data.prompts import read_prompts
from trueup.data.rows import Prompt, Reply
from trueup.data.tokens import decode_replies, encode_prompts
from trueup.decoding.methods.sample import SampleConfig
from trueup.decoding.protocol import Asked, Decoded, DecodingParts
from trueup.ops.masking import sequence_sum
from trueup.pipeline.config import resolve_path
from trueup.pipeline.decode_config import DecodeConfig, DecodingArmConfig
from trueup.pipeline.decode_curve import best_of_n_curve
from trueup.pipeline.decode_models import DecodeModels, check_room, load_models, parts_of, prefix_model, room_of
from trueup.pipeline.events import Event, Listener, nobody
from trueup.pipeline.fit_prefix import fit_prefix
from trueup.pipeline.preferences import shown
from trueup.sandbox.world import World
from trueup.store.atomic import write_text
from trueup.store.records import read_records
from trueup.store.run import Run

STAGE = "decode"
REPLIES = "replies.jsonl"
CURVES = "best_of_n.json"


@dataclass(frozen=True, kw_only=True)
class DecodeResult:
    """What was written."""

    root: Path
    replies: Path
    """One JSON line a reply."""
    arms: dict[str, dict[str, float | None]]
    """Means of each arm; see `summary`."""
    wall_s: float


@dataclass(frozen=True, kw_only=True)
class _Job:
    """Everything the chunks share."""

    config: DecodeConfig
    run: Run
    models: DecodeModels
    parts: DecodingParts
    world: World | None
    prompts: list[Prompt]
    ids: list[list[int]]


def decode(config: DecodeConfig, out: Path, *, resume: bool = False, base: Path | None = None, on_event: Listener = nobody) -> DecodeResult:
    """Answer prompts, or go on with a run that was stopped.

    Args:
        config: everything the result depends on.
        out: the run's folder.
        resume: go on with what is in the folder; a new run refuses a folder that is not empty.
        base: folder that relative paths of the configuration are read from; the present one if None.
        on_event: told of every chunk.

    Raises:
        UserError: anything the user can fix; what was done before stays and can be resumed.
    """
    began, base = time.perf_counter(), base or Path.cwd()
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    world = None if config.world is None else config.world.build(config.seed, base)
    prompts = prompts_of(config, world, base)
    models = load_models(config, base)
    prefix = prefix_model(config, models, base, None) if config.fit_prefix is None else None
    with Run.create(out, config.model_dump(mode="json"), resume=resume) as run:
        ids = encode_prompts(models.policy.tokenizer, [p.text for p in prompts])
        check_room(config, room_of(models, prefix), prompts, ids)
        _manifest(run, config, prompts)
        if config.fit_prefix is not None:
            fitted = fit_prefix(run, config, config.fit_prefix, models, training_prompts(config, world, base) or prompts, on_event)
            prefix = prefix_model(config, models, base, fitted)
        parts = parts_of(config, models, prefix)
        job = _Job(config=config, run=run, models=models, parts=parts, world=world, prompts=prompts, ids=ids)
        for arm in config.arms:
            _answer(job, arm, on_event)
        rows = [row for arm in config.arms for start in _starts(job) for row in read_records(run.records_path(_name(arm, start)))]
        write_text(run.root / REPLIES, "".join(json.dumps(_line(row), ensure_ascii=False) + "\n" for row in rows))
        found = {arm.name: summary([r for r in rows if r.arm == arm.name]) for arm in config.arms}
        _curves(job, rows)
        run.mark_done(STAGE, {"arms": found})
        _manifest(run, config, prompts)
        on_event(Event(kind="done", stage=STAGE, text=str(out)))
    return DecodeResult(root=out, replies=out / REPLIES, arms=found, wall_s=time.perf_counter() - began)


def _curves(job: _Job, rows: Sequence[SampleRecord]) -> None:
    """Best-of-n of the replies of plain samplers, where several were drawn to each prompt and scored."""
    if job.models.guide is None or job.config.samples_per_prompt < 2:
        return
    plain = [arm.name for arm in job.config.arms if arm.decoding == SampleConfig()]
    key = Key(job.config.seed) / "best-of-n"
    found = {name: best_of_n_curve([r for r in rows if r.arm == name], key) for name in plain}
    if found:
        write_text(job.run.root / CURVES, json.dumps(found, indent=1) + "\n")


def prompts_of(config: DecodeConfig, world: World | None, base: Path) -> list[Prompt]:
    """What is to be answered.

    Raises:
        UserError: the file cannot be read, or there is nothing in it.
    """
    if world is not None:
        found = list(world.prompts(config.split))
    else:
        assert config.prompts is not None
        found = read_prompts(resolve_path(config.prompts, base), on_bad=config.on_bad)
    if not found:
        raise UserError("there is no prompt to answer.", where=config.prompts or f"world, split '{config.split}'")
    return found[: config.max_prompts]


def training_prompts(config: DecodeConfig, world: World | None, base: Path) -> list[Prompt]:
    """What a scorer of prefixes learns on; empty where neither a file nor a world says.

    Raises:
        UserError: the file cannot be read.
    """
    named = None if config.fit_prefix is None else config.fit_prefix.prompts
    if named is not None:
        return read_prompts(resolve_path(named, base), on_bad=config.on_bad)
    return [] if world is None else list(world.prompts("train"))


def _answer(job: _Job, arm: DecodingArmConfig, on_event: Listener) -> None:
    """All chunks of an arm that are not there yet."""
    starts = _starts(job)
    left = [s for s in starts if not job.run.records_path(_name(arm, s)).exists()]
    done = len(starts) - len(left)
    if left:
        job.run.rewind(STAGE, arm.name, starts.index(left[0]))
    on_event(Event(kind="stage", stage=STAGE, arm=arm.name, step=done, total=len(starts)))
    for number, start in enumerate(left, done + 1):
        step = starts.index(start)
        job.run.ledger(STAGE, arm.name, step)
        began = time.perf_counter()
        rows = _chunk(job, arm, start)
        seconds = round(time.perf_counter() - began, 4)
        metrics = {k: v for k, v in summary(rows).items() if v is not None}
        job.run.log({"stage": STAGE, "arm": arm.name, "step": step, "metrics": metrics, "seconds": seconds})
        job.run.write_records(_name(arm, start), rows)
        on_event(Event(kind="step", stage=STAGE, arm=arm.name, step=number, total=len(starts), metrics=metrics))


def _starts(job: _Job) -> list[int]:
    """The first prompt of each chunk."""
    return list(range(0, len(job.prompts), job.config.prompts_at_once))


def _name(arm: DecodingArmConfig, start: int) -> str:
    return f"{arm.name}-{start:06d}"


def _chunk(job: _Job, arm: DecodingArmConfig, start: int) -> list[SampleRecord]:
    config, here = job.config, slice(start, start + job.config.prompts_at_once)
    asked = Asked(
        prompts=tuple(p.text for p in job.prompts[here]),
        ids=tuple(tuple(ids) for ids in job.ids[here]),
        key=Key(config.seed) / STAGE,
        num_samples=config.samples_per_prompt,
        first_row=start * config.samples_per_prompt,
    )
    decoded = arm.decoding.decode(job.parts, asked)
    replies = decode_replies(job.models.policy.tokenizer, decoded.sequences.replies, decoded.sequences.mask)
    prompts = [p for p in job.prompts[here] for _ in range(config.samples_per_prompt)]
    return _records(job, arm, prompts, replies, decoded, asked.first_row)


def _records(
    job: _Job, arm: DecodingArmConfig, prompts: Sequence[Prompt], replies: Sequence[Reply], decoded: Decoded, first: int
) -> list[SampleRecord]:
    config, texts, seq = job.config, [p.text for p in prompts], decoded.sequences
    raw = {name: r.raw(texts, replies, seq).tolist() for name, r in job.models.rewards.items()}
    guide = job.models.guide
    proxy = None if guide is None else [guide.scale.gain * x + guide.scale.shift for x in next(iter(raw.values()))]
    gold = None if job.world is None else job.world.gold(prompts, replies)
    battery = {} if job.world is None else job.world.evaluations(prompts, replies)
    own, reference = job.models.reference is None, decoded.logp_base.tolist()
    if job.models.reference is not None:
        with torch.no_grad():
            logp = job.models.reference.logprobs(seq, config.temperature)
        reference = sequence_sum(logp, seq.mask).tolist()
    lengths = seq.mask.sum(1).tolist()
    return [
        SampleRecord(
            run=config.name,
            arm=arm.name,
            seed=config.seed,
            step=0,
            split=prompt.split if job.world is None else config.split,
            prompt_id=prompt.id,
            sample_id=f"{arm.name}:{first + i}",
            policy_id=f"{Path(config.policy).name}/{arm.name}",
            prompt=shown(prompt),
            response=reply.text,
            n_tokens=lengths[i],
            finished=reply.finished,
            decoding=Decoding(temperature=config.temperature, top_p=1.0, max_tokens=config.max_completion_length),
            logp_policy_nats=_known(decoded.logp[i].item()),
            logp_ref_nats=reference[i],
            kl_policy_ref_exact_nats=_known(decoded.kl[i].item()) if own else None,
            kl_bound_nats=_known(decoded.kl_bound[i].item()) if own else None,
            compute_tokens=int(decoded.policy_tokens[i] + decoded.reward_tokens[i]),
            scores={name: values[i] for name, values in raw.items()},
            proxy_fixed=None if proxy is None else proxy[i],
            proxy_current=None if proxy is None else proxy[i],
            gold=None if gold is None else gold[i].score,
            gold_components={} if gold is None else dict(gold[i].components),
            evaluations={name: v for name, values in battery.items() if (v := values[i]) is not None},
        )
        for i, (prompt, reply) in enumerate(zip(prompts, replies, strict=True))
    ]


def summary(rows: Sequence[SampleRecord]) -> dict[str, float | None]:
    """Means over replies: ``reward`` (scaled), ``gold``, ``kl_nats`` (exact), ``kl_bound_nats``, ``n_tokens``, ``finished_share``, and
    ``compute``, model tokens for every token written; None where nothing is known."""

    def mean(values: Sequence[float | None]) -> float | None:
        known = [v for v in values if v is not None]
        return float(np.mean(known)) if known else None

    written = sum(r.n_tokens or 0 for r in rows)
    return {
        "reward": mean([r.proxy_fixed for r in rows]),
        "gold": mean([r.gold for r in rows]),
        "kl_nats": mean([r.kl_policy_ref_exact_nats for r in rows]),
        "kl_bound_nats": mean([r.kl_bound_nats for r in rows]),
        "n_tokens": mean([r.n_tokens for r in rows]),
        "finished_share": mean([r.finished for r in rows]),
        "compute": sum(r.compute_tokens or 0 for r in rows) / written if written else None,
    }


def _line(row: SampleRecord) -> dict[str, Any]:
    """A record as a line of text."""
    kept = (
        "arm", "prompt_id", "sample_id", "prompt", "response", "finished", "n_tokens", "compute_tokens", "proxy_fixed", "gold",
        "kl_policy_ref_exact_nats", "kl_bound_nats", "logp_policy_nats", "logp_ref_nats",
    )  # fmt: skip
    return {name: getattr(row, name) for name in kept}


def _known(value: float) -> float | None:
    """The number; None where it is NaN or infinite."""
    return value if math.isfinite(value) else None


def _manifest(run: Run, config: DecodeConfig, prompts: Sequence[Prompt]) -> None:
    values = config.model_dump(mode="json")
    run.write_manifest(
        seed=config.seed,
        config_digest=config.digest(),
        data_digest=digest([[p.id, shown(p)] for p in prompts]),
        device="cpu",
        threads=torch.get_num_threads(),
        arms=[{"name": arm["name"], "decoding": arm["decoding"]} for arm in values["arms"]],
    )
