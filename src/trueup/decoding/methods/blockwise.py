"""Controlled decoding, block by block (Mudgal et al. 2024, arXiv:2310.17022, section 3.2).

K blocks of M tokens are drawn from the policy and the one of highest value is kept, until the reply ends. With blocks as long as the reply
this is best-of-K; with one token it is best-of-K a token.

Deviations:
1. A reply that has ended is valued by the reward, where there is one, not by the scorer of prefixes.
2. Replies differ in their number of blocks, so the bound on the KL, log K - (K - 1) / K a block, is stated for each reply's own number;
   the bound of the method is the mean of these.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from trueup.decoding.beam import best_segments
from trueup.decoding.protocol import Asked, Decoded, DecodingConfig, DecodingParts, Need


class BlockwiseConfig(DecodingConfig):
    """Best of several blocks, again and again."""

    needs: ClassVar[tuple[Need, ...]] = ("prefix",)
    kind: Literal["blockwise"] = "blockwise"
    """This file."""
    blocks: int = Field(default=4, ge=1)
    """K, blocks drawn; 1 is the policy."""
    block_tokens: int = Field(default=8, ge=1)
    """M, tokens of a block."""

    def decode(self, parts: DecodingParts, asked: Asked) -> Decoded:
        """See `DecodingConfig.decode`."""
        parts.check(self.needs, self.kind)
        return best_segments(parts, asked, length=self.block_tokens, width=self.blocks, beam=1)
