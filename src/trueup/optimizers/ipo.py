"""Identity preference optimisation (Azar et al. 2023, arXiv:2310.12036): the margin of log-ratios is regressed on a constant.

Deviations:
1. Log-probabilities are summed over tokens, as in the paper; TRL divides them by the number of tokens, so its ``beta`` is another number.
2. ``beta`` is the paper's tau: at a beta of 0.1 the wanted margin is 5 nats.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor

from trueup.ops.preference import ipo_loss
from trueup.optimizers.offline import PairConfig


class IPOConfig(PairConfig):
    """Squared distance of the margin from 1 / (2 beta)."""

    kind: Literal["ipo"] = "ipo"
    """This file."""
    beta: float = Field(default=0.1, gt=0)
    """The paper's tau; the larger, the closer to the reference (TRL's name)."""

    def pair_loss(self, logp: Tensor, logp_ref: Tensor, tokens: Tensor) -> Tensor:
        """[B] see `PairConfig.pair_loss`."""
        ratio = logp - logp_ref
        return ipo_loss(ratio[:, 0] - ratio[:, 1], self.beta)

    def implicit_reward(self, logp: Tensor, logp_ref: Tensor) -> Tensor:
        """[B, 2] see `PairConfig.implicit_reward`."""
        return self.beta * (logp - logp_ref)
