"""`trueup audit` of models: every checkpoint answers the same prompts with the same random numbers and is scored as in runs of ours.

Prompts are answered in chunks. A chunk's rows are written at once under ``data/samples``, and are the mark that it is done: a resumed
audit answers what is missing. When all is there, rewards are scaled on the reference's replies and records and report are written; with
``--resume``, labels that have come in since are read then.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from trueup.core.config import digest
from trueup.core.errors import UserError
from trueup.core.record import OFFLINE_ARM, Decoding, Label, SampleRecord
from trueup.core.rng import Key
from trueup.data.preferences import read_preferences
from trueup.data.prompts import read_prompts
from trueup.data.rows import Preference, Prompt
from trueup.data.tokens import encode_prompts
from trueup.models.policy import Policy, load_policy
from trueup.ops.logprobs import chosen_logprobs, exact_kl
from trueup.ops.masking import sequence_sum
from trueup.pipeline.audit_config import AuditConfig
from trueup.pipeline.audit_models import Gold, check_checkpoint, check_vocabulary, gold_of, load_checkpoint, load_rewards, steps_of
from trueup.pipeline.config import resolve_path
from trueup.pipeline.events import Event, Listener, nobody
from trueup.pipeline.preferences import shown
from trueup.pipeline.sampling import Written, write
from trueup.report.audited import AuditedRecords, write_audit
from trueup.rewards.learned import LearnedReward, measure_scale
from trueup.sandbox.text import surface
from trueup.store.foreign import Foreign
from trueup.store.records import read_records, to_table, write_parquet
from trueup.store.run import Run

STAGE, ARM = "audit", "policy"
LOGITS_AT_ONCE = 1 << 27
"""Logits held together when likelihoods are measured."""


@dataclass(frozen=True, kw_only=True)
class _Job:
    """Everything the chunks share."""

    config: AuditConfig
    run: Run
    reference: Policy
    reference_path: str
    rewards: dict[str, LearnedReward]
    gold: Gold | None
    prompts: list[Prompt]

    @property
    def decoding(self) -> Decoding:
        return Decoding(temperature=self.config.temperature, top_p=1.0, max_tokens=self.config.max_completion_length)

    @property
    def starts(self) -> range:
        """The first prompt of each chunk."""
        return range(0, len(self.prompts), self.config.prompts_at_once)

    def path(self, name: str) -> Path:
        """Where a chunk's rows lie."""
        return self.run.root / "data" / "samples" / f"{name}.parquet"


def audit_models(
    config: AuditConfig,
    out: Path,
    *,
    labels: str | Path | None = None,
    evaluations: str | Path | None = None,
    resume: bool = False,
    base: Path | None = None,
    on_event: Listener = nobody,
    key: Key,
) -> AuditedRecords:
    """Sample and score checkpoints, write their records, and report on them.

    Args:
        config: everything the records depend on.
        out: the run's folder.
        labels: comparisons of the replies; see `trueup.store.foreign_labels`.
        evaluations: of the checkpoints; see `trueup.store.foreign_evaluations`.
        resume: go on with what is in the folder; labels and evaluations may be new.
        base: folder that relative paths are read from; the present one if None.
        on_event: told of every chunk.
        key: random stream of the report.

    Raises:
        UserError: anything the user can fix; what was done before stays and can be resumed.
    """
    base = base or Path.cwd()
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    for path in (labels, evaluations):
        if path is not None and not Path(path).is_file():
            raise UserError("no such file.", where=str(path))
    checkpoints = dict(zip(steps_of(config.policies), [resolve_path(p, base) for p in config.policies], strict=True))
    for path in checkpoints.values():
        check_checkpoint(path)
    pairs = _pairs(config, base)
    prompts = _prompts(config, pairs, base)
    origin = resolve_path(config.reference, base)
    reference = load_policy(origin, pad_token=config.pad_token)
    _check_room(config, reference, prompts)
    rewards = load_rewards([resolve_path(p, base) for p in config.reward_models], reference, config.rendering)
    kind = config.gold
    gold = gold_of(kind if kind is None or kind == "vader" or kind.startswith("pattern:") else resolve_path(kind, base), config.rendering)
    with Run.create(out, config.model_dump(mode="json"), resume=resume) as run:
        job = _Job(config=config, run=run, reference=reference, reference_path=origin, rewards=rewards, gold=gold, prompts=prompts)
        if 0 not in checkpoints:
            _answer(job, 0, None, on_event)
        for step in sorted(checkpoints):
            _answer(job, step, checkpoints[step], on_event)
        if pairs and not job.path(OFFLINE_ARM).exists():
            write_parquet(job.path(OFFLINE_ARM), _offline(job, pairs))
        steps = sorted({0, *checkpoints})
        rows = [r for step in steps for start in job.starts for r in read_records(job.path(_name(step, start)))]
        rows += read_records(job.path(OFFLINE_ARM)) if pairs else []
        found = Foreign(table=to_table(_proxied(rows, list(rewards))), files=(), read={}, ignored=())
        facts = {"seed": config.seed, "config_digest": config.digest(), "data_digest": digest([[p.id, shown(p)] for p in prompts])}
        audited = write_audit(run, found, labels, evaluations, key, main_arm=ARM, device="cpu", threads=torch.get_num_threads(), **facts)
    on_event(Event(kind="done", stage=STAGE, text=str(out)))
    return audited


