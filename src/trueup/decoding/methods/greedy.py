"""The most probable token, always."""

from __future__ import annotations

from typing import Literal

from trueup.decoding.protocol import Asked, Decoded, DecodingConfig, DecodingParts
from trueup.decoding.tokenwise import Rule, decode_tokens
from trueup.ops.tilt import only_best


class GreedyConfig(DecodingConfig):
    """One reply a prompt, however many samples are asked for."""

    kind: Literal["greedy"] = "greedy"
    """This file."""

    def decode(self, parts: DecodingParts, asked: Asked) -> Decoded:
        """See `DecodingConfig.decode`."""
        return decode_tokens(parts, asked, Rule(scores=lambda logp, values: only_best(logp)))
