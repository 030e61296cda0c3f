"""One arm: optimise the policy against the reward in force, pause, true the reward model up, go on."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch

from trueup.core.rng import Key
from trueup.data.rows import Preference
from trueup.decoding.rollout import Rollout
from trueup.loop.state import load_state
from trueup.loop.train import Step
from trueup.models.policy import Policy, Reference, reference_of
from trueup.optimizers.protocol import Parts
from trueup.pipeline.arm_config import ArmConfig
from trueup.pipeline.calibrate import calibrate
from trueup.pipeline.config import PolicyStageConfig
from trueup.pipeline.context import Context
from trueup.pipeline.feed import feed
from trueup.pipeline.measure import Proxies
from trueup.pipeline.members import Shared
from trueup.pipeline.preferences import Scorer, score_offline
from trueup.pipeline.probe import probe
from trueup.pipeline.reward import CLEAN, FIRST, Fit, clean_reward, fitted, refit_groups
from trueup.pipeline.reward_models import adapted, read_reward
from trueup.pipeline.sampling import decoding_of, replies_of, write
from trueup.pipeline.sources import Sources
from trueup.pipeline.steps import run_steps
from trueup.pipeline.supervised import sft_policy
from trueup.pipeline.watching import check_judge, compared, mean_gold, probed, said, stopped_at
from trueup.realign.config import RealignConfig
from trueup.realign.frft import plan_refit
from trueup.realign.select.protocol import PolicySample
from trueup.realign.trigger import due, pause_steps
from trueup.rewards.absent import AbsentReward
from trueup.rewards.config import every
from trueup.rewards.in_force import RewardInForce
from trueup.rewards.learned import LearnedReward
from trueup.store.atomic import atomic_folder

STAGE = "policy"


@dataclass
class Arm:
    """What changes while an arm runs."""

    config: ArmConfig
    policy: Policy
    reference: Reference
    rewards: dict[str, LearnedReward]
    """Every reward model of the arm so far; the last is in force. Empty in a run without one."""
    in_force: RewardInForce
    """What the optimizer sees."""
    proxies: Proxies | None = None
    """Set where the arm optimises something else than its reward model alone, or gold."""
    refit_kl_nats: float = 0.0
    """KL at the last refit."""
    gold: dict[int, float] = field(default_factory=dict)
    """Mean gold of the probes so far, by step; for the line that is said of each."""
    stopped_at: int | None = None
    """The step at which it was stopped early."""

    @property
    def current(self) -> str | None:
        """Id of the reward model in force."""
        return next(reversed(self.rewards), None)

    @property
    def first(self) -> str | None:
        """Id of the reward model it began with."""
        return next(iter(self.rewards), None)


def run_arm(context: Context, config: ArmConfig, first: LearnedReward | None, pool: list[Preference], shared: Shared) -> None:
    """Run one arm from the SFT policy to its end; nothing if that was done."""
    stage, done = context.config.policy, f"{config.name}/{STAGE}"
    if stage is None or context.run.done(done) is not None:
        return
    policy = sft_policy(context)
    optimizer = config.optimizer or stage.optimizer
    size = config.prompts_per_step or stage.prompts_per_step
    batch_of = feed(context, optimizer, policy, pool, size, context.key / STAGE / "data")
    arm = _begun(context, config, policy, first, pool, shared)
    learner = optimizer.build(_parts(context, arm, stage))
    steps_done = _steps_done(context, config)
    if steps_done == 0:
        _measure(context, arm, 0)
    else:
        _remember(context, arm, steps_done)

    def after(step: Step) -> bool:
        taken = step.index + 1
        if taken % context.config.probe.every == 0 or taken == stage.steps:
            _measure(context, arm, taken)
        return arm.stopped_at is not None

    pauses = pause_steps(config.realign, stage.steps) if config.realign else []
    for stop in [*pauses, stage.steps]:
        if arm.stopped_at is not None:
            break
        run_steps(
            context,
            STAGE,
            learner,
            batch_of,
            steps=stage.steps,
            loop=config.loop or stage.loop,
            key=context.key / STAGE,
            arm=config.name,
            stop=stop,
            after=after,
        )
        if config.realign and stop != stage.steps and arm.stopped_at is None:
            _pause(context, arm, config.realign, pool, stop, shared)
    taken = {"steps": stage.steps} if arm.stopped_at is None else {"steps": arm.stopped_at, "stopped_early": True}
    context.run.mark_done(done, {**taken, "refits": max(len(arm.rewards) - 1, 0)})


def _begun(context: Context, config: ArmConfig, policy: Policy, first: LearnedReward | None, pool: list[Preference], shared: Shared) -> Arm:
    """The arm before its first step, its reward built, the held-out pairs scored by what it optimises."""
    rewards = {} if first is None else {FIRST: first}
    if any(part.kind == "clean" for part in every(config.reward)):
        rewards = {CLEAN: clean_reward(context, policy, pool)}
        _score_offline(context, CLEAN, rewards[CLEAN].raw)
        calibrate(context, CLEAN, rewards[CLEAN], shared.held_out)
    sources = Sources(shared, next(iter(rewards.values()), None))
    if config.reward.kind == "learned" and not rewards:  # `check_arms` let it pass: the optimizer uses no reward
        return Arm(config, policy, reference_of(policy), rewards, RewardInForce(AbsentReward()))
    reward = sources.build(config.reward)
    proxies = None
    if config.reward.kind not in ("learned", "clean") and (config.reward.kind != "gold" or not rewards):
        proxies = Proxies(name=f"{config.name}/reward", fixed=reward, current=reward, uncertain=sources.only_uncertain)
        if sources.covers([p.prompt for p in shared.held_out], config.reward):
            _score_offline(context, proxies.name, reward.score)
    return Arm(config, policy, reference_of(policy), rewards, RewardInForce(reward), proxies)


def _score_offline(context: Context, name: str, score: Scorer) -> None:
    if context.accelerator.is_main_process:
        score_offline(context, name, score)


def _parts(context: Context, arm: Arm, stage: PolicyStageConfig) -> Parts:
    accelerator = context.accelerator

    def add(x: torch.Tensor) -> torch.Tensor:
        return accelerator.reduce(x, "sum") if accelerator.num_processes > 1 else x

    return Parts(
        policy=arm.policy,
        reference=arm.reference,
        reward=arm.in_force,
        rollout=Rollout(arm.policy, stage.rollout_precision),
        sum_over_processes=add,
        demonstrations=context.demonstrations,
    )


def _steps_done(context: Context, config: ArmConfig) -> int:
    state = load_state(context.run.state(f"{config.name}/{STAGE}"))
    return state.step if state else 0


def _measure(context: Context, arm: Arm, step: int) -> None:
    """Records of the present policy, what they say so far, and the policy itself."""
    records = probe(
        context, arm.policy, arm.reference, arm.rewards, arm=arm.config.name, step=step, first=arm.first, current=arm.current,
        proxies=arm.proxies,
    )  # fmt: skip
    rule, found = arm.config.early_stop, None
    if rule is not None and step == 0:
        check_judge(context, arm.config.name, rule, records)
    elif rule is not None:
        found = compared(context, arm.config.name, rule, records, step)
        arm.stopped_at = found.stop_step
    gold = mean_gold(records)
    arm.gold |= {} if gold is None else {step: gold}
    context.note(STAGE, said(records, step, arm.gold, found), arm.config.name)
    if not context.accelerator.is_main_process:
        return
    context.run.write_records(f"{arm.config.name}-{step:06d}", records)
    last = context.config.policy.steps if context.config.policy else step
    if context.config.probe.keep_policies == "all" or step == last or arm.stopped_at is not None:
        with atomic_folder(context.run.checkpoint(f"{arm.config.name}/policy-{step:06d}")) as new:
            arm.policy.save(new)


def _remember(context: Context, arm: Arm, done: int) -> None:
    """What a resumed arm knew after so many steps, from its records."""
    table = probed(context, arm.config.name, done + 1)
    if len(table) and "gold" in table:
        plain = table[table["variant"].isna()] if "variant" in table else table
        arm.gold = {int(s): float(g) for s, g in plain.groupby("step")["gold"].mean().dropna().items()}
    if arm.config.early_stop is not None:
        arm.stopped_at = stopped_at(context, arm.config.name, arm.config.early_stop, done)


def _pause(context: Context, arm: Arm, config: RealignConfig, pool: list[Preference], step: int, shared: Shared) -> None:
    """Freeze the policy and, if the trigger says so, fine-tune the reward model on the part of the offline set that looks like it."""
    name = f"refit-{step:06d}"
    stage, run = f"{arm.config.name}/{name}", context.run
    key = context.key / "realign" / step
    facts = run.done(f"{stage}-plan")
    if facts is None:
        facts = _plan(context, arm, config, pool, key)
        if context.accelerator.is_main_process:
            run.mark_done(f"{stage}-plan", facts)
    if not facts["refit"]:
        return
    new_id = f"{arm.config.name}/rm-{len(arm.rewards)}"
    start = arm.first if config.start_from == "first" else arm.current
    source = arm.rewards[start].folder if start else None
    assert source is not None
    fit = Fit(
        name=name, arm=arm.config.name, groups=refit_groups(context, [pool[i] for i in facts["rows"]]),
        objective=context.reward_stage.objective, epochs=config.epochs, batch_size=config.batch_size, loop=config.loop, key=key / "fit",
    )  # fmt: skip
    folder = f"{arm.config.name}/reward-{step:06d}"
    arm.rewards[new_id] = fitted(
        context, fit, lambda: adapted(read_reward(context, source), context.reward_stage, key / "adapter"), arm.policy, folder
    )
    arm.refit_kl_nats = facts["kl_nats"]
    _score_offline(context, new_id, arm.rewards[new_id].raw)
    calibrate(context, new_id, arm.rewards[new_id], shared.held_out)
    if arm.config.reward.kind != "gold":
        sources = Sources(shared, arm.rewards[new_id])
        arm.in_force.reward = sources.build(arm.config.reward)
        if arm.proxies is not None:
            arm.proxies = replace(arm.proxies, current=arm.in_force.reward, uncertain=sources.only_uncertain)


def _plan(context: Context, arm: Arm, config: RealignConfig, pool: list[Preference], key: Key) -> dict[str, Any]:
    prompts = list(context.world.prompts("train"))
    picked = [prompts[int(i)] for i in (key / "prompts").permutation(len(prompts))[: config.prompts]]
    written = write(arm.policy, picked, decoding_of(context), key / "samples", samples=config.samples_per_prompt)
    rows, replies = replies_of(written)
    with torch.no_grad():
        gaps = [(arm.policy.logprobs(w.sequences) - arm.reference.logprobs(w.sequences)).sum(1) for w in written]
    kl = float(torch.cat(gaps).mean())
    if not due(config, len(arm.rewards) - 1, kl, arm.refit_kl_nats):
        return {"refit": False, "kl_nats": kl}
    samples = [PolicySample(prompt=p, reply=r) for p, r in zip(rows, replies, strict=True)]
    plan = plan_refit(pool, samples, config, context.embedder if config.select.needs_embeddings else None, key)
    if config.select.needs_embeddings:
        context.embedder.flush()
    return {"refit": True, "kl_nats": kl, **asdict(plan)}
