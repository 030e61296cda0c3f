"""Adversarial inverse reinforcement learning: a classifier between demonstrations and samples (Ho & Ermon 2016, arXiv:1606.03476; Fu et al.
2018, arXiv:1710.11248).

The best classifier's logit is log p_demonstrations / p_samples, so the score recovers a density ratio, zero included.

Deviations:
1. The logit is the score itself, without subtracting the policy's log-probability; replies are single actions.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from trueup.rewards.objectives.protocol import Judgements, ObjectiveConfig


class AdversarialConfig(ObjectiveConfig):
    """Cross-entropy between demonstrations (ratings above 0) and samples (the rest)."""

    kind: Literal["adversarial"] = "adversarial"
    """This file."""

    def loss(self, output: Tensor, judged: Judgements) -> Tensor:
        """[B] `adversarial_loss` of the first output."""
        return adversarial_loss(output[..., 0], judged.rating > 0, judged.present)

    def counted(self, judged: Judgements) -> Tensor:
        """[B] Any reply teaches the classifier."""
        return judged.present.any(1)


def adversarial_loss(score: Tensor, demonstration: Tensor, present: Tensor) -> Tensor:
    """Mean of softplus(-score) over demonstrations plus mean of softplus(score) over samples: [B, K] each -> [B]."""
    total = torch.zeros_like(score[:, 0])
    for side, sign in ((demonstration, -1.0), (~demonstration, 1.0)):
        picked = side & present
        value = torch.where(picked, F.softplus(sign * score), torch.zeros_like(score))
        total = total + value.sum(1) / picked.sum(1).clamp(min=1)
    return total
