"""Trains the scorer of prefixes of `trueup decode` on replies of the policy, scored by the first reward model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate import Accelerator

from trueup.core.errors import UserError
from trueup.core.record import Decoding
from trueup.core.rng import Key, epoch_rows
from trueup.data.rows import Prompt
from trueup.data.tokens import Sequences
from trueup.loop.state import load_state, save_state
from trueup.loop.train import train
from trueup.models.reward import reward_from_policy
from trueup.pipeline.decode_config import DecodeConfig, PrefixFitConfig
from trueup.pipeline.decode_models import DecodeModels
from trueup.pipeline.events import Event, Listener
from trueup.pipeline.sampling import replies_of, write
from trueup.rewards.fit_prefix import PrefixLearner, ScoredReplies
from trueup.rewards.learned import LearnedReward, save_reward
from trueup.store.atomic import atomic_folder
from trueup.store.run import Run

STAGE = "prefix"
STATE_EVERY = 50
"""Steps between states that a killed fit resumes from."""


def fit_prefix(
    run: Run, config: DecodeConfig, settings: PrefixFitConfig, models: DecodeModels, prompts: Sequence[Prompt], on_event: Listener
) -> Path:
    """The folder of the trained scorer; one that is there already is not trained again.

    Args:
        run: where it is kept.
        config: length and temperature of replies, and the seed.
        settings: objective and steps.
        models: the policy, of whose trunk the scorer has a copy, and the reward model that it learns from.
        prompts: to which the policy writes.
        on_event: told of every step.

    Raises:
        UserError: a prompt leaves no room, or the loss is not finite.
    """
    folder = run.checkpoint(STAGE)
    if run.done(STAGE) is not None:
        return folder
    key = Key(config.seed) / STAGE
    data = scored_replies(config, settings, models, prompts, key)
    learner = PrefixLearner(settings.objective, reward_from_policy(models.policy, key / "head"))
    size = min(settings.batch_size, len(data))
    steps = math.ceil(len(data) * settings.epochs / size)
    state = load_state(run.state(STAGE))
    begun = state.step if state else 0
    run.rewind(STAGE, None, begun)
    on_event(Event(kind="stage", stage=STAGE, step=begun, total=steps))

    def batch_of(step: int) -> ScoredReplies:
        run.ledger(STAGE, None, step)
        return data.take(torch.from_numpy(epoch_rows(key / "data", len(data), size, step)))

    for step in train(
        learner, batch_of, steps=steps, config=settings.loop, key=key / "fit", accelerator=Accelerator(cpu=True), start=state
    ):
        taken = step.index + 1
        run.log({"stage": STAGE, "arm": None, "step": step.index, "metrics": step.metrics})
        on_event(Event(kind="step", stage=STAGE, step=taken, total=steps, metrics=step.metrics))
        if taken % STATE_EVERY == 0 or taken == steps:
            save_state(run.state(STAGE), step.snapshot())
    with atomic_folder(folder) as new:
        save_reward(new, LearnedReward(learner.dense.model))
    run.mark_done(STAGE, {"steps": steps, "replies": len(data), "objective": settings.objective.kind})
    return folder


def scored_replies(
    config: DecodeConfig, settings: PrefixFitConfig, models: DecodeModels, prompts: Sequence[Prompt], key: Key
) -> ScoredReplies:
    """Replies of the policy to these prompts, with the scaled scores of the first reward model."""
    if models.guide is None:
        raise UserError("learns from scores: give 'reward_models'.", where="fit_prefix")
    decoding = Decoding(temperature=config.temperature, top_p=1.0, max_tokens=config.max_completion_length)
    written = write(models.policy, prompts, decoding, key / "samples", samples=settings.samples_per_prompt)
    rows, replies = replies_of(written)
    score = models.guide.score([p.text for p in rows], replies)
    if settings.squash:
        low, high = score.min(), score.max()
        score = (score - low) / (high - low).clamp(min=1e-9)
    parts, pad = [w.sequences for w in written], models.policy.tokenizer.pad_token_id
    left, right = max(p.prompt_width for p in parts), max(p.mask.shape[1] for p in parts)
    return ScoredReplies(sequences=Sequences.concat([p.widen(left, right, pad) for p in parts]), score=score)
