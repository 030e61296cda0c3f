"""Best of n replies by reward (Nakano et al. 2021, arXiv:2112.09332; Beirami et al. 2024, arXiv:2401.01879).

The KL from the policy is at most log n - (n - 1) / n, and equal to it where no two replies have the same score; with few probable replies
it is less. `kl_of_best` estimates it from the winner's own probability.

Deviations:
1. n replies a row, the best of them written: rows are independent. `trueup.stats.best_of_n.best_of_n` gives the whole curve over n,
   without bias, from N replies that were sampled once.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Literal

import torch
from pydantic import Field

from trueup.data.tokens import Sequences, decode_replies
from trueup.decoding.protocol import Asked, Decoded, DecodingConfig, DecodingParts, Need, unknown
from trueup.decoding.tokenwise import Rule, decode_tokens
from trueup.ops.masking import sequence_sum
from trueup.stats.best_of_n import kl_nats


class BestOfNConfig(DecodingConfig):
    """The reply of highest reward among several."""

    needs: ClassVar[tuple[Need, ...]] = ("reward",)
    kind: Literal["best_of_n"] = "best_of_n"
    """This file."""
    n: int = Field(default=4, ge=1)
    """Replies to choose from; 1 is the policy."""

    def decode(self, parts: DecodingParts, asked: Asked) -> Decoded:
        """See `DecodingConfig.decode`."""
        parts.check(self.needs, self.kind)
        assert parts.reward is not None
        wide = replace(asked, key=asked.key / "candidates", num_samples=asked.num_samples * self.n, first_row=asked.first_row * self.n)
        sequences, logp = _drawn(parts, wide)
        replies = decode_replies(parts.tokenizer, sequences.replies, sequences.mask)
        score = parts.reward.score(wide.repeated(), replies, sequences).view(-1, self.n)
        lengths = sequences.mask.sum(1).cpu().view(-1, self.n).sum(1)
        best = score.argmax(1).cpu() + torch.arange(len(asked)) * self.n
        return Decoded(
            sequences=trimmed(sequences.take(best)),
            logp=unknown(len(asked)), logp_base=logp[best], kl=unknown(len(asked)),
            kl_bound=torch.full((len(asked),), float(kl_nats(self.n)), dtype=torch.float64),
            policy_tokens=lengths, reward_tokens=lengths.clone(),
        )  # fmt: skip


def _drawn(parts: DecodingParts, asked: Asked) -> tuple[Sequences, torch.Tensor]:
    """Replies of the policy, and their log-probabilities [B] under it; nats."""
    if parts.rollout is None:
        found = decode_tokens(parts, asked, Rule(scores=lambda logp, values: logp))
        return found.sequences, found.logp_base
    parts.room(asked.prompt_ids)
    drawn = parts.rollout.sample(
        asked.prompt_ids, num_samples=asked.num_samples, max_tokens=parts.max_tokens, temperature=parts.temperature,
        key=asked.key, first_row=asked.first_row,
    )  # fmt: skip
    return drawn.sequences, sequence_sum(drawn.logp_sampling, drawn.sequences.mask).double().cpu()


def trimmed(sequences: Sequences) -> Sequences:
    """The rows without reply columns that none of them uses."""
    width = max(1, int(sequences.mask.sum(1).max()))
    start = sequences.prompt_width
    return Sequences(tokens=sequences.tokens[:, : start + width], prompt_mask=sequences.prompt_mask, mask=sequences.mask[:, :width])
