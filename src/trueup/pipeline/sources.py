"""What an arm's reward is built from: the run's models, its world, its SFT policy."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from trueup.core.errors import UserError
from trueup.core.rng import epoch_rows
from trueup.data.rows import Conversation, Prompt, Reply
from trueup.data.turns import prompt_id
from trueup.models.embedding_reward import Features
from trueup.models.policy import load_policy
from trueup.models.reward import RewardModel
from trueup.optimizers.actor_critic import ActorCriticConfig
from trueup.optimizers.pretraining import check_mix
from trueup.pipeline.arm_config import ArmConfig
from trueup.pipeline.config import resolve_path
from trueup.pipeline.context import Context
from trueup.pipeline.members import Shared, average, last_layer, members, shared_trunk
from trueup.pipeline.preferences import SPLITS
from trueup.pipeline.reward import gold_scores
from trueup.pipeline.sampling import decoding_of, reference_samples, replies_of, write
from trueup.rewards.config import Differ, RewardConfig, Uncertain, every
from trueup.rewards.dense_reward import SegmentReward, load_dense
from trueup.rewards.learned import LearnedReward, Scale, measure_scale
from trueup.rewards.programmed import ProgrammedReward
from trueup.rewards.protocol import Reward
from trueup.store.atomic import write_text


@dataclass
class Sources:
    """See `trueup.rewards.config.RewardSources`; one for each reward that is built."""

    shared: Shared
    in_force: LearnedReward | None
    """The reward model in force; None in a run without one."""
    uncertain: list[Uncertain] = field(default_factory=list)
    """Parts built so far that say how unsure they are."""

    @property
    def context(self) -> Context:
        """The run."""
        return self.shared.context

    def build(self, config: RewardConfig) -> Reward:
        """A reward; what can say how unsure it is, is noted."""
        reward = config.build(self)
        if isinstance(reward, Uncertain):
            self.uncertain.append(reward)
        return reward

    @property
    def only_uncertain(self) -> Uncertain | None:
        """The one part that says how unsure it is; None without one, or with several, whose units may differ."""
        return self.uncertain[0] if len(self.uncertain) == 1 else None

    def covers(self, prompts: Sequence[Prompt], config: RewardConfig) -> bool:
        """Whether all that a reward needs to know of these prompts is known."""
        known = [self.known(tag) for part in every(config) for tag in part.tags()]
        return all(_name(p.text) in table for table in known for p in prompts)

    def model(self) -> Reward:
        """The reward model in force."""
        if self.in_force is None:
            raise UserError("this needs a reward model, but 'reward' is null.", where="arms")
        return self.in_force

    def gold(self) -> Reward:
        """The world's truth, on the same scale as a reward model's scores."""
        world = self.context.world
        prompts, replies = reference_samples(self.context)
        scale = measure_scale(torch.tensor(gold_scores(world, prompts, replies)))

        def program(texts: Sequence[Conversation], rows: Sequence[Reply]) -> list[float]:
            return gold_scores(world, [known.get(_name(t)) or Prompt(id="", text=t) for t in texts], rows)

        known = {_name(p.text): p for split in SPLITS for p in world.prompts(split)}
        return ProgrammedReward(program, scale.gain, scale.shift)

    def members(self, differ: Differ, count: int, trunks: Sequence[str] | None) -> list[LearnedReward]:
        """The run's own reward model and others that differ from it."""
        return members(self.shared, differ, count, trunks)

    def shared_trunk(self, count: int, seen_share: float) -> tuple[RewardModel, list[Scale]]:
        """One model with so many heads."""
        return shared_trunk(self.shared, count, seen_share)

    def average(self, differ: Differ, count: int, trunks: Sequence[str] | None) -> Reward:
        """One model with averaged weights."""
        return average(self.shared, differ, count, trunks)

    def last_layer(self, features: Features, references: int, deviations: float) -> Reward:
        """A Bayesian head on the run's embeddings."""
        return last_layer(self.shared, features, self.references(references), deviations)

    def dense(self, path: str) -> SegmentReward:
        """A dense reward model and the policy's tokenizer."""
        return load_dense(resolve_path(path, self.context.base), self.shared.policy.tokenizer)

    def deviation(self, reward: Reward) -> float:
        """Of scores on the reference samples."""
        prompts, replies = reference_samples(self.context)
        return 1 / measure_scale(reward.score([p.text for p in prompts], replies)).gain

    def known(self, tag: str) -> Mapping[str, str]:
        """Tags of all prompts that carry one."""
        return {_name(p.text): p.tags[tag] for s in SPLITS for p in self.context.world.prompts(s) if p.tags.get(tag)}

    def references(self, count: int) -> Mapping[str, Sequence[Reply]]:
        """Replies of the SFT policy, sampled once and kept in the run folder."""
        path = self.context.run.root / "data" / f"references-{count}.jsonl"
        if not path.exists():
            rows = _sampled(self.context, count, [p.prompt for p in self.shared.held_out])
            if self.context.accelerator.is_main_process:
                write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
            self.context.accelerator.wait_for_everyone()
        found: dict[str, list[Reply]] = {}
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            found.setdefault(row["prompt"], []).append(Reply(text=row["text"], finished=row["finished"]))
        return found


