"""Direct preference optimisation (Rafailov et al. 2023, arXiv:2305.18290): Bradley–Terry on the policy's own log-ratios.

Deviations:
1. ``label_smoothing`` takes labels to be wrong with that chance: conservative DPO, whose least loss is at sigma(beta margin) = 1 minus it.
2. ``loss_type: robust`` corrects for labels that are flipped with that chance (Chowdhury et al. 2024, arXiv:2403.00409); it has no
   least value.
3. ``length_alpha`` takes alpha (tokens chosen - tokens rejected) off the logit (Park et al. 2024, arXiv:2403.19159); the end token
   counts.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator
from torch import Tensor

from trueup.optimizers.offline import PairConfig
from trueup.rewards.objectives.flip_noise import unbiased_loss
from trueup.rewards.objectives.label_smoothing import smoothed_loss


class DPOConfig(PairConfig):
    """Bradley–Terry on implicit rewards beta log(pi/pi_ref)."""

    kind: Literal["dpo"] = "dpo"
    """This file."""
    beta: float = Field(default=0.1, gt=0)
    """Implicit rewards are beta times the log-ratio; the larger, the closer to the reference (TRL's name)."""
    loss_type: Literal["sigmoid", "robust"] = "sigmoid"
    """Plain, or corrected for flipped labels (TRL's names)."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    """Chance that a label is wrong (TRL's name)."""
    length_alpha: float = Field(default=0.0, ge=0)
    """Nats taken off the logit for each token that the chosen reply is longer; 0.05 and 0.01 in the paper."""

    @model_validator(mode="after")
    def _robust_against_something(self) -> DPOConfig:
        if self.loss_type == "robust" and self.label_smoothing == 0:
            raise ValueError("loss_type 'robust' needs label_smoothing, the chance that a label is flipped, above 0")
        return self

    def pair_loss(self, logp: Tensor, logp_ref: Tensor, tokens: Tensor) -> Tensor:
        """[B] see `PairConfig.pair_loss`."""
        reward = self.implicit_reward(logp, logp_ref) - self.length_alpha * tokens
        loss = unbiased_loss if self.loss_type == "robust" else smoothed_loss
        return loss(reward[:, 0], reward[:, 1], self.label_smoothing)

    def implicit_reward(self, logp: Tensor, logp_ref: Tensor) -> Tensor:
        """[B, 2] see `PairConfig.implicit_reward`."""
        return self.beta * (logp - logp_ref)
