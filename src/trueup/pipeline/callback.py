"""`TrueupCallback`: records of every checkpoint during someone else's training, for transformers' Trainer and TRL's trainers.

The training does not notice: it takes the same steps, bit by bit, with and without the callback. Replies are drawn from keyed random
numbers, and what else is run draws from generators that are put back (`trueup.models.undisturbed`).
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from trueup.core.errors import UserError, did_you_mean, one_line
from trueup.core.record import Decoding, SampleRecord
from trueup.core.rng import Key
from trueup.data.tokens import Ids, check_tokenizer, decode_replies, encode_prompts
from trueup.decoding.cached import CacheDecoder
from trueup.decoding.sample import Sampled, sample
from trueup.models.policy import Reference, context_of, has_adapter, load_policy, reply_logits
from trueup.models.undisturbed import frozen_copy, refuse_split, undisturbed
from trueup.ops.logprobs import chosen_logprobs, exact_kl
from trueup.ops.masking import sequence_sum
from trueup.pipeline.judging import Judge, Judged, given_judges, given_prompts, loaded, scores_of
from trueup.pipeline.preferences import shown
from trueup.store.run import Run

WHEN = ("evaluate", "save")
_WHERE = "TrueupCallback"


class TrueupCallback(TrainerCallback):
    """Writes sample records of the policy while it is trained: at the start, at the end, and in between.

    Args:
        out: run folder; ``records/*.parquet`` and ``manifest.json`` are written there.
        prompts: held-out prompts: texts, lists of messages, rows with a ``prompt`` (other columns are handed to functions), a data set of
            such rows, or a file.
        rewards: what is optimised: one judge or several (see `trueup.pipeline.judging`), or a mapping of names to judges. The trainer's own
            reward functions can be given as they are.
        reward_weights: one a reward, as the trainer has them; 1 if left out. The proxy is the weighted sum.
        gold: the score believed true, if there is one.
        evaluations: names to judges.
        every: steps between two measurements.
        when: further occasions, of ``evaluate`` and ``save``.
        samples_per_prompt: replies a prompt.
        max_completion_length: longest reply, tokens.
        temperature: of sampling, and of the log-probabilities.
        top_p: of sampling.
        reference: what KL is measured against: a folder, a model, or None for the model as the training begins (an adapter switched off).
        arm: name of this training among others of the folder.
        run: name in the records; the folder's if left out.
        seed: of the draws.
        rows_at_once: replies that are sampled and scored together.
        tokenizer: where the trainer has none.

    Raises:
        UserError: settings that cannot be used; when training begins, also prompts, judges or weights that cannot.
    """

    def __init__(
        self,
        out: str | Path,
        prompts: Any,
        rewards: Judge | Sequence[Judge] | Mapping[str, Judge],
        *,
        reward_weights: Sequence[float] | None = None,
        gold: Judge | None = None,
        evaluations: Mapping[str, Judge] | None = None,
        every: int | None = None,
        when: Sequence[str] = WHEN,
        samples_per_prompt: int = 4,
        max_completion_length: int = 64,
        temperature: float = 1.0,
        top_p: float = 1.0,
        reference: Any = None,
        arm: str = "policy",
        run: str | None = None,
        seed: int = 0,
        rows_at_once: int = 64,
        tokenizer: Any = None,
    ) -> None:
        self.run, self.arm, self.seed, self.name = Run(out), arm, seed, run or Path(out).resolve().name
        self.prompts, self.columns = given_prompts(prompts, _WHERE)
        self.judges = given_judges(rewards, f"{_WHERE}, rewards")
        self.weights = [1.0] * len(self.judges) if reward_weights is None else [float(w) for w in reward_weights]
        self.gold, self.evaluations = gold, dict(evaluations or {})
        self.every, self.when, self.samples = every, tuple(when), samples_per_prompt
        self.decoding = Decoding(temperature=temperature, top_p=top_p, max_tokens=max_completion_length)
        self.reference, self.rows_at_once, self.tokenizer = reference, rows_at_once, tokenizer
        self._written: set[int] = set()
        self._ids: list[Ids] = []
        self._reference: Reference | None = None
        self._refuse()

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Check everything, keep the reference, and measure the model as it is."""
        if not state.is_world_process_zero:
            return
        model, tokenizer = given["model"], self.tokenizer or given.get("processing_class")
        if tokenizer is None:
            raise UserError("the trainer has no tokenizer. Give one: TrueupCallback(..., tokenizer=...).", where=_WHERE)
        tokenizer = getattr(tokenizer, "tokenizer", tokenizer)  # a processor of several modalities holds one
        refuse_split(model)
        if state.global_step == 0 and self.run.records_path(self._file(0)).exists():
            raise UserError("holds records of an earlier training. Choose another folder or another arm.", where=str(self.run.root))
        # the trainer's own tokenizer is not to be changed
        self.tokenizer = check_tokenizer(copy.deepcopy(tokenizer), _WHERE)
        self._ids = self._encoded(model)
        with undisturbed(model):
            self._reference = self._kept(model, state.global_step)
            self.judges = {name: loaded(j) for name, j in self.judges.items()}
            self.gold = None if self.gold is None else loaded(self.gold)
            self.evaluations = {name: loaded(j) for name, j in self.evaluations.items()}
        self._measure(model, state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Measure every so many steps."""
        if self.every and state.global_step % self.every == 0:
            self._seen(state, given["model"])

    def on_evaluate(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Measure where the trainer evaluates."""
        if "evaluate" in self.when:
            self._seen(state, given["model"])

    def on_save(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Measure where the trainer saves."""
        if "save" in self.when:
            self._seen(state, given["model"])

    def on_train_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Measure the last policy; not where the trainer has put back an earlier one, which would pass for the last."""
        if not args.load_best_model_at_end:
            self._seen(state, given["model"])

    def _seen(self, state: Any, model: Any) -> None:
        """Measure once a step. What fails now must not cost a training that has run for hours: it is warned of."""
        if not state.is_world_process_zero or self._reference is None or state.global_step in self._written:
            return
        try:
            self._measure(model, state.global_step)
        except Exception as error:  # judges are anybody's code
            warnings.warn(f"TrueupCallback: step {state.global_step} was not measured: {one_line(error)}. Training goes on.", stacklevel=2)

    def _measure(self, model: Any, step: int) -> None:
        reference = self._reference
        if reference is None:
            raise UserError("training has not begun, so there is nothing to measure.", where=_WHERE)
        others = [] if reference.adapter else [reference.model]
        with undisturbed(model, *others):
            rows = self._records(model, reference, step)
        self.run.write_records(self._file(step), rows)
        self.run.write_manifest(name=self.name, seed=self.seed, arms=self._arms(), main_arm=self._arms()[0])
        self._written.add(step)

    def _records(self, model: Any, reference: Reference, step: int) -> list[SampleRecord]:
        found: list[SampleRecord] = []
        key, each = Key(self.seed) / "probe" / step, max(1, self.rows_at_once // self.samples)
        for start in range(0, len(self.prompts), each):
            numbers = range(start * self.samples, min(start + each, len(self.prompts)) * self.samples)
            sampled = sample(
                CacheDecoder(model),
                self._ids[start : start + each],
                num_samples=self.samples,
                uniforms=key.uniforms(numbers, self.decoding.max_tokens),
                temperature=self.decoding.temperature,
                top_p=self.decoding.top_p,
                eos_id=self.tokenizer.eos_token_id,
                pad_id=self.tokenizer.pad_token_id,
            )
            found += self._judged(model, reference, step, sampled, [n // self.samples for n in numbers], len(found))
        return found

    def _judged(self, model: Any, reference: Reference, step: int, sampled: Sampled, which: list[int], before: int) -> list[SampleRecord]:
        seq, temperature = sampled.sequences, self.decoding.temperature
        replies = decode_replies(self.tokenizer, seq.replies, seq.mask)
        rows = Judged(
            prompts=[self.prompts[i] for i in which],
            replies=replies,
            ids=[row[mask].tolist() for row, mask in zip(seq.replies, seq.mask, strict=True)],
            columns={name: [values[i] for i in which] for name, values in self.columns.items()},
        )
        scores = {name: scores_of(judge, name, rows) for name, judge in self.judges.items()}
        battery = {name: scores_of(judge, name, rows) for name, judge in self.evaluations.items()}
        gold = None if self.gold is None else scores_of(self.gold, "gold", rows)
        ours, theirs = reply_logits(model, seq), reference.logits(seq)
        logp, logp_ref = (chosen_logprobs(logits, seq.replies, seq.mask, temperature).sum(1).tolist() for logits in (ours, theirs))
        kl = sequence_sum(exact_kl(ours, theirs, temperature), seq.mask).tolist()
        sampling, lengths = sequence_sum(sampled.logp_sampling, seq.mask).tolist(), seq.mask.sum(1).tolist()
        proxy = [weighted(list(parts), self.weights) for parts in zip(*scores.values(), strict=True)]
        return [
            SampleRecord(
                run=self.name,
                arm=self.arm,
                seed=self.seed,
                step=step,
                split="test",
                prompt_id=prompt.id,
                sample_id=f"{self.arm}:{step}:{before + i}",
                policy_id=f"{self.arm}/policy-{step:06d}",
                prompt=shown(prompt),
                response=replies[i].text,
                n_tokens=lengths[i],
                finished=replies[i].finished,
                decoding=self.decoding,
                logp_policy_nats=logp[i],
                logp_ref_nats=logp_ref[i],
                logp_sampling_nats=sampling[i],
                kl_policy_ref_exact_nats=kl[i],
                scores={name: v for name, values in scores.items() if (v := values[i]) is not None},
                proxy_fixed=proxy[i],
                proxy_current=proxy[i],
                gold=None if gold is None else gold[i],
                evaluations={name: v for name, values in battery.items() if (v := values[i]) is not None},
            )
            for i, prompt in enumerate(rows.prompts)
        ]

    def _file(self, step: int) -> str:
        return f"{self.arm}-{step:06d}"

    def _arms(self) -> list[str]:
        """Arms of the folder so far, this one among them."""
        return list(dict.fromkeys([*(str(a) for a in self.run.manifest().get("arms") or ()), self.arm]))

    def _kept(self, model: Any, step: int) -> Reference:
        if self.reference is None and has_adapter(model):
            return Reference(model, adapter=True)
        if self.reference is None and step:
            raise UserError(
                f"training goes on at step {step}, so the model is no reference. Give reference=FOLDER, what training began with.",
                where=_WHERE,
            )
        if self.reference is None:
            return Reference(frozen_copy(model), adapter=False)
        kept = load_policy(self.reference).model if isinstance(self.reference, str | Path) else self.reference
        device = next(model.parameters()).device
        return Reference(kept.to(device), adapter=False)

    def _encoded(self, model: Any) -> list[Ids]:
        limit = context_of(model)
        room = None if limit is None else limit - self.decoding.max_tokens
        if room is not None and room < 1:
            raise UserError(
                f"max_completion_length {self.decoding.max_tokens} leaves no room in the model's context of {limit}.", where=_WHERE
            )
        return encode_prompts(self.tokenizer, [p.text for p in self.prompts], room)

    def _refuse(self) -> None:
        """Whatever of the settings can be refused before training."""
        for name, value in (("every", self.every), ("samples_per_prompt", self.samples), ("rows_at_once", self.rows_at_once)):
            if value is not None and value < 1:
                raise UserError(f"must be at least 1, got {value}.", where=f"{_WHERE}, {name}")
        if not 0 < self.decoding.top_p <= 1 or self.decoding.temperature <= 0 or self.decoding.max_tokens < 1:
            raise UserError("needs 0 < top_p <= 1, a temperature above 0 and a max_completion_length of at least 1.", where=_WHERE)
        for occasion in self.when:
            if occasion not in WHEN:
                raise UserError(f"knows no '{occasion}'.{did_you_mean(occasion, WHEN)} Known: {', '.join(WHEN)}.", where=f"{_WHERE}, when")
        if len(self.weights) != len(self.judges):
            raise UserError(f"has {len(self.weights)} weights for {len(self.judges)} rewards.", where=f"{_WHERE}, reward_weights")
        self.run.records_path(self._file(0))  # an arm that is no file name is refused here


def weighted(scores: Sequence[float | None], weights: Sequence[float]) -> float | None:
    """The sum of weight times score over the rewards that scored a reply, as TRL sums; None where none did."""
    known = [(w, s) for w, s in zip(weights, scores, strict=True) if s is not None]
    return sum(w * s for w, s in known) if known else None
