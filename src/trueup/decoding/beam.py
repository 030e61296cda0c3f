"""Search over segments by value: of all continuations of the best prefixes so far, the best are kept."""

from __future__ import annotations

import math

import torch

from trueup.decoding.protocol import Asked, Decoded, DecodingParts, unknown
from trueup.decoding.segments import Prefix, SegmentWriter


def best_segments(
    parts: DecodingParts, asked: Asked, *, length: int, width: int, beam: int, stops: frozenset[int] = frozenset()
) -> Decoded:
    """Grow replies by segments, keeping the ``beam`` prefixes of highest value; the best of those that have ended is the reply.

    Args:
        parts: with a scorer of prefixes, and perhaps a reward for replies that have ended.
        asked: the rows.
        length: most tokens of a segment.
        width: continuations of every prefix kept.
        beam: prefixes kept; those that have ended stay as long as they are among the best.
        stops: tokens that end a segment early.

    Raises:
        UserError: a prompt leaves no room.
    """
    writer = SegmentWriter(parts, asked, length, stops)
    kept: list[list[Prefix]] = [[start] for start in writer.starts]
    rounds = torch.zeros(len(asked), dtype=torch.float64)
    while any(not p.ended for row in kept for p in row):
        open_ = [[p for p in row if not p.ended] for row in kept]
        made = writer.continued(open_, width)
        for i, row in enumerate(kept):
            rounds[i] += bool(open_[i])
            pool = [p for p in row if p.ended] + [p for group in made[i] for p in group]
            # sorted is stable: of equals the first drawn stays
            kept[i] = sorted(pool, key=lambda p: -p.value)[:beam]
    for i, row in enumerate(kept):
        writer.replies.add(i, list(row[0].reply))
    base = torch.tensor([row[0].total for row in kept], dtype=torch.float64)
    a_round = math.log(width) - (width - 1) / width
    return Decoded(
        sequences=writer.replies.sequences(), logp=unknown(len(asked)), logp_base=base,
        kl=unknown(len(asked)), kl_bound=rounds * a_round if beam == 1 else unknown(len(asked)),
        policy_tokens=writer.cost.policy, reward_tokens=writer.cost.reward,
    )  # fmt: skip
