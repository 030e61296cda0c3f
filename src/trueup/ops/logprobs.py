"""Log-probabilities, entropies and exact divergences of next-token distributions, without a whole [B, T, V] float32 in memory."""

from __future__ import annotations

import torch
from torch import Tensor

from trueup.ops.masking import keep


def chosen_logprobs(logits: Tensor, tokens: Tensor, mask: Tensor, temperature: float = 1.0) -> Tensor:
    """log softmax(logits / temperature)[token], float32, 0 where masked: [B, T, V], [B, T], [B, T] -> [B, T] nats."""
    scaled = logits.float() / temperature
    chosen = scaled.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
    return keep(chosen - scaled.logsumexp(-1), mask)


def exact_kl(logits_p: Tensor, logits_q: Tensor, temperature: float = 1.0) -> Tensor:
    """KL(p || q) of each position, over the whole vocabulary: [..., V], [..., V] -> [...] nats."""
    p, q = (x.float().div(temperature).log_softmax(-1) for x in (logits_p, logits_q))
    return (p.exp() * (p - q)).sum(-1)


def entropy(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Entropy of softmax(logits / temperature): [..., V] -> [...] nats."""
    p = logits.float().div(temperature).log_softmax(-1)
    return -(p.exp() * p).sum(-1)
