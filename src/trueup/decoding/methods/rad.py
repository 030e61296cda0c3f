"""Reward-augmented decoding (Deng and Raffel 2023, arXiv:2310.09520).

Tokens are drawn from the k most probable ones with logits ``z + beta r``, where r in [0, 1] is what a unidirectional reward model says of
the prefix that ends with the token. The model keeps what it has read, so a candidate costs it one token. Train it with the dense
objective ``cumulative``, so that it speaks of prefixes.

Deviations:
1. Scores are clamped to [0, 1] as in the authors' code, or taken as they are (``clamp: false``).
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from trueup.decoding.protocol import Asked, Decoded, DecodingConfig, DecodingParts, Need
from trueup.decoding.tokenwise import Rule, decode_tokens


class RadConfig(DecodingConfig):
    """Sampling with scores of prefixes added to the logits."""

    needs: ClassVar[tuple[Need, ...]] = ("prefix",)
    kind: Literal["rad"] = "rad"
    """This file."""
    beta: float = Field(default=30.0, ge=0)
    """Weight of the score: nats a unit; 0 is top-k sampling."""
    top_k: int = Field(default=20, ge=1)
    """Candidates a step."""
    inverse: bool = False
    """Steer away from the score: 1 - r instead of r."""
    clamp: bool = True
    """Clamp scores to between 0 and 1."""

    def decode(self, parts: DecodingParts, asked: Asked) -> Decoded:
        """See `DecodingConfig.decode`."""
        parts.check(self.needs, self.kind)
        return decode_tokens(parts, asked, Rule(scores=self._scores, candidates=self.top_k, guided=True))

    def _scores(self, logp: Tensor, values: Tensor) -> Tensor:
        score = values.clamp(0, 1) if self.clamp else values
        return logp + self.beta * (1 - score if self.inverse else score)
