"""Sampling with one uniform number a row and step, so that dropping rows, batching and ranks change no stream."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trueup.data.tokens import Ids, Sequences, pad_rows
from trueup.learn.table import Table


class Decoder(Protocol):
    """A model as the sampler sees it: prompts once, then one token a row."""

    def prefill(self, tokens: Tensor, mask: Tensor, copies: int, steps: int) -> Tensor:
        """Read left-padded prompts, then stand for ``copies`` rows of each, with room for ``steps``: [N, P], [N, P] -> [N, V]."""
        ...

    def step(self, tokens: Tensor) -> Tensor:
        """Append one token a row: [R] -> [R, V] float32 next-token logits."""
        ...

    def keep(self, rows: Tensor) -> None:
        """Drop all rows but these positions."""
        ...


@dataclass(frozen=True, kw_only=True)
class Sampled(Table):
    """Replies as they were drawn."""

    sequences: Sequences
    logp_sampling: Tensor
    """[B, T] float32 nats, the sampler's own log softmax(logits / temperature) of each token (before top-p; untempered where greedy);
    0 where masked."""


@torch.no_grad()
def sample(
    decoder: Decoder,
    prompt_ids: Sequence[Ids],
    *,
    num_samples: int,
    uniforms: NDArray[np.float64],
    temperature: float,
    top_p: float,
    eos_id: int,
    pad_id: int,
) -> Sampled:
    """Draw replies; rows are prompts, each repeated ``num_samples`` times in a row.

    Args:
        decoder: the model.
        prompt_ids: N prompts.
        num_samples: K.
        uniforms: [N K, steps] in [0, 1); column t draws the t-th token of a row.
        temperature: divides the logits; 0 takes the most probable token.
        top_p: share of probability to keep; 1 keeps all.
        eos_id: ends a row.
        pad_id: fills what is masked.
    """
    prompts, prompt_mask = pad_rows(prompt_ids, pad_id, "left")
    rows, steps = uniforms.shape
    numbers = torch.from_numpy(uniforms)
    replies = torch.full((rows, steps), pad_id, dtype=torch.int64)
    mask = torch.zeros((rows, steps), dtype=torch.bool)
    logp = torch.zeros(rows, steps)
    alive = torch.arange(rows)
    logits = decoder.prefill(prompts, prompt_mask, num_samples, steps).repeat_interleave(num_samples, 0)
    for t in range(steps):
        tokens, chosen = draw(logits, numbers[alive, t], temperature, top_p)
        replies[alive, t], logp[alive, t], mask[alive, t] = tokens, chosen, True
        going = (tokens != eos_id).nonzero().squeeze(1)
        if len(going) == 0 or t == steps - 1:
            break
        if len(going) < len(alive):
            decoder.keep(going)
            alive, tokens = alive[going], tokens[going]
        logits = decoder.step(tokens)
    width = int(mask.any(0).sum())
    sequences = Sequences(
        tokens=torch.cat([prompts.repeat_interleave(num_samples, 0), replies[:, :width]], 1),
        prompt_mask=prompt_mask.repeat_interleave(num_samples, 0),
        mask=mask[:, :width],
    )
    return Sampled(sequences=sequences, logp_sampling=logp[:, :width])


def draw(logits: Tensor, uniforms: Tensor, temperature: float, top_p: float) -> tuple[Tensor, Tensor]:
    """One token a row by the inverse of the cumulative distribution: [R, V], [R] -> tokens [R], their log-probabilities [R]."""
    if temperature == 0:
        tokens = logits.argmax(-1)
        return tokens, logits.gather(1, tokens[:, None]).squeeze(1) - logits.logsumexp(-1)
    probs = (logits if temperature == 1 else logits / temperature).softmax(-1)
    kept = probs if top_p >= 1 else probs * nucleus(probs, top_p)
    cumulative = kept.cumsum(-1)
    total = cumulative[:, -1]
    # strictly below the total, so that the token found always has a positive probability
    target = torch.minimum(uniforms.to(total.dtype) * total, torch.nextafter(total, torch.zeros_like(total)))
    tokens = torch.searchsorted(cumulative, target[:, None], right=True).squeeze(1)
    return tokens, probs.gather(1, tokens[:, None]).squeeze(1).log()


def nucleus(probs: Tensor, top_p: float) -> Tensor:
    """[R, V] bool: the fewest most probable tokens that hold at least ``top_p`` (Holtzman et al. 2020)."""
    ordered, order = probs.sort(-1, descending=True)
    before = ordered.cumsum(-1) - ordered
    return torch.zeros_like(probs, dtype=torch.bool).scatter(1, order, before < top_p)
