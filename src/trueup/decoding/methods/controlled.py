"""Controlled decoding, token by token (Mudgal et al. 2024, arXiv:2310.17022).

Tokens are drawn in proportion to ``p exp(strength V)``, with V the value of the prefix that ends with the token. With soft values,
V = (1 / strength) log E[exp(strength r) | prefix], replies have exactly the distribution p exp(strength r) / Z, the optimum of the
KL-regularised objective; with mean values, V = E[r | prefix], they have another one. The scorer's objective says which it learned: dense
objectives ``soft_values``, ``fudge``, ``cd_q``.

Deviations:
1. The values may be soft ones; the paper's are means.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from trueup.decoding.protocol import Asked, Decoded, DecodingConfig, DecodingParts, Need
from trueup.decoding.tokenwise import Rule, decode_tokens


class ControlledConfig(DecodingConfig):
    """Every next-token distribution tilted by the value of what it leads to."""

    needs: ClassVar[tuple[Need, ...]] = ("prefix",)
    kind: Literal["controlled"] = "controlled"
    """This file."""
    strength: float = Field(default=1.0, ge=0)
    """Lambda: nats a unit of value, one over the KL coefficient; 0 is the policy. Soft values must be of this strength."""
    top_k: int | None = Field(default=None, ge=1)
    """Candidates a step; the whole vocabulary if left out, which alone is exact."""

    def decode(self, parts: DecodingParts, asked: Asked) -> Decoded:
        """See `DecodingConfig.decode`."""
        parts.check(self.needs, self.kind)
        return decode_tokens(parts, asked, Rule(scores=self._scores, candidates=self.top_k, guided=True))

    def _scores(self, logp: Tensor, values: Tensor) -> Tensor:
        return logp + self.strength * values
