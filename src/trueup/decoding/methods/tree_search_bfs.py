"""Breadth-first search over sentences, guided by values: TS-LLM's BFS-V (Feng et al. 2023, arXiv:2309.17179).

Every prefix kept gets so many continuations, a segment each; of all of them, and of the replies that have ended, those of highest value are
kept. The best one is the reply once all have ended.

Deviations:
1. A reply that has ended is valued by the reward, where there is one.
2. A segment ends at one of ``stops``, or after so many tokens.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from trueup.decoding.beam import best_segments
from trueup.decoding.protocol import Asked, Decoded, DecodingConfig, DecodingParts, Need
from trueup.decoding.segments import stop_tokens


class TreeSearchBfsConfig(DecodingConfig):
    """Beam search over sampled segments by value."""

    needs: ClassVar[tuple[Need, ...]] = ("prefix",)
    kind: Literal["tree_search_bfs"] = "tree_search_bfs"
    """This file."""
    width: int = Field(default=4, ge=1)
    """Continuations of a prefix; with a beam of 1, a width of 1 is the policy."""
    beam: int = Field(default=2, ge=1)
    """Prefixes kept."""
    segment_tokens: int = Field(default=16, ge=1)
    """Most tokens of a segment."""
    stops: tuple[str, ...] = ()
    """Tokens that end a segment early, such as '.'; each must be one token of the policy."""

    def decode(self, parts: DecodingParts, asked: Asked) -> Decoded:
        """See `DecodingConfig.decode`."""
        parts.check(self.needs, self.kind)
        stops = stop_tokens(parts.tokenizer, self.stops)
        return best_segments(parts, asked, length=self.segment_tokens, width=self.width, beam=self.beam, stops=stops)
