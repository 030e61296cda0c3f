"""Reward models of a run: the first fit and every refit, rescaled on the same reference samples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from trueup.core.errors import UserError
from trueup.core.rng import Key, epoch_rows
from trueup.data.rows import Judged, Preference, Prompt, Reply, judged, swapped
from trueup.learn.table import Examples
from trueup.loop.config import LoopConfig
from trueup.models.embedding_reward import SETTINGS as EMBEDDING_SETTINGS
from trueup.models.embedding_reward import load_embedding_reward, new_embedding_reward
from trueup.models.policy import Policy
from trueup.models.reward import RewardModel, TrunkReward, load_reward, new_reward, reward_from_policy
from trueup.pipeline.config import RewardStageConfig, resolve_path
from trueup.pipeline.context import Context
from trueup.pipeline.sampling import decoding_of, reference_samples
from trueup.pipeline.shared import folder_digest, model_digest, pairs_digest, share
from trueup.pipeline.steps import run_steps
from trueup.rewards.fit import RewardLearner
from trueup.rewards.learned import LearnedReward, measure_scale, read_scale, save_reward
from trueup.rewards.objectives.protocol import ObjectiveConfig
from trueup.sandbox.world import World
from trueup.store.atomic import atomic_folder

STAGE = "reward"
FIRST = "rm-0"


def first_reward(context: Context, policy: Policy, pairs: Sequence[Preference]) -> LearnedReward:
    """The reward model that every arm starts with; fitted now, or read back where that was done."""
    config = context.config.reward
    model = new_model(context, policy, config, context.key / "reward_model")
    steps = math.ceil(len(pairs) * config.epochs / config.batch_size)
    return fitted(
        context, STAGE, None, model, pairs, policy, objective=config.objective, steps=steps, batch_size=config.batch_size,
        loop=config.loop, key=context.key / STAGE, folder=context.run.checkpoint(STAGE),
    )  # fmt: skip


def clean_reward(context: Context, policy: Policy, pairs: Sequence[Preference]) -> LearnedReward:
    """A control: the same model fitted to the same pairs, ordered by gold instead of by the annotators."""
    config = context.config.reward
    ordered = relabelled(context, pairs)
    return fitted(
        context, "reward-clean", None, new_model(context, policy, config, context.key / "reward_model"), ordered, policy,
        objective=config.objective, steps=math.ceil(len(ordered) * config.epochs / config.batch_size), batch_size=config.batch_size,
        loop=config.loop, key=context.key / STAGE, folder=context.run.checkpoint("reward-clean"),
    )  # fmt: skip


def relabelled(context: Context, pairs: Sequence[Preference]) -> list[Preference]:
    """The pairs with the better reply, by gold, as the chosen one; pairs of equal gold stay as they are."""
    prompts = [p.prompt for p in pairs]
    chosen, rejected = (
        gold_scores(context.world, prompts, replies) for replies in ([p.chosen for p in pairs], [p.rejected for p in pairs])
    )
    return [p if a >= b else swapped(p) for p, a, b in zip(pairs, chosen, rejected, strict=True)]


def gold_scores(world: World, prompts: Sequence[Prompt], replies: Sequence[Reply]) -> list[float]:
    """Gold of replies, or a `UserError` where the world knows none."""
    found = world.gold(prompts, replies)
    if found is None:
        raise UserError("an arm needs gold, but this world knows no truth. Remove the arm, or set reward: learned.", where="arms")
    return [g.score for g in found]


def new_model(context: Context, policy: Policy | None, config: RewardStageConfig, key: Key) -> RewardModel:
    """An untrained reward model, its head drawn from ``key``."""
    model = config.model
    if model.trunk == "policy":
        if policy is None:
            raise UserError(
                "there is no policy here whose trunk could be copied. Set trunk to 'embeddings' or 'path'.", where="model.trunk"
            )
        return reward_from_policy(policy, key, outputs=config.objective.outputs)
    if model.trunk == "embeddings":
        return new_embedding_reward(
            context.embedder,
            key,
            hidden_size=model.head_width,
            features=model.features,
            source=context.config.embeddings,
            outputs=config.objective.outputs,
        )
    if model.path is None:
        raise UserError("trunk 'path' needs reward.model.path, a folder or hub name.", where="reward.model")
    made = new_reward(
        resolve_path(model.path, context.base),
        key,
        rendering=model.rendering,
        precision=context.precision,
        outputs=config.objective.outputs,
    )
    if isinstance(made, TrunkReward):
        made.cut_replies, made.max_length = model.cut_replies, model.max_length
    return made


def fitted(
    context: Context,
    name: str,
    arm: str | None,
    model: RewardModel,
    pairs: Sequence[Preference],
    policy: Policy,
    *,
    objective: ObjectiveConfig,
    steps: int,
    batch_size: int,
    loop: LoopConfig,
    key: Key,
    folder: Path,
) -> LearnedReward:
    """Fit a reward model to pairs, rescale it on the reference samples, and save it; read it back where that was done."""
    stage = f"{arm}/{name}" if arm else name
    groups = [judged(p) for p in pairs]

    def batch_of(step: int) -> Examples[Judged]:
        return Examples.of(groups, epoch_rows(key / "data", len(groups), min(batch_size, len(groups)), step))

    def make() -> None:
        run_steps(context, name, RewardLearner(objective, model), batch_of, steps=steps, loop=loop, key=key, arm=arm)
        if context.accelerator.is_main_process:
            reward = LearnedReward(model)
            prompts, replies = reference_samples(context)
            reward.scale = measure_scale(reward.raw([p.text for p in prompts], replies))
            with atomic_folder(folder) as new:
                save_reward(new, reward)
            context.run.mark_done(stage, {"steps": steps, "pairs": len(pairs), "scale": asdict(reward.scale)})
        context.accelerator.wait_for_everyone()

    if context.run.done(stage) is None:
        share(context, stage, folder, lambda: None if arm else _depends_on(context, pairs), make)
    return LearnedReward(read_reward(context, folder), read_scale(folder), policy.tokenizer, folder)


def _depends_on(context: Context, pairs: Sequence[Preference]) -> dict[str, Any] | None:
    """What a first reward model depends on; heads on embeddings are fitted in seconds and not shared."""
    config = context.config.reward
    trunk = model_digest(config.model.path, context.base)
    if trunk is None or config.model.trunk == "embeddings":
        return None
    return {
        "policy": folder_digest(context.run.checkpoint("sft")),
        "trunk": trunk,
        "reward": config.model_dump(mode="json"),
        "pairs": pairs_digest(pairs),
        "prompts": [str(p.text) for p in context.world.prompts("train")],
        "decoding": asdict(decoding_of(context)),
    }


def read_reward(context: Context, folder: Path) -> RewardModel:
    """A saved reward model, on the run's sentence embedder where it needs one."""
    if (folder / EMBEDDING_SETTINGS).exists():
        return load_embedding_reward(folder, context.embedder)
    model = load_reward(folder, precision=context.precision, rendering=context.config.reward.model.rendering)
    if isinstance(model, TrunkReward):
        config = context.config.reward.model
        model.cut_replies, model.max_length = config.cut_replies, config.max_length
    return model