def _pairs(config: AuditConfig, base: Path) -> list[Preference]:
    """The preference pairs to score."""
    if config.preferences is None:
        return []
    found = read_preferences(resolve_path(config.preferences, base), on_bad=config.on_bad)
    chosen = (Key(config.seed) / "pairs").permutation(len(found))[: config.max_pairs]
    return [found[int(i)] for i in np.sort(chosen)]


def _prompts(config: AuditConfig, pairs: Sequence[Preference], base: Path) -> list[Prompt]:
    """What is answered: of a file, or of the pairs, each once."""
    if config.prompts is not None:
        found = read_prompts(resolve_path(config.prompts, base), on_bad=config.on_bad)
    else:
        found = list({p.prompt.id: p.prompt for p in pairs}.values())
    chosen = (Key(config.seed) / "prompts").permutation(len(found))[: config.max_prompts]
    return [found[int(i)] for i in np.sort(chosen)]


def _check_room(config: AuditConfig, policy: Policy, prompts: Sequence[Prompt]) -> None:
    """Whether replies fit behind all prompts, before anything is sampled."""
    room = policy.max_tokens
    for prompt, ids in zip(prompts, encode_prompts(policy.tokenizer, [p.text for p in prompts]), strict=True):
        if room is not None and len(ids) + config.max_completion_length > room:
            raise UserError(
                f"has {len(ids)} tokens, and with {config.max_completion_length} of the reply that is more than the policy's context of "
                f"{room}. Lower --max-tokens, or leave the prompt out.",
                where=f"prompt '{prompt.id}'",
            )


def _name(step: int, start: int) -> str:
    return f"step-{step:06d}-{start:06d}"


def _answer(job: _Job, step: int, path: str | None, on_event: Listener) -> None:
    """All chunks of a checkpoint that are not there yet; a path of None is the reference itself."""
    starts = list(job.starts)
    left = [s for s in starts if not job.path(_name(step, s)).exists()]
    done, title = len(starts) - len(left), f"step {step}" if path else "reference"
    on_event(Event(kind="stage", stage=STAGE, arm=title, step=done, total=len(starts)))
    if not left:
        return
    policy = job.reference if path is None else load_checkpoint(path, job.reference_path, job.config.pad_token)
    if path is not None:
        check_vocabulary(policy, job.reference, path)
    for number, start in enumerate(left, done + 1):
        job.run.ledger(STAGE, title, start)
        prompts = job.prompts[start : start + job.config.prompts_at_once]
        # the same key at every checkpoint: they are compared on common random numbers
        key = Key(job.config.seed) / "samples" / start
        rows = [
            r
            for w in write(policy, prompts, job.decoding, key, samples=job.config.samples_per_prompt)
            for r in _rows(job, policy, w, step, start)
        ]
        write_parquet(job.path(_name(step, start)), rows)
        on_event(Event(kind="step", stage=STAGE, arm=title, step=number, total=len(starts)))


