"""Log-probabilities, entropies and exact divergences of next-token distributions, without a whole [B, T, V] float32 in memory."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from trueup.ops.masking import keep

CHUNK = 1 << 21
"""Logits (rows times vocabulary) that are float32 at one time."""
KEPT = 1 << 26
"""Up to so many logits are kept from forward to backward; beyond, they are computed again."""


def chosen_logprobs(
    logits: Float[Tensor, "B T V"], tokens: Int[Tensor, "B T"], mask: Bool[Tensor, "B T"], temperature: float = 1.0
) -> Float[Tensor, "B T"]:
    """log softmax(logits / temperature)[token], 0 where masked: [B, T, V], [B, T], [B, T] -> [B, T] nats, at least float32."""
    scaled = _wide(logits) if temperature == 1 else _wide(logits) / temperature
    chosen = scaled.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
    return keep(chosen - scaled.logsumexp(-1), mask)


def head_logprobs(
    hidden: Float[Tensor, "n W"], weight: Float[Tensor, "V W"], tokens: Int[Tensor, " n"], temperature: float = 1.0
) -> Float[Tensor, " n"]:
    """log softmax(hidden weight^T / temperature)[token] in chunks, differentiable in ``hidden`` and ``weight``.

    Args:
        hidden: [n, W], in the precision to multiply in.
        weight: [V, W] of the output layer.
        tokens: [n] int64.
        temperature: divides the logits.

    Returns:
        [n] nats, at least float32.
    """
    out: Tensor = _HeadLogprobs.apply(hidden, weight, tokens, temperature)
    return out


def exact_kl(logits_p: Float[Tensor, "*shape V"], logits_q: Float[Tensor, "*shape V"], temperature: float = 1.0) -> Float[Tensor, "*shape"]:
    """KL(p || q) of each position over the whole vocabulary: [..., V], [..., V] -> [...] nats."""
    parts = [_kl(p, q, temperature) for p, q in zip(_rows(logits_p), _rows(logits_q), strict=True)]
    return torch.cat(parts).view(logits_p.shape[:-1])


def entropy(logits: Float[Tensor, "*shape V"], temperature: float = 1.0) -> Float[Tensor, "*shape"]:
    """Entropy of softmax(logits / temperature): [..., V] -> [...] nats."""
    return torch.cat([_entropy(x, temperature) for x in _rows(logits)]).view(logits.shape[:-1])


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _rows(logits: Tensor) -> tuple[Tensor, ...]:
    flat = logits.reshape(-1, logits.shape[-1])
    return flat.split(max(1, CHUNK // flat.shape[1]))


def _kl(p: Tensor, q: Tensor, temperature: float) -> Tensor:
    p, q = (_wide(x).div(temperature).log_softmax(-1) for x in (p, q))
    weight = p.exp()
    # a token that p rules out contributes 0, also where q rules it out
    return (weight * keep(p - q, weight > 0)).sum(-1)


def _entropy(logits: Tensor, temperature: float) -> Tensor:
    p = _wide(logits).div(temperature).log_softmax(-1)
    weight = p.exp()
    return -(weight * keep(p, weight > 0)).sum(-1)


def _logits(hidden: Tensor, weight: Tensor, temperature: float) -> Tensor:
    logits = _wide(F.linear(hidden, weight))
    return logits if temperature == 1 else logits.div_(temperature)


class _HeadLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, tokens: Tensor, temperature: float) -> Tensor:
        multiplier = weight.to(hidden.dtype)
        size = max(1, CHUNK // len(weight))
        held = any(ctx.needs_input_grad) and len(hidden) * len(weight) <= KEPT
        wide = torch.promote_types(hidden.dtype, torch.float32)
        out, normaliser, kept = hidden.new_empty(len(hidden), dtype=wide), [], []
        for start in range(0, len(hidden), size):
            part = slice(start, start + size)
            logits = _logits(hidden[part], multiplier, temperature)
            normaliser.append(logits.logsumexp(-1))
            out[part] = logits.gather(1, tokens[part, None]).squeeze(1) - normaliser[-1]
            if held:
                kept.append(logits)
        ctx.save_for_backward(hidden, weight, tokens, torch.cat(normaliser) if normaliser else out, *kept)
        ctx.temperature, ctx.size = temperature, size
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        hidden, weight, tokens, normaliser, *kept = ctx.saved_tensors
        multiplier = weight.to(hidden.dtype)
        d_hidden, d_weight = torch.empty_like(hidden), torch.zeros_like(weight, dtype=grad.dtype)
        for i, start in enumerate(range(0, len(hidden), ctx.size)):
            part = slice(start, start + ctx.size)
            logits = kept[i] if kept else _logits(hidden[part], multiplier, ctx.temperature)
            scale = (grad[part] / ctx.temperature)[:, None]
            # d log p[token] / d logits = onehot(token) - p
            d_logits = (logits - normaliser[part, None]).exp_().mul_(-scale).scatter_add_(1, tokens[part, None], scale)
            d_logits = d_logits.to(hidden.dtype)
            torch.mm(d_logits, multiplier, out=d_hidden[part])
            if hidden.dtype == d_weight.dtype:
                d_weight.addmm_(d_logits.t(), hidden[part])
            else:
                d_weight += d_logits.t() @ hidden[part]
        return d_hidden, d_weight.to(weight.dtype), None, None
