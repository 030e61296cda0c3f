"""A critic: one number a reply token, the value of the state before that token is written."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from trueup.data.tokens import Sequences
from trueup.models.policy import Policy


class ValueModel(nn.Module):
    """A decoder trunk with a scalar head.

    Args:
        trunk: a transformers base model that returns ``last_hidden_state``.
        width: its hidden size.
    """

    def __init__(self, trunk: nn.Module, width: int) -> None:
        super().__init__()
        self.trunk, self.head = trunk, nn.Linear(width, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, sequences: Sequences) -> Tensor:
        """[B, T] float32 values; position t sees the prompt and the reply's tokens before t."""
        hidden = self.trunk(
            input_ids=sequences.tokens,
            attention_mask=sequences.attention(),
            position_ids=sequences.positions(),
            use_cache=False,
        ).last_hidden_state
        width = sequences.mask.shape[1]
        return self.head(hidden[:, -width - 1 : -1]).squeeze(-1).float()


def value_from_policy(policy: Policy) -> ValueModel:
    """A critic on a copy of the policy's trunk, its head zero so that the first values are 0 (Ziegler et al. 2019)."""
    trunk = copy.deepcopy(policy.model.base_model)
    trunk.requires_grad_(True)
    model = ValueModel(trunk, policy.model.config.hidden_size)
    return model.to(device=policy.model.device, dtype=torch.float32).eval()
