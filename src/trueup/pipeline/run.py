"""The composition root: a configuration becomes a world, models, stages, records."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import ProjectConfiguration
from transformers.utils import logging as transformers_logging

from trueup.core.config import digest
from trueup.core.errors import UserError
from trueup.data.rows import Preference
from trueup.pipeline.arm import run_arm
from trueup.pipeline.calibrate import calibrate
from trueup.pipeline.config import RunConfig
from trueup.pipeline.context import Context
from trueup.pipeline.cross_validate import cross_validate
from trueup.pipeline.events import Event, Listener, nobody
from trueup.pipeline.members import Shared
from trueup.pipeline.preferences import SPLITS, offline_records, preference_pairs
from trueup.pipeline.reward import FIRST, first_reward, training_groups
from trueup.pipeline.reward import STAGE as REWARD
from trueup.pipeline.sources import check_rewards
from trueup.pipeline.supervised import sft_policy
from trueup.pipeline.variants import check_probe
from trueup.rewards.learned import LearnedReward
from trueup.store.run import Run

STAGES = ("sft", "reward", "policy")


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """What a run left behind."""

    root: Path
    stages: tuple[str, ...]
    """Stages that are done."""
    arms: tuple[str, ...]
    wall_s: float
    metrics: dict[str, float] = field(default_factory=dict)
    """The last logged metrics of the last stage."""


def execute(
    config: RunConfig,
    out: Path,
    *,
    resume: bool = False,
    base: Path | None = None,
    stages: tuple[str, ...] | None = None,
    on_event: Listener = nobody,
) -> RunResult:
    """Run a configuration, or go on with a run that was stopped.

    Args:
        config: everything the result depends on.
        out: the run's folder.
        resume: go on with what is in the folder; a new run refuses a folder that is not empty.
        base: folder that relative paths of the configuration are read from; the present one if None.
        stages: which of `STAGES` to run; an earlier stage that has not been done is run all the same, since the later needs it.
        on_event: told of every stage and step.

    Raises:
        UserError: anything the user can fix; what was done before stays and can be resumed.
    """
    began = time.perf_counter()
    wanted = _until(stages)
    transformers_logging.disable_progress_bar()
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    accelerator = _accelerator(config, out)
    base = base or Path.cwd()
    world = None if config.world is None else config.world.build(config.seed, base)
    with Run.create(out, config.model_dump(mode="json"), resume=resume, writer=accelerator.is_main_process) as run:
        context = Context(run, config, world, base, accelerator, on_event)
        _manifest(context)
        if config.cross_validate is not None:
            cross_validate(context, config.cross_validate)
        else:
            _stages(context, wanted)
        _manifest(context)
        rows = run.metrics()
        context.tell(Event(kind="done", stage=wanted[-1], text=str(out)))
    accelerator.end_training()
    metrics = dict(rows[-1]["metrics"]) if rows else {}
    return RunResult(root=out, stages=wanted, arms=tuple(a.name for a in config.arms), wall_s=time.perf_counter() - began, metrics=metrics)


def _stages(context: Context, wanted: tuple[str, ...]) -> None:
    """SFT, preferences and reward model, arms: as far as asked."""
    if "policy" in wanted and context.config.policy is not None:
        check_rewards(context)
        check_probe(context)
    policy = sft_policy(context)
    if "reward" not in wanted:
        return
    pairs = context.config.needs_pairs()
    pool = preference_pairs(context, policy, "train") if pairs else []
    groups = training_groups(context, pool)
    reward = first_reward(context, policy, groups) if context.config.reward is not None else None
    held_out = preference_pairs(context, policy, "validation") if pairs else list(context.world.preferences("validation"))
    if reward is not None:
        _examine(context, held_out, reward)
        calibrate(context, FIRST, reward, held_out)
    if "policy" in wanted:
        shared = Shared(context=context, policy=policy, groups=groups, held_out=held_out)
        for arm in context.config.arms:
            run_arm(context, arm, reward, pool, shared)


def _until(stages: tuple[str, ...] | None) -> tuple[str, ...]:
    """The stages from the first to the last one asked for."""
    if not stages:
        return STAGES
    unknown = set(stages) - set(STAGES)
    if unknown:
        raise UserError(f"no stage {sorted(unknown)}. Stages: {', '.join(STAGES)}.")
    return STAGES[: max(STAGES.index(s) for s in stages) + 1]


def _accelerator(config: RunConfig, out: Path) -> Accelerator:
    trackers = list(config.report_to)
    accelerator = Accelerator(
        cpu=config.device == "cpu",
        mixed_precision=config.mixed_precision,
        log_with=trackers or None,
        project_config=ProjectConfiguration(project_dir=str(out), logging_dir=str(out / "trackers")) if trackers else None,
    )
    if trackers:
        accelerator.init_trackers("trueup")
    return accelerator


def _examine(context: Context, pairs: Sequence[Preference], reward: LearnedReward) -> None:
    """Records of the held-out pairs under the first reward model."""
    if context.run.done("offline") is not None or not pairs:
        return
    records = offline_records(context, pairs, "validation", reward)
    if context.accelerator.is_main_process:
        context.run.write_records("offline", records)
        wins = [a.scores[FIRST] - b.scores[FIRST] for a, b in zip(records[::2], records[1::2], strict=True)]
        accuracy = sum((w > 0) + 0.5 * (w == 0) for w in wins) / len(wins)
        context.run.mark_done("offline", {"pairs": len(pairs), "accuracy": accuracy})
        context.note(REWARD, f"accuracy {accuracy:.3f} on {len(pairs)} held-out pairs")


def _manifest(context: Context) -> None:
    if not context.accelerator.is_main_process:
        return
    config = context.config
    rows = [[p.id, str(p.text)] for s in SPLITS for p in context.world.prompts(s)] if config.world is not None else []
    context.run.write_manifest(
        name=config.name,
        seed=config.seed,
        config_digest=config.digest(),
        data_digest=digest(rows),
        device=str(context.accelerator.device),
        processes=context.accelerator.num_processes,
        threads=torch.get_num_threads(),
        arms=[a.name for a in config.arms] if config.world is not None else [],
        main_arm=config.arms[0].name if config.world is not None else None,
    )
