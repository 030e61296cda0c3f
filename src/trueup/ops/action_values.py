"""Values of tokens as actions. Shapes: B replies, T reply tokens, n tokens, V vocabulary; values are in reward units."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from trueup.ops.masking import keep


def expectile_loss(error: Float[Tensor, "*shape"], expectile: float) -> Float[Tensor, "*shape"]:
    """|expectile - [error < 0]| error^2 (Kostrikov et al. 2021, arXiv:2110.06169, eq. 4): any shape -> the same.

    Args:
        error: target less estimate.
        expectile: between 0 and 1; at 0.5 the estimate is the mean of the targets, towards 1 it goes to the greatest.
    """
    return torch.where(error < 0, 1 - expectile, expectile) * error**2


def step_target(reward: Float[Tensor, "B T"], value: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"], gamma: float) -> Float[Tensor, "B T"]:
    """reward_t + gamma value_{t+1}, with no value after a reply's last token: [B, T] each -> [B, T], 0 where masked.

    Args:
        reward: given for the token.
        value: of the state before the token.
        mask: True on reply tokens, which stand side by side.
        gamma: discount per token.
    """
    value = keep(value, mask)
    following = torch.cat([value[:, 1:], torch.zeros_like(value[:, :1])], 1)
    return keep(reward + gamma * following, mask)


def tilted_logprobs(logits: Float[Tensor, "n V"], value: Float[Tensor, "n V"], strength: float) -> Float[Tensor, "n V"]:
    """log of softmax(logits + strength value): [n, V], [n, V] -> [n, V] nats; what depends on the state alone changes nothing.

    Args:
        logits: of the policy that is tilted.
        value: of each next token.
        strength: nats per unit of value; 0 leaves the policy, towards infinity only the best token remains.
    """
    return (logits.float() + strength * value).log_softmax(-1)
