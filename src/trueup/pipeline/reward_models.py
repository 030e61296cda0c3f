"""Reward models as objects: new ones, saved ones, ones that were trained elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from trueup.core.errors import UserError
from trueup.core.rng import Key
from trueup.models.embedding_reward import SETTINGS as EMBEDDING_SETTINGS
from trueup.models.embedding_reward import new_embedding_reward
from trueup.models.policy import LoraSettings, Policy
from trueup.models.reward import RewardModel, TrunkReward, load_reward, new_reward, reward_from_policy
from trueup.models.reward_adapter import with_adapter
from trueup.models.stacked_reward import load_text_reward
from trueup.pipeline.config import RewardModelConfig, RewardStageConfig, resolve_path
from trueup.pipeline.context import Context
from trueup.rewards.objectives.protocol import ObjectiveConfig

M = TypeVar("M", bound=RewardModel)


def new_model(
    context: Context,
    policy: Policy | None,
    config: RewardStageConfig,
    key: Key,
    *,
    path: str | None = None,
    objective: ObjectiveConfig | None = None,
    adapter: Key | None = None,
) -> RewardModel:
    """An untrained reward model, its head drawn from ``key``.

    Args:
        context: the run.
        policy: whose trunk may be copied.
        config: the settings.
        key: of the head, and of the adapter where that has no key of its own.
        path: another pretrained trunk than the settings name.
        objective: another one than the settings name; it says how many outputs the head has.
        adapter: of the adapter's first matrices.
    """
    model, outputs = config.model, (objective or config.objective).outputs
    if model.trunk == "policy" and path is None:
        if policy is None:
            raise UserError(
                "there is no policy here whose trunk could be copied. Set trunk to 'embeddings' or 'path'.", where="model.trunk"
            )
        made: RewardModel = reward_from_policy(policy, key, outputs=outputs)
    elif model.trunk == "embeddings":
        made = new_embedding_reward(
            context.embedder, key, hidden_size=model.head_width, features=model.features, source=context.config.embeddings, outputs=outputs
        )
    else:
        named = path or model.path
        if named is None:
            raise UserError("trunk 'path' needs reward.model.path, a folder or hub name.", where="reward.model")
        made = new_reward(
            resolve_path(named, context.base),
            key,
            pad_token=model.pad_token,
            rendering=model.rendering,
            precision=context.precision,
            outputs=outputs,
        )
        _limited(made, model)
    return adapted(made, config, adapter or key / "adapter")


def adapted(made: RewardModel, config: RewardStageConfig, key: Key) -> RewardModel:
    """The model with a fresh adapter drawn from ``key``, where the settings want one.

    Raises:
        UserError: an adapter is wanted, but the trunk is no causal one.
    """
    lora = config.model.lora
    if lora is None:
        return made
    if not isinstance(made, TrunkReward):
        raise UserError("only causal trunks take an adapter. Remove model.lora, or name another trunk.", where="reward.model.lora")
    return with_adapter(made, LoraSettings(rank=lora.rank, alpha=lora.alpha, targets=lora.targets), key)


def read_reward(context: Context, folder: Path) -> RewardModel:
    """A saved reward model, on the run's sentence embedder where it needs one."""
    if (folder / EMBEDDING_SETTINGS).exists():
        return load_text_reward(folder, context.embedder)
    config = context.reward_stage.model
    return _limited(load_reward(folder, precision=context.precision, rendering=config.rendering), config)


def trained_elsewhere(context: Context) -> RewardModel:
    """The reward model at ``reward.model.path``, which is not trained here."""
    config = context.reward_stage.model
    assert config.path is not None
    path = resolve_path(config.path, context.base)
    if (Path(path) / EMBEDDING_SETTINGS).exists():
        return load_text_reward(path)
    return _limited(load_reward(path, pad_token=config.pad_token, precision=context.precision, rendering=config.rendering), config)


def _limited(made: M, config: RewardModelConfig) -> M:
    if isinstance(made, TrunkReward):
        made.cut_replies, made.max_length = config.cut_replies, config.max_length
    return made
