"""The models of `trueup decode`, from their folders."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from trueup.core.errors import UserError
from trueup.data.rows import Prompt
from trueup.decoding.protocol import DecodingParts
from trueup.decoding.rollout import Rollout
from trueup.decoding.tree import TreeReader, policy_tree, reward_tree, value_tree
from trueup.loop.state import load_state
from trueup.models.policy import Policy, context_of, load_policy
from trueup.models.reward import TrunkReward, load_reward, shared_tokenizer
from trueup.models.token_outputs import needs_trunk
from trueup.models.value import ValueModel, value_from_policy
from trueup.pipeline.config import resolve_path
from trueup.pipeline.decode_config import DecodeConfig
from trueup.rewards.learned import LearnedReward, Scale, read_scale

CRITIC = "weights/critic/"


@dataclass(frozen=True, kw_only=True)
class DecodeModels:
    """What was loaded."""

    policy: Policy
    reference: Policy | None
    rewards: dict[str, LearnedReward]
    """``rm-0``, ``rm-1``, ...; the first guides."""
    value: ValueModel | TrunkReward | None

    @property
    def guide(self) -> LearnedReward | None:
        """The reward model that guides; None without any."""
        return next(iter(self.rewards.values()), None)


def load_models(config: DecodeConfig, base: Path) -> DecodeModels:
    """Load what a configuration names; relative paths are read from ``base``.

    Raises:
        UserError: a model is missing, damaged or of the wrong kind.
    """
    policy = load_policy(resolve_path(config.policy, base), pad_token=config.pad_token)
    reference = None
    if config.reference is not None:
        reference = load_policy(resolve_path(config.reference, base), pad_token=config.pad_token)
        if reference.tokenizer.get_vocab() != policy.tokenizer.get_vocab():
            raise UserError("has another vocabulary than the policy. A reference writes the same tokens.", where=config.reference)
    rewards = {}
    for i, name in enumerate(config.reward_models):
        path = resolve_path(name, base)
        rewards[f"rm-{i}"] = LearnedReward(load_reward(path), read_scale(Path(path)), policy.tokenizer)
    value = None if config.value is None else load_value(Path(resolve_path(config.value, base)), policy)
    return DecodeModels(policy=policy, reference=reference, rewards=rewards, value=value)


def load_value(folder: Path, policy: Policy) -> ValueModel | TrunkReward:
    """A value model: the critic in the state of a PPO arm, or a causal reward model whose scores of prefixes are taken for values.

    Args:
        folder: ``states/ARM/policy`` of a run, or a model's folder.
        policy: whose trunk the critic has.

    Raises:
        UserError: neither is there, or it does not fit the policy.
    """
    if not (folder / "state.json").is_file():
        reward = needs_trunk(load_reward(folder))
        shared_tokenizer(policy, reward)
        return reward
    state = load_state(folder)
    tensors = {} if state is None else {n.removeprefix(CRITIC): t for n, t in state.tensors.items() if n.startswith(CRITIC)}
    if not tensors:
        raise UserError("holds no critic. Give the state of an arm that was optimised with PPO.", where=str(folder))
    outputs = len(tensors["head.weight"]) if "head.weight" in tensors else 1
    model = value_from_policy(policy, outputs)
    expected = {n: p.shape for n, p in model.named_parameters()}
    if expected != {n: t.shape for n, t in tensors.items()}:
        raise UserError("its critic does not fit the policy. Give the state of the arm that trained it.", where=str(folder))
    model.load_state_dict(tensors, strict=False)
    return model.eval()


def prefix_model(config: DecodeConfig, models: DecodeModels, base: Path, fitted: Path | None) -> tuple[TrunkReward, Scale] | None:
    """The scorer of prefixes and its scale; None where no arm asks for one.

    Args:
        config: which.
        models: of which the first reward model may serve.
        base: where relative paths are read from.
        fitted: folder of a scorer that was trained here.

    Raises:
        UserError: it reads whole texts only, or other tokens than the policy writes.
    """
    if not any("prefix" in arm.decoding.needs for arm in config.arms):
        return None
    named = str(fitted) if fitted is not None else config.prefix and resolve_path(config.prefix, base)
    if named:
        model, scale = load_reward(named), read_scale(Path(named))
    elif models.guide is not None:
        model, scale = models.guide.model, models.guide.scale
    else:
        raise UserError("needs a scorer of prefixes.", where="prefix")
    shared_tokenizer(models.policy, model)
    return needs_trunk(model), scale


def parts_of(config: DecodeConfig, models: DecodeModels, prefix: tuple[TrunkReward, Scale] | None) -> DecodingParts:
    """What ways of decoding are built from."""
    policy, reference, value = models.policy, models.reference, models.value

    def values() -> TreeReader:
        assert value is not None
        return reward_tree(value) if isinstance(value, TrunkReward) else value_tree(value, policy.tokenizer.pad_token_id)

    return DecodingParts(
        tokenizer=policy.tokenizer,
        policy=lambda: policy_tree(policy),
        max_tokens=config.max_completion_length,
        temperature=config.temperature,
        rollout=Rollout(policy),
        reward=models.guide,
        prefix=None if prefix is None else lambda: reward_tree(prefix[0], prefix[1].gain, prefix[1].shift),
        value=None if value is None else values,
        reference=lambda: policy_tree(reference if reference is not None else policy),
        context=room_of(models, prefix),
    )


def room_of(models: DecodeModels, prefix: tuple[TrunkReward, Scale] | None) -> int | None:
    """Most tokens of prompt and reply that every model which reads token by token was made for; None where none says."""
    read = [models.policy.model, *([] if models.reference is None else [models.reference.model])]
    read += [] if prefix is None else [prefix[0].model]
    if models.value is not None:
        read.append(models.value.model if isinstance(models.value, TrunkReward) else models.value.trunk)
    return min((n for n in map(context_of, read) if n is not None), default=None)


def check_room(config: DecodeConfig, context: int | None, prompts: list[Prompt], ids: list[list[int]]) -> None:
    """Whether replies fit behind all prompts, before anything is written.

    Raises:
        UserError: one leaves no room; it is named.
    """
    longest = config.max_completion_length
    for prompt, row in zip(prompts, ids, strict=True):
        if context is not None and len(row) + longest > context:
            raise UserError(
                f"has {len(row)} tokens, and with {longest} of the reply that is more than the models' context of {context}. "
                "Shorten the prompt or max_completion_length.",
                where=f"prompt '{prompt.id}'",
            )
