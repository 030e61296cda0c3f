"""Reward models that train a low-rank adapter and the head instead of all weights."""

from __future__ import annotations

import warnings

from torch import nn
from transformers.pytorch_utils import Conv1D

from trueup.core.errors import UserError
from trueup.core.rng import Key
from trueup.models.loading import seeded
from trueup.models.policy import LoraSettings
from trueup.models.reward import TrunkReward


def with_adapter(reward: TrunkReward, lora: LoraSettings, key: Key) -> TrunkReward:
    """The same reward model with frozen weights, an adapter that starts as the identity, and its head still trained whole.

    Saving merges the adapter, so that the folder is like any other.

    Args:
        reward: as it is before the fit; it is changed.
        lora: rank and targets; its seed is not used.
        key: of the adapter's first matrices.

    Raises:
        UserError: the trunk has no layers of the names that are to be adapted.
    """
    from peft import LoraConfig, get_peft_model

    # by name, since "all linear layers" would take the head along
    linear = {name.rsplit(".", 1)[-1]: m for name, m in reward.model.base_model.named_modules() if isinstance(m, nn.Linear | Conv1D)}
    targets = list(lora.targets) if lora.targets else sorted(linear)
    unknown = sorted(set(targets) - set(linear))
    if unknown:
        raise UserError(f"the trunk has no linear layers named {unknown}. Its layers: {', '.join(sorted(linear))}.", where="lora.targets")
    turned = any(isinstance(linear.get(t), Conv1D) for t in targets)  # GPT-2 keeps its weights transposed
    settings = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, lora_dropout=0.0, target_modules=targets, fan_in_fan_out=turned)
    with warnings.catch_warnings(), seeded(key):
        warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers under a name that the latter is giving up
        reward.model = get_peft_model(reward.model, settings)
    reward.head.requires_grad_(True)
    return reward