@torch.no_grad()
def _rows(job: _Job, policy: Policy, chunk: Written, step: int, start: int) -> list[SampleRecord]:
    """Records of a chunk, with raw scores; proxies come when all is there."""
    config, seq, texts = job.config, chunk.sequences, [p.text for p in chunk.prompts]
    logp, logp_ref, kl = _likelihoods(policy, job.reference, chunk, config.temperature)
    raw = {name: r.raw(texts, chunk.replies, seq).tolist() for name, r in job.rewards.items()}
    gold = None if job.gold is None else job.gold(chunk.prompts, chunk.replies)
    battery = surface(chunk.replies)
    sampling, lengths = sequence_sum(chunk.sampled.logp_sampling, seq.mask).tolist(), seq.mask.sum(1).tolist()
    first = start * config.samples_per_prompt
    return [
        SampleRecord(
            run=config.name,
            arm=ARM,
            seed=config.seed,
            step=step,
            split="test",
            prompt_id=prompt.id,
            sample_id=f"{step}:{first + i:06d}",
            policy_id=f"{ARM}-{step:06d}",
            prompt=shown(prompt),
            response=reply.text,
            n_tokens=lengths[i],
            finished=reply.finished,
            decoding=job.decoding,
            logp_policy_nats=logp[i].item(),
            logp_ref_nats=logp_ref[i].item(),
            logp_sampling_nats=sampling[i],
            kl_policy_ref_exact_nats=kl[i].item(),
            scores={name: values[i] for name, values in raw.items()},
            gold=None if gold is None else gold[i],
            evaluations={name: v for name, values in battery.items() if (v := values[i]) is not None},
        )
        for i, (prompt, reply) in enumerate(zip(chunk.prompts, chunk.replies, strict=True))
    ]


def _likelihoods(policy: Policy, reference: Policy, chunk: Written, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    """[B] log pi, log pi_ref and the exact KL along the reply; in pieces that keep memory bounded whatever the vocabulary."""
    parts = []
    size = max(1, LOGITS_AT_ONCE // max(1, chunk.sequences.mask.shape[1] * len(policy.tokenizer)))
    for rows in torch.arange(len(chunk.sequences)).split(size):
        seq = chunk.sequences.take(rows)
        ours, theirs = policy.logits(seq), reference.logits(seq)
        logp = chosen_logprobs(ours, seq.replies, seq.mask, temperature).sum(1)
        logp_ref = chosen_logprobs(theirs, seq.replies, seq.mask, temperature).sum(1)
        parts.append(torch.stack([logp, logp_ref, sequence_sum(exact_kl(ours, theirs, temperature), seq.mask)]))
    logp, logp_ref, kl = torch.cat(parts, 1)
    return logp, logp_ref, kl


def _offline(job: _Job, pairs: Sequence[Preference]) -> list[SampleRecord]:
    """Both replies of every preference pair with the reward models' scores, gold and the annotator's label."""
    prompts = [p.prompt for p in pairs for _ in range(2)]
    replies = [r for p in pairs for r in (p.chosen, p.rejected)]
    raw = {name: r.raw([p.text for p in prompts], replies).tolist() for name, r in job.rewards.items()}
    gold = None if job.gold is None else job.gold(prompts, replies)
    names = [f"offline:{i // 2}:{('chosen', 'rejected')[i % 2]}" for i in range(len(replies))]
    return [
        SampleRecord(
            run=job.config.name,
            arm=OFFLINE_ARM,
            seed=job.config.seed,
            step=None,
            split="test",
            prompt_id=prompt.id,
            sample_id=names[i],
            policy_id=(pairs[i // 2].chosen_source if i % 2 == 0 else pairs[i // 2].rejected_source) or "unknown",
            prompt=shown(prompt),
            response=reply.text,
            finished=reply.finished,
            scores={name: values[i] for name, values in raw.items()},
            gold=None if gold is None else gold[i],
            labels=[Label(annotator=pairs[i // 2].annotator, other_sample_id=names[i ^ 1], preference=float(i % 2 == 0))],
        )
        for i, (prompt, reply) in enumerate(zip(prompts, replies, strict=True))
    ]


def _proxied(rows: Sequence[SampleRecord], names: Sequence[str]) -> list[SampleRecord]:
    """Rows with what was optimised: the mean of the reward models, each scaled on the replies of step 0, and how far they disagree."""
    start = [r for r in rows if r.step == 0]
    scales = {n: measure_scale(torch.tensor([r.scores[n] for r in start])) for n in names}
    out = []
    for row in rows:
        scaled = [scales[n].gain * row.scores[n] + scales[n].shift for n in names]
        proxy = float(np.mean(scaled))
        out.append(replace(row, proxy_fixed=proxy, proxy_current=proxy, disagreement=float(np.std(scaled)) if len(names) > 1 else None))
    return out
