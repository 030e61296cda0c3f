"""Reward models of a run: the first one and every refit, rescaled on the same reference samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trueup.core.errors import UserError
from trueup.core.rng import Key, epoch_rows
from trueup.data.pairs import judged_pairs
from trueup.data.rows import Judged, Preference, Prompt, Reply, judged, swapped
from trueup.learn.table import Examples
from trueup.loop.config import LoopConfig
from trueup.models.policy import Policy
from trueup.models.reward import RewardModel
from trueup.pipeline.context import Context
from trueup.pipeline.reward_models import new_model, read_reward, trained_elsewhere
from trueup.pipeline.reward_report import training_report, write_report
from trueup.pipeline.sampling import decoding_of, reference_samples
from trueup.pipeline.shared import folder_digest, groups_digest, model_digest, share
from trueup.pipeline.steps import run_steps
from trueup.rewards.fit import RewardLearner
from trueup.rewards.learned import LearnedReward, Scale, measure_scale, read_scale, save_reward
from trueup.rewards.objectives.protocol import ObjectiveConfig
from trueup.sandbox.world import JudgedWorld, World
from trueup.store.atomic import atomic_folder

STAGE = "reward"
FIRST, CLEAN = "rm-0", "rm-clean"


@dataclass(frozen=True, kw_only=True)
class Fit:
    """A fit of a reward model: what it learns from, and how."""

    name: str
    """Of the stage."""
    groups: Sequence[Judged]
    objective: ObjectiveConfig
    epochs: float
    batch_size: int
    loop: LoopConfig
    key: Key
    arm: str | None = None
    """Whose it is; None where arms share it."""
    trunk: str = ""
    """Content of what the model starts from, beside the SFT policy and the settings; for the cache."""

    @property
    def steps(self) -> int:
        """Batches of all epochs."""
        return math.ceil(len(self.groups) * self.epochs / self.batch_size)

    @property
    def stage(self) -> str:
        """Name of the stage with its arm."""
        return f"{self.arm}/{self.name}" if self.arm else self.name


def first_reward(context: Context, policy: Policy, groups: Sequence[Judged]) -> LearnedReward:
    """The reward model that every arm starts with; fitted now, or read back where that was done, or trained elsewhere.

    Args:
        context: the run.
        policy: the SFT policy, whose trunk may be copied.
        groups: what it learns from.
    """
    config = context.reward_stage
    if not config.train:
        return _given(context, policy)
    fit = first_fit(context, groups, name=STAGE, key=context.key / STAGE)
    return fitted(context, fit, lambda: new_model(context, policy, config, context.key / "reward_model"), policy, STAGE)


def clean_reward(context: Context, policy: Policy, pairs: Sequence[Preference]) -> LearnedReward:
    """A control: the same model fitted to the same pairs, ordered by gold instead of by the annotators."""
    config, groups = context.reward_stage, [judged(p) for p in relabelled(context, pairs)]
    fit = first_fit(context, groups, name="reward-clean", key=context.key / STAGE)
    return fitted(context, fit, lambda: new_model(context, policy, config, context.key / "reward_model"), policy, "reward-clean")


def first_fit(
    context: Context, groups: Sequence[Judged], *, name: str, key: Key, objective: ObjectiveConfig | None = None, trunk: str = ""
) -> Fit:
    """A fit with the run's settings."""
    config = context.reward_stage
    return Fit(
        name=name, groups=groups, objective=objective or config.objective, epochs=config.epochs, batch_size=config.batch_size,
        loop=config.loop, key=key, trunk=trunk,
    )  # fmt: skip


def training_groups(context: Context, pairs: Sequence[Preference]) -> list[Judged]:
    """What a reward model learns from: the world's judged groups where it has them, else its pairs."""
    found = list(context.world.judgements("train")) if isinstance(context.world, JudgedWorld) else []
    return found or [judged(p) for p in pairs]


def refit_groups(context: Context, pairs: Sequence[Preference]) -> list[Judged]:
    """What a refit learns from: the pairs, with their ratings where the world has judged groups."""
    known = judged_pairs(context.world.judgements("train")) if isinstance(context.world, JudgedWorld) else {}
    return [known.get(p.id) or judged(p) for p in pairs]


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


def fitted(context: Context, fit: Fit, model: Callable[[], RewardModel], policy: Policy, folder: str) -> LearnedReward:
    """Fit a reward model, rescale it on the reference samples, and save it; read it back where that was done.

    Args:
        context: the run.
        fit: what it learns from, and how.
        model: makes the model as it is before the fit.
        policy: whose sequences may come with texts.
        folder: name of the checkpoint.
    """
    place = context.run.checkpoint(folder)

    def batch_of(step: int) -> Examples[Judged]:
        return Examples.of(fit.groups, epoch_rows(fit.key / "data", len(fit.groups), min(fit.batch_size, len(fit.groups)), step))

    def make() -> None:
        made = model()
        run_steps(context, fit.name, RewardLearner(fit.objective, made), batch_of, steps=fit.steps, loop=fit.loop, key=fit.key, arm=fit.arm)
        report = training_report(context, fit.groups, fit.objective)
        keep_reward(context, fit.stage, made, place, {"steps": fit.steps, "pairs": len(fit.groups)}, report)

    if context.run.done(fit.stage) is None:
        share(context, fit.stage, place, lambda: None if fit.arm else _depends_on(context, fit), make)
    return saved_reward(context, place, policy)


def keep_reward(
    context: Context, stage: str, model: RewardModel, place: Path, facts: dict[str, Any], report: Mapping[str, Any] | None = None
) -> None:
    """Rescale a reward model, save it and mark its stage as done."""
    if context.accelerator.is_main_process:
        reward = LearnedReward(model, rescaling(context, model))
        with atomic_folder(place) as new:
            save_reward(new, reward)
            if report is not None:
                write_report(new, report)
        context.run.mark_done(stage, {**facts, "scale": asdict(reward.scale)})
    context.accelerator.wait_for_everyone()


def rescaling(context: Context, model: RewardModel) -> Scale:
    """The affine map that gives the model's scores of the reference samples mean 0 and deviation 1."""
    prompts, replies = reference_samples(context)
    return measure_scale(LearnedReward(model).raw([p.text for p in prompts], replies))


def saved_reward(context: Context, place: Path, policy: Policy) -> LearnedReward:
    """A reward model of the run, with its scale."""
    return LearnedReward(read_reward(context, place), read_scale(place), policy.tokenizer, place)


def _given(context: Context, policy: Policy) -> LearnedReward:
    """A reward model trained elsewhere: rescaled and copied into the run."""
    place = context.run.checkpoint(STAGE)
    if context.run.done(STAGE) is None:
        model, path = trained_elsewhere(context), context.reward_stage.model.path
        keep_reward(context, STAGE, model, place, {"steps": 0, "pairs": 0, "from": path})
    return saved_reward(context, place, policy)


def _depends_on(context: Context, fit: Fit) -> dict[str, Any] | None:
    """What a shared reward model depends on; heads on embeddings are fitted in seconds and not shared."""
    config = context.reward_stage
    trunk = model_digest(config.model.path, context.base)
    if trunk is None or config.model.trunk == "embeddings":
        return None
    return {
        "policy": folder_digest(context.run.checkpoint("sft")),
        "trunk": [trunk, fit.trunk],
        "reward": config.model_dump(mode="json"),
        "objective": fit.objective.model_dump(mode="json"),
        "key": fit.key.words(),
        "groups": groups_digest(fit.groups),
        "prompts": [str(p.text) for p in context.world.prompts("train")],
        "decoding": asdict(decoding_of(context)),
    }