def check_rewards(context: Context) -> None:
    """Whether the world has what the arms' rewards and optimizers need of it, before anything is trained.

    Raises:
        UserError: it does not; arm, tag and a prompt are named.
    """
    for arm in context.config.arms:
        if any(part.kind in ("gold", "clean") for part in every(arm.reward)):
            gold_scores(context.world, [], [])
        optimizer = arm.optimizer or (context.config.policy.optimizer if context.config.policy else None)
        if isinstance(optimizer, ActorCriticConfig):
            check_mix(optimizer.ptx_coef, context.world.demonstrations())
        for tag in dict.fromkeys(t for part in every(arm.reward) for t in part.tags()):
            prompts = [p for split in ("train", "test") for p in context.world.prompts(split)]
            lacking = [p for p in prompts if not p.tags.get(tag)]
            if lacking:
                shown = str(lacking[0].text)[:60]
                raise UserError(
                    f"{_kind_with(arm, tag)} needs the tag '{tag}' of every prompt, but {len(lacking)} of {len(prompts)} lack it, such as "
                    f"'{shown}'. With the world 'files', name the field in world.tags and give it in every row of the prompts file.",
                    where=f"arm '{arm.name}'",
                )


def _kind_with(arm: ArmConfig, tag: str) -> str:
    return next(part.kind for part in every(arm.reward) if tag in part.tags())


def _sampled(context: Context, count: int, held_out: Sequence[Prompt]) -> list[dict[str, object]]:
    """Replies to every prompt that training, probes and held-out pairs ask about."""
    world, stage = context.world, context.config.policy
    train, wanted = list(world.prompts("train")), [*world.prompts("test"), *held_out]
    if stage is not None:
        key = context.key / "policy" / "data"
        sizes = {arm.prompts_per_step or stage.prompts_per_step for arm in context.config.arms}
        visited = {int(i) for size in sizes for step in range(stage.steps) for i in epoch_rows(key, len(train), size, step)}
        wanted += [train[i] for i in sorted(visited)]
    # the reference samples, on which scores are rescaled, are of training prompts too
    wanted += reference_samples(context)[0]
    prompts = list({_name(p.text): p for p in wanted}.values())
    policy = load_policy(context.run.checkpoint("sft"), precision=context.precision)
    rows, replies = replies_of(write(policy, prompts, decoding_of(context), context.key / "references", samples=count))
    return [{"prompt": _name(p.text), "text": r.text, "finished": r.finished} for p, r in zip(rows, replies, strict=True)]


def _name(text: Conversation) -> str:
    """How `trueup.rewards.known.known_of` finds a prompt."""
    return text if isinstance(text, str) else prompt_id(text)
