"""A critic: numbers a reply token, the values of the state before that token is written."""

from __future__ import annotations

import copy
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trueup.core.errors import UserError
from trueup.data.tokens import Sequences, same_tokenizer
from trueup.learn.as_forward import as_forward
from trueup.models.llama import lean_trunk, reply_states
from trueup.models.loading import recompute_activations
from trueup.models.policy import DTYPES, Policy, Precision, autocast, base_of, has_adapter, merged
from trueup.models.reward import RewardModel, TrunkReward


class ValueModel(nn.Module):
    """A decoder trunk with a linear head, zero at first, so that the first values are 0.

    Args:
        trunk: a transformers base model that returns ``last_hidden_state``.
        width: its hidden size.
        outputs: values a token.
        precision: of matrix products in the trunk; values are float32.
    """

    def __init__(self, trunk: nn.Module, width: int, outputs: int = 1, precision: Precision = "float32") -> None:
        super().__init__()
        self.trunk, self.head, self.precision = trunk, nn.Linear(width, outputs), precision
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, sequences: Sequences) -> Tensor:
        """[B, T] float32, the first of the `values`."""
        return self._values(sequences)[..., 0].clone()  # a view would hide in-place changes from split weights

    def values(self, sequences: Sequences) -> Tensor:
        """[B, T, H] float32; position t sees the prompt and the reply's tokens before t. What stands in padding means nothing."""
        return as_forward(self, partial(self._values, sequences))

    def states(self, sequences: Sequences) -> Tensor:
        """[B, T, W] what the head reads, in its precision."""
        return as_forward(self, partial(self._states, sequences))

    def _values(self, sequences: Sequences) -> Tensor:
        return F.linear(self._states(sequences), self.head.weight, self.head.bias).float()

    def _states(self, sequences: Sequences) -> Tensor:
        before = Sequences(tokens=sequences.tokens[:, :-1], prompt_mask=sequences.prompt_mask, mask=sequences.mask[:, 1:])
        lean = lean_trunk(self.trunk)
        if lean is not None:
            first, later = reply_states(lean, before, DTYPES[self.precision])
            hidden = torch.cat([first[:, None], later], 1)
        else:
            inputs = {"input_ids": before.tokens, "attention_mask": before.attention(), "position_ids": before.positions()}
            with autocast(before.tokens.device, self.precision):
                hidden = self.trunk(**inputs, use_cache=False).last_hidden_state[:, -sequences.mask.shape[1] :]
        return hidden.to(self.head.weight.dtype)


def value_from_policy(policy: Policy, outputs: int = 1) -> ValueModel:
    """A critic on a copy of the policy's trunk, its head zero (Ziegler et al. 2019); of an adapted policy, on a copy with its own adapter.

    Args:
        policy: whose trunk is copied.
        outputs: values a token.
    """
    trunk = copy.deepcopy(base_of(policy.model).base_model)
    if not has_adapter(policy.model):
        trunk.requires_grad_(True)
    return _ready(ValueModel(trunk, policy.model.config.hidden_size, outputs, policy.precision), policy)


def value_from_reward(model: RewardModel, policy: Policy, gain: float = 1.0, shift: float = 0.0) -> ValueModel:
    """A critic on a copy of a reward model: what it says of the text so far is the first estimate of what the whole will get.

    Args:
        model: a causal trunk with the policy's tokenizer; the first of its outputs counts.
        policy: where the critic will be used.
        gain: of the reward's scale, so that values are in reward units.
        shift: likewise.

    Raises:
        UserError: the model reads whole texts, or other tokens than the policy writes.

    Source: Stiennon et al. 2020 (arXiv:2009.01325, appendix B.1).
    """
    if not isinstance(model, TrunkReward):
        raise UserError("a critic reads token by token, and this reward model reads the whole text. Use a causal trunk, or critic: policy.")
    if not same_tokenizer(model.tokenizer, policy.tokenizer):
        raise UserError(
            "the reward model has another tokenizer than the policy, so it cannot say what the policy's tokens are worth. "
            "Train it on the policy's trunk (`reward.model.trunk: policy`), or use critic: policy."
        )
    source = merged(model.model)
    trunk = copy.deepcopy(source.base_model)
    trunk.requires_grad_(True)
    critic = ValueModel(trunk, source.config.hidden_size, precision=model.precision)
    with torch.no_grad():
        head = model.head
        critic.head.weight.copy_(gain * head.weight[:1])
        critic.head.bias.fill_(shift + (gain * float(head.bias[0]) if head.bias is not None else 0.0))
    return _ready(critic, policy)


def _ready(critic: ValueModel, policy: Policy) -> ValueModel:
    critic = critic.to(device=policy.model.device, dtype=torch.float32).eval()
    if any(getattr(m, "gradient_checkpointing", False) for m in policy.model.modules()):
        recompute_activations(critic.trunk)
    return critic
