"""One refit of a reward model outside a run: models trained anywhere, a preference file, a new folder."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from accelerate import Accelerator

from trueup.core.errors import UserError
from trueup.core.record import Decoding
from trueup.core.rng import Key, epoch_rows
from trueup.data.rows import Judged, Preference, Prompt, judged
from trueup.learn.table import Examples
from trueup.loop.train import train
from trueup.models.embeddings import Embedder
from trueup.models.policy import Policy
from trueup.models.reward import RewardModel
from trueup.pipeline.sampling import replies_of, write
from trueup.realign.config import RealignConfig
from trueup.realign.frft import RefitPlan, plan_refit
from trueup.realign.select.protocol import PolicySample
from trueup.rewards.fit import RewardLearner
from trueup.rewards.learned import LearnedReward, measure_scale, save_reward
from trueup.rewards.objectives.bradley_terry import BradleyTerryConfig
from trueup.store.atomic import atomic_folder


def refit_once(
    model: RewardModel,
    policy: Policy,
    pool: Sequence[Preference],
    held_out: Sequence[Preference],
    config: RealignConfig,
    embedder: Embedder | None,
    key: Key,
    *,
    max_tokens: int,
    out: Path,
) -> tuple[RefitPlan, list[float], list[float]]:
    """Select, fit, rescale on the policy's samples before the fit, save.

    Returns:
        The plan, and whether each held-out (or else selected) pair was ordered rightly before and after: 1, 0, or 0.5 for a tie.
    """
    if not pool:
        raise UserError("the preference set is empty.", where="preferences")
    prompts = list({p.prompt.id: p.prompt for p in pool}.values())
    picked: list[Prompt] = [prompts[int(i)] for i in (key / "prompts").permutation(len(prompts))[: config.prompts]]
    decoding = Decoding(max_tokens=max_tokens)
    rows, replies = replies_of(write(policy, picked, decoding, key / "samples", samples=config.samples_per_prompt))
    plan = plan_refit(pool, [PolicySample(prompt=p, reply=r) for p, r in zip(rows, replies, strict=True)], config, embedder, key)
    pairs = [pool[i] for i in plan.rows]
    checks = list(held_out) or pairs[: plan.selected]
    before = _hits(margins(model, checks))
    steps = math.ceil(len(pairs) * config.epochs / config.batch_size)
    groups = [judged(p) for p in pairs]

    def batch_of(step: int) -> Examples[Judged]:
        return Examples.of(groups, epoch_rows(key / "data", len(groups), min(config.batch_size, len(groups)), step))

    learner = RewardLearner(BradleyTerryConfig(), model)
    for _ in train(learner, batch_of, steps=steps, config=config.loop, key=key / "fit", accelerator=Accelerator(cpu=True)):
        pass
    reward = LearnedReward(model)
    reward.scale = measure_scale(reward.raw([p.text for p in rows], replies))
    with atomic_folder(out) as new:
        save_reward(new, reward)
    return plan, before, _hits(margins(model, checks))


def margins(model: RewardModel, pairs: Sequence[Preference]) -> list[float]:
    """Raw score of the chosen reply minus that of the rejected one, a pair each."""
    reward, prompts = LearnedReward(model), [p.prompt.text for p in pairs]
    return (reward.raw(prompts, [p.chosen for p in pairs]) - reward.raw(prompts, [p.rejected for p in pairs])).tolist()


def _hits(found: Sequence[float]) -> list[float]:
    return [float(m > 0) + 0.5 * float(m == 0) for m in found]
