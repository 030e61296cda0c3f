"""One-token steps for any architecture, through transformers' own cache."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class CacheDecoder:
    """Any causal model of transformers; see `trueup.decoding.sample.Decoder`.

    Args:
        model: in inference mode, in the precision to sample in.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.device = next(model.parameters()).device

    def prefill(self, tokens: Tensor, mask: Tensor, copies: int, steps: int) -> Tensor:
        """Read left-padded prompts once, then stand for ``copies`` rows of each: [N, P], [N, P] -> [N, V] float32 logits."""
        attention = mask.long()
        out = self.model(
            input_ids=tokens,
            attention_mask=attention,
            position_ids=(attention.cumsum(1) - 1).clamp(min=0),
            use_cache=True,
            logits_to_keep=1,
        )
        self.cache = out.past_key_values
        self.cache.batch_repeat_interleave(copies)
        # room for every step at once: a view of it grows, so that no step copies it
        grown = attention.new_ones(len(tokens), steps)
        self.attention = torch.cat([attention, grown], 1).repeat_interleave(copies, 0)
        self.at, self.position = tokens.shape[1], attention.sum(1).repeat_interleave(copies)
        return out.logits[:, -1].float()

    def step(self, tokens: Tensor) -> Tensor:
        """Append one token a row: [R] -> [R, V] float32 next-token logits."""
        self.at += 1
        out = self.model(
            input_ids=tokens[:, None],
            attention_mask=self.attention[:, : self.at],
            position_ids=self.position[:, None],
            past_key_values=self.cache,
            use_cache=True,
        )
        self.position = self.position + 1
        return out.logits[:, -1].float()

    def keep(self, rows: Tensor) -> None:
        """Drop all rows but these positions."""
        self.cache.batch_select_indices(rows)
        self.attention, self.position = self.attention[rows], self.position[rows]
