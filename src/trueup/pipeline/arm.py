"""One arm: optimise the policy against the reward in force, pause, true the reward model up, go on."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from trueup.core.errors import UserError
from trueup.core.rng import Key, epoch_rows
from trueup.data.rows import Conversation, Preference, Prompt, Reply
from trueup.data.tokens import encode_prompts
from trueup.decoding.rollout import Rollout
from trueup.loop.state import load_state
from trueup.loop.train import Step
from trueup.models.policy import Policy, Reference, load_policy, reference_of
from trueup.optimizers.experience import PromptBatch
from trueup.optimizers.protocol import Parts
from trueup.pipeline.config import ArmConfig, PolicyStageConfig
from trueup.pipeline.context import Context
from trueup.pipeline.preferences import score_offline
from trueup.pipeline.probe import probe
from trueup.pipeline.reward import FIRST, clean_reward, fitted, gold_scores, read_reward
from trueup.pipeline.sampling import decoding_of, reference_samples, replies_of, write
from trueup.pipeline.steps import run_steps
from trueup.pipeline.supervised import lora_of
from trueup.realign.config import RealignConfig
from trueup.realign.frft import plan_refit
from trueup.realign.select.protocol import PolicySample
from trueup.realign.trigger import due, pause_steps
from trueup.rewards.in_force import RewardInForce
from trueup.rewards.learned import LearnedReward, measure_scale
from trueup.rewards.programmed import ProgrammedReward
from trueup.rewards.protocol import Reward
from trueup.store.atomic import atomic_folder

STAGE = "policy"


@dataclass
class Arm:
    """What changes while an arm runs."""

    config: ArmConfig
    policy: Policy
    reference: Reference
    rewards: dict[str, LearnedReward]
    """Every reward model of the arm so far; the last is in force."""
    in_force: RewardInForce
    """What the optimizer sees."""
    refit_kl_nats: float = 0.0
    """KL at the last refit."""

    @property
    def current(self) -> str:
        """Id of the reward model in force."""
        return next(reversed(self.rewards))


def run_arm(context: Context, config: ArmConfig, first: LearnedReward, pool: list[Preference]) -> None:
    """Run one arm from the SFT policy to its end; nothing if that was done."""
    stage, done = context.config.policy, f"{config.name}/{STAGE}"
    if stage is None or context.run.done(done) is not None:
        return
    policy = load_policy(context.run.checkpoint("sft"), lora=lora_of(context.config.policy_model), precision=context.precision)
    if config.reward == "clean":
        first = clean_reward(context, policy, pool)
    arm = Arm(config, policy, reference_of(policy), {FIRST: first}, RewardInForce(_gold(context) if config.reward == "gold" else first))
    learner = (config.optimizer or stage.optimizer).build(_parts(context, arm, stage))
    batch_of = _prompt_batches(context, policy, stage)
    if _steps_done(context, config) == 0:
        _measure(context, arm, 0)

    def after(step: Step) -> None:
        taken = step.index + 1
        if taken % context.config.probe.every == 0 or taken == stage.steps:
            _measure(context, arm, taken)

    pauses = pause_steps(config.realign, stage.steps) if config.realign else []
    for stop in [*pauses, stage.steps]:
        run_steps(
            context,
            STAGE,
            learner,
            batch_of,
            steps=stage.steps,
            loop=stage.loop,
            key=context.key / STAGE,
            arm=config.name,
            stop=stop,
            after=after,
        )
        if config.realign and stop != stage.steps:
            _pause(context, arm, config.realign, pool, stop)
    context.run.mark_done(done, {"steps": stage.steps, "refits": len(arm.rewards) - 1})


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
    )


def _gold(context: Context) -> Reward:
    """The world's truth as a reward, on the same scale as a reward model's: a control."""
    prompts, replies = reference_samples(context)
    scale = measure_scale(torch.tensor(gold_scores(context.world, prompts, replies)))

    def program(texts: Sequence[Conversation], rows: Sequence[Reply]) -> list[float]:
        return gold_scores(context.world, [known.get(t) or Prompt(id="", text=t) for t in texts], rows)

    known = {p.text: p for p in context.world.prompts("train")}
    return ProgrammedReward(program, scale.gain, scale.shift)


def _prompt_batches(context: Context, policy: Policy, stage: PolicyStageConfig) -> Callable[[int], PromptBatch]:
    prompts = list(context.world.prompts("train"))
    if not prompts:
        raise UserError("the world has no training prompts for the policy.", where="world")
    ids = [tuple(row) for row in encode_prompts(policy.tokenizer, [p.text for p in prompts])]
    key = context.key / STAGE / "data"

    def batch_of(step: int) -> PromptBatch:
        picked = epoch_rows(key, len(prompts), stage.prompts_per_step, step)
        return PromptBatch(
            row=torch.arange(len(picked)), prompt=tuple(prompts[int(i)].text for i in picked), ids=tuple(ids[int(i)] for i in picked)
        )

    return batch_of


def _steps_done(context: Context, config: ArmConfig) -> int:
    state = load_state(context.run.state(f"{config.name}/{STAGE}"))
    return state.step if state else 0


def _measure(context: Context, arm: Arm, step: int) -> None:
    """Records of the present policy, and the policy itself."""
    records = probe(context, arm.policy, arm.reference, arm.rewards, arm=arm.config.name, step=step, current=arm.current)
    if not context.accelerator.is_main_process:
        return
    context.run.write_records(f"{arm.config.name}-{step:06d}", records)
    last = context.config.policy.steps if context.config.policy else step
    if context.config.probe.keep_policies == "all" or step == last:
        with atomic_folder(context.run.checkpoint(f"{arm.config.name}/policy-{step:06d}")) as new:
            arm.policy.save(new)


def _pause(context: Context, arm: Arm, config: RealignConfig, pool: list[Preference], step: int) -> None:
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
    start = FIRST if config.start_from == "first" else arm.current
    pairs = [pool[i] for i in facts["rows"]]
    folder = run.checkpoint(f"{arm.config.name}/reward-{step:06d}")
    source = arm.rewards[start].folder
    assert source is not None
    arm.rewards[new_id] = fitted(
        context, name, arm.config.name, read_reward(context, source), pairs, arm.policy, objective=context.config.reward.objective,
        steps=math.ceil(len(pairs) * config.epochs / config.batch_size), batch_size=config.batch_size, loop=config.loop, key=key / "fit",
        folder=folder,
    )  # fmt: skip
    arm.refit_kl_nats = facts["kl_nats"]
    if context.accelerator.is_main_process:
        score_offline(context, new_id, arm.rewards[new_id])
    if arm.config.reward != "gold":
        arm.in_force.reward = arm.rewards[new_id]


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
