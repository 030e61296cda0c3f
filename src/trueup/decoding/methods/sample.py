"""Plain sampling, at a temperature of its own and from a nucleus (Holtzman et al. 2020, arXiv:1904.09751)."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from trueup.decoding.protocol import Asked, Decoded, DecodingConfig, DecodingParts
from trueup.decoding.sample import nucleus
from trueup.decoding.tokenwise import Rule, decode_tokens


class SampleConfig(DecodingConfig):
    """The policy as it is, sharper, or without its tail: what guidance is compared with."""

    kind: Literal["sample"] = "sample"
    """This file."""
    temperature: float = Field(default=1.0, gt=0)
    """Divides the policy's log-probabilities once more; 1 leaves them."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Share of probability to keep."""

    def decode(self, parts: DecodingParts, asked: Asked) -> Decoded:
        """See `DecodingConfig.decode`."""
        return decode_tokens(parts, asked, Rule(scores=self._scores))

    def _scores(self, logp: Tensor, values: Tensor) -> Tensor:
        sharper = logp / self.temperature
        return sharper if self.top_p == 1 else torch.where(nucleus(sharper.softmax(1), self.top_p), sharper, -torch.inf)
