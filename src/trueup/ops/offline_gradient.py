"""Policy gradients on given replies, whose importance weights are taken against the policy that is taken to have written them."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from trueup.ops.masking import keep

Variant = Literal["plain", "seq", "ref_free", "kl"]


def advantage_loss(
    logp: Float[Tensor, "B T"],
    logp_ref: Float[Tensor, "B T"],
    advantage: Float[Tensor, " B"],
    mask: Bool[Tensor, "B T"],
    variant: Variant,
    clip: float,
    beta: float,
) -> Float[Tensor, " B"]:
    """Minus advantage times log-probability, weighted (Baheti et al. 2023, arXiv:2305.14718): [B, T] -> [B].

    Args:
        logp: [B, T] current policy; nats.
        logp_ref: [B, T] reference, constant.
        advantage: [B] constant.
        mask: [B, T] True on reply tokens.
        variant: ``plain`` weighs the reply by its clipped probability ratio to the reference, held constant; ``seq`` each token by its
            own; ``ref_free`` not at all; ``kl`` not at all, and adds ``beta`` times the log-ratio.
        clip: half-width of the ratio's interval around 1.
        beta: of ``kl``.
    """
    logp, ratio = keep(logp, mask), keep(logp - logp_ref, mask)
    if variant == "plain":
        weight = ratio.detach().sum(1).exp().clamp(1 - clip, 1 + clip)
        return -advantage * weight * logp.sum(1)
    if variant == "seq":
        weight = ratio.detach().exp().clamp(1 - clip, 1 + clip)
        return -advantage * (weight * logp).sum(1)
    loss = -advantage * logp.sum(1)
    return loss + beta * ratio.sum(1) if variant == "kl" else loss


def positive(advantage: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The advantage where it is above 0, else 0: any shape -> the same."""
    return torch.clamp(advantage, min=0.0)
