"""Alignment as reward-guided search (Khanov et al. 2024, arXiv:2402.01694).

A candidate scores ``log p + weight r``, with r the reward model's score of the prefix that ends with it; the best is taken, or one is drawn
from the softmax of the scores.

Deviations:
1. Log-probabilities instead of raw logits; both give the same choice, since they differ by a constant a step.
2. The reward model reads one token a candidate, not the whole text again. It is made for whole replies, so that its scores of prefixes
   drift; a scorer of prefixes may be given instead.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from trueup.decoding.protocol import Asked, Decoded, DecodingConfig, DecodingParts, Need
from trueup.decoding.tokenwise import Rule, decode_tokens
from trueup.ops.tilt import only_best


class ArgsConfig(DecodingConfig):
    """Greedy choice by log-probability plus reward."""

    needs: ClassVar[tuple[Need, ...]] = ("prefix",)
    kind: Literal["args"] = "args"
    """This file."""
    weight: float = Field(default=1.5, ge=0)
    """Of the score: nats a unit; 0 is greedy (or top-k sampling)."""
    top_k: int = Field(default=10, ge=1)
    """Candidates a step."""
    temperature: float = Field(default=0.0, ge=0)
    """Draws from softmax(score / temperature); 0 takes the best. The paper draws at 0.7."""

    def decode(self, parts: DecodingParts, asked: Asked) -> Decoded:
        """See `DecodingConfig.decode`."""
        parts.check(self.needs, self.kind)
        return decode_tokens(parts, asked, Rule(scores=self._scores, candidates=self.top_k, guided=True))

    def _scores(self, logp: Tensor, values: Tensor) -> Tensor:
        scores = logp + self.weight * values
        return only_best(scores) if self.temperature == 0 else scores / self.temperature
