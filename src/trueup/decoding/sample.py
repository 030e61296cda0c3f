"""Sampling with one uniform number a row and step, so that dropping rows, batching and ranks change no stream."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from trueup.data.tokens import Ids, Sequences, pad_rows
from trueup.learn.table import Table
from trueup.ops.masking import sequence_sum

DROP_AT = 0.75
"""Finished rows leave the batch when the live share falls to this: every drop copies the cache once."""
BLOCK = 64
"""Probabilities are summed in blocks of this many, then within one block: far fewer sequential additions."""


class Decoder(Protocol):
    """A model as the sampler sees it: prompts once, then one token a row."""

    device: torch.device

    def prefill(self, tokens: Tensor, mask: Tensor, copies: int, steps: int) -> Tensor:
        """Read left-padded prompts, then stand for ``copies`` rows of each, with room for ``steps``: [N, P], [N, P] -> [N, V] float32."""
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
    drop_at: float = DROP_AT,
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
        drop_at: live share of the batch at which finished rows leave it; no reply depends on it.
    """
    prompts, prompt_mask = (x.to(decoder.device) for x in pad_rows(prompt_ids, pad_id, "left"))
    rows, steps = uniforms.shape
    numbers = torch.from_numpy(uniforms).to(decoder.device)
    replies = torch.full((rows, steps), pad_id, dtype=torch.int64, device=decoder.device)
    mask = torch.zeros((rows, steps), dtype=torch.bool, device=decoder.device)
    logp = torch.zeros((rows, steps), device=decoder.device)
    held = torch.arange(rows, device=decoder.device)
    live = torch.ones(rows, dtype=torch.bool, device=decoder.device)
    logits = decoder.prefill(prompts, prompt_mask, num_samples, steps).repeat_interleave(num_samples, 0)
    for t in range(steps):
        tokens, chosen = draw(logits, numbers[held, t], temperature, top_p)
        replies[held, t] = torch.where(live, tokens, pad_id)
        logp[held, t] = torch.where(live, chosen, 0.0)
        mask[held, t] = live
        live = live & (tokens != eos_id)
        remaining = int(live.sum())
        if remaining == 0 or t == steps - 1:
            break
        if remaining <= drop_at * len(held):
            decoder.keep(live.nonzero().squeeze(1))
            held, tokens, live = held[live], tokens[live], live[live]
        logits = decoder.step(tokens)
    width = max(1, int(mask.any(0).sum()))
    sequences = Sequences(
        tokens=torch.cat([prompts.repeat_interleave(num_samples, 0), replies[:, :width]], 1),
        prompt_mask=prompt_mask.repeat_interleave(num_samples, 0),
        mask=mask[:, :width],
    )
    return Sampled(sequences=sequences, logp_sampling=logp[:, :width])


def draw(logits: Tensor, uniforms: Tensor, temperature: float, top_p: float) -> tuple[Tensor, Tensor]:
    """One token a row by the inverse of the cumulative distribution: [R, V] float32, [R] -> tokens [R], log-probabilities [R] nats."""
    if temperature == 0:
        tokens = logits.argmax(-1)
        return tokens, (logits.gather(1, tokens[:, None]).squeeze(1) - logits.logsumexp(-1))
    probs = (logits if temperature == 1 else logits / temperature).softmax(-1)
    tokens = inverse_cdf(probs if top_p >= 1 else probs * nucleus(probs, top_p), uniforms)
    return tokens, probs.gather(1, tokens[:, None]).squeeze(1).log()


def inverse_cdf(weights: Tensor, uniforms: Tensor) -> Tensor:
    """The first index at which the running sum of ``weights`` exceeds ``uniform`` times their total: [R, V] >= 0, [R] -> [R].

    The index found always has a positive weight.
    """
    short = -weights.shape[1] % BLOCK
    blocks = (F.pad(weights, (0, short)) if short else weights).view(len(weights), -1, BLOCK)
    sums = blocks.sum(-1).cumsum(-1)
    target = _below(uniforms.to(sums.dtype) * sums[:, -1], sums[:, -1])
    block = torch.searchsorted(sums, target[:, None], right=True)
    before = torch.where(block > 0, sums.gather(1, (block - 1).clamp(min=0)), 0.0).squeeze(1)
    inside = blocks.gather(1, block[:, :, None].expand(-1, -1, BLOCK)).squeeze(1).cumsum(-1)
    rest = _below(target - before, inside[:, -1])
    return (block * BLOCK + torch.searchsorted(inside, rest[:, None], right=True)).squeeze(1)


def nucleus(probs: Tensor, top_p: float) -> Tensor:
    """[R, V] bool: the fewest most probable tokens that hold at least ``top_p`` (Holtzman et al. 2020, arXiv 1904.09751)."""
    ordered, order = probs.sort(-1, descending=True)
    before = ordered.cumsum(-1) - ordered
    return torch.zeros_like(probs, dtype=torch.bool).scatter(1, order, before < top_p)


def sampling_gap_nats(logp_training: Tensor, logp_sampling: Tensor, mask: Tensor) -> Tensor:
    """[B] |log-probability in training precision - the sampler's| of each reply, nats: [B, T] three times."""
    return sequence_sum(logp_training - logp_sampling, mask).abs()


def _below(x: Tensor, bound: Tensor) -> Tensor:
    """``x``, strictly below ``bound``: rounding must not push a draw past the last positive weight."""
    return torch.minimum(x, torch.nextafter(bound, torch.zeros_like(bound)))
