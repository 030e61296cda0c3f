"""Losses on log-probabilities of two replies to one prompt. Shapes: B pairs, column 0 the chosen reply, column 1 the rejected one; nats."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def ipo_loss(margin: Float[Tensor, " B"], tau: float) -> Float[Tensor, " B"]:
    """(margin - 1 / (2 tau))^2 (Azar et al. 2023, arXiv:2310.12036, eq. 17): [B] -> [B].

    Args:
        margin: log-ratio to the reference of the chosen reply less that of the rejected one, each summed over tokens.
        tau: strength of the pull towards the reference, above 0; the loss is 0 at a margin of 1 / (2 tau).
    """
    return (margin - 1 / (2 * tau)) ** 2


def kto_loss(
    ratio: Float[Tensor, "B 2"], reference_point: Float[Tensor, ""] | float, beta: float, desirable: float = 1.0, undesirable: float = 1.0
) -> Float[Tensor, " B"]:
    """Mean over both replies of what each lacks in value (Ethayarajh et al. 2024, arXiv:2402.01306, eq. 8): [B, 2] -> [B].

    The value of a chosen reply is sigma(beta (ratio - z)), of a rejected one sigma(beta (z - ratio)); a loss is 1 less the value.

    Args:
        ratio: log-ratio to the reference, summed over tokens.
        reference_point: z, constant.
        beta: how fast the value saturates.
        desirable: weight of chosen replies.
        undesirable: weight of rejected ones.
    """
    gain = beta * (ratio - reference_point)
    return 0.5 * (desirable * torch.sigmoid(-gain[:, 0]) + undesirable * torch.sigmoid(gain[:, 1]))


def luce_loss(logp: Float[Tensor, "B 2"]) -> Float[Tensor, " B"]:
    """-log(P(chosen) / (P(chosen) + P(rejected))): [B, 2] -> [B]; a shift of both changes nothing."""
    return F.softplus(logp[:, 1] - logp[:, 0])
