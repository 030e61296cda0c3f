"""Halves of a Llama block with hand-written gradients, worked through in slices of rows that stay in the cache.

On a CPU the element-wise steps between matrix products cost as much as the products when whole batches pass through memory for each of
them. Values are those of the plain formulas up to rounding; gradients of gradients are not defined.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

ROWS = 1024
"""Rows of one slice."""


class NormWeight(NamedTuple):
    """Of a root-mean-square norm (Zhang and Sennrich 2019, arXiv 1910.07467)."""

    weight: Tensor
    """[W]"""
    epsilon: float


def mlp_block(
    x: Float[Tensor, "n W"],
    norm: NormWeight,
    gate: Float[Tensor, "I W"],
    up: Float[Tensor, "I W"],
    down: Float[Tensor, "W I"],
    dtype: torch.dtype,
) -> Float[Tensor, "n W"]:
    """x + down(silu(gate(norm(x))) * up(norm(x))) (Shazeer 2020, arXiv 2002.05202).

    Args:
        x: [n, W] residual stream, float32.
        norm: of the block's input.
        gate: [I, W].
        up: [I, W].
        down: [W, I].
        dtype: precision of matrix products.

    Returns:
        [n, W] float32.
    """
    out: Tensor = _MLP.apply(x, norm.weight, gate, up, down, norm.epsilon, dtype)
    return out


def project_heads(
    x: Float[Tensor, "n W"],
    norm: NormWeight,
    query: Float[Tensor, "HD W"],
    key: Float[Tensor, "GD W"],
    value: Float[Tensor, "GD W"],
    cos: Float[Tensor, "n 1 half"],
    sin: Float[Tensor, "n 1 half"],
    dtype: torch.dtype,
) -> tuple[Float[Tensor, "n HD"], Float[Tensor, "n GD"], Float[Tensor, "n GD"]]:
    """Queries and keys, turned by their positions, and values, of norm(x). A weight without rows gives a result without columns.

    Args:
        x: [n, W] residual stream, float32.
        norm: of the block's input.
        query: [H D, W].
        key: [G D, W].
        value: [G D, W].
        cos: [n, 1, D/2] float32.
        sin: [n, 1, D/2].
        dtype: precision of matrix products.

    Returns:
        [n, H D], [n, G D], [n, G D] float32.
    """
    out: tuple[Tensor, Tensor, Tensor] = _Heads.apply(x, norm.weight, query, key, value, cos, sin, norm.epsilon, dtype)
    return out


def rms_norm(x: Float[Tensor, "*rows W"], norm: NormWeight) -> Float[Tensor, "*rows W"]:
    """x / sqrt(mean(x^2) + epsilon) * weight over the last dimension, float32: [n, W] -> [n, W]."""
    return F.rms_norm(x.float(), (x.shape[-1],), norm.weight, norm.epsilon)


def rotary(x: Float[Tensor, "n heads D"], cos: Float[Tensor, "n 1 half"], sin: Float[Tensor, "n 1 half"]) -> Float[Tensor, "n heads D"]:
    """Rotate the halves of the last dimension: [n, heads, D] with [n, 1, D/2] (Su et al. 2021, arXiv 2104.09864)."""
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


def _slices(rows: int) -> Iterator[slice]:
    return (slice(start, min(start + ROWS, rows)) for start in range(0, rows, ROWS))


def _unit(x: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """x / sqrt(mean(x^2) + epsilon), and the factor: [n, W] -> [n, W], [n, 1]."""
    inverse = torch.linalg.vector_norm(x, dim=-1, keepdim=True).pow_(2).div_(x.shape[-1]).add_(epsilon).rsqrt_()
    return x * inverse, inverse


def _unit_gradient(d_inner: Tensor, unit: Tensor, inverse: Tensor, weight: Tensor) -> Tensor:
    """Gradient of a norm's input, from that of its output."""
    d_unit = d_inner * weight
    along = (d_unit * unit).mean(-1, keepdim=True)
    return d_unit.sub_(unit * along).mul_(inverse)


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """total += a b, where ``total`` is float32 and the factors may be narrower."""
    if a.dtype == total.dtype:
        total.addmm_(a, b)
    else:
        total.add_(a @ b)


class _MLP(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, gate: Tensor, up: Tensor, down: Tensor, epsilon: float, dtype: torch.dtype) -> Tensor:
        rise, fall = torch.cat([gate, up]).to(dtype), down.to(dtype)
        kept = x.new_empty((len(x) if any(ctx.needs_input_grad) else ROWS, len(rise)), dtype=dtype)
        out = torch.empty_like(x)
        for part in _slices(len(x)):
            inner = (_unit(x[part], epsilon)[0] * weight).to(dtype)
            held = kept[part] if len(kept) == len(x) else kept[: len(inner)]
            torch.mm(inner, rise.t(), out=held)
            left, right = held.chunk(2, -1)
            torch.add(x[part], F.silu(left).mul_(right) @ fall.t(), out=out[part])
        if any(ctx.needs_input_grad):
            ctx.save_for_backward(x, weight, rise, fall, kept)
        ctx.epsilon, ctx.dtype = epsilon, dtype
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, rise, fall, kept = ctx.saved_tensors
        d_x, d_weight = torch.empty_like(x), torch.zeros_like(weight)
        d_rise, d_fall = (torch.zeros_like(w, dtype=torch.float32) for w in (rise, fall))
        buffer = kept.new_empty((min(ROWS, len(x)), len(rise)))
        for part in _slices(len(x)):
            unit, inverse = _unit(x[part], ctx.epsilon)
            inner, g = (unit * weight).to(ctx.dtype), grad[part].to(ctx.dtype)
            left, right = kept[part].chunk(2, -1)
            d_both = buffer[: len(g)]
            d_left, d_right = d_both.chunk(2, -1)
            share = left.sigmoid()
            silu = left * share
            _add_product(d_fall, g.t(), silu * right)
            d_hidden = g @ fall
            torch.mul(d_hidden, silu, out=d_right)
            # d silu / d gate = share + silu (1 - share)
            torch.addcmul(silu, silu, share, value=-1, out=d_left)
            d_left.add_(share).mul_(right).mul_(d_hidden)
            _add_product(d_rise, d_both.t(), inner)
            d_inner = (d_both @ rise).float()
            d_weight += (d_inner * unit).sum(0)
            torch.add(grad[part], _unit_gradient(d_inner, unit, inverse, weight), out=d_x[part])
        d_gate, d_up = d_rise.chunk(2)
        return d_x, d_weight, d_gate, d_up, d_fall, None, None


class _Heads(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        cos: Tensor,
        sin: Tensor,
        epsilon: float,
        dtype: torch.dtype,
    ) -> tuple[Tensor, ...]:
        all_three = torch.cat([query, key, value]).to(dtype)
        sizes = [len(query), len(key), len(value)]
        out = [x.new_empty((len(x), size)) for size in sizes]
        for part in _slices(len(x)):
            inner = (_unit(x[part], epsilon)[0] * weight).to(dtype)
            q, k, v = (inner @ all_three.t()).float().split(sizes, -1)
            for source, target in ((q, out[0]), (k, out[1])):
                _turn(source, target[part], cos[part], sin[part])
            out[2][part] = v
        if any(ctx.needs_input_grad):
            ctx.save_for_backward(x, weight, all_three, cos, sin)
        ctx.epsilon, ctx.dtype, ctx.sizes = epsilon, dtype, sizes
        return tuple(out)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, all_three, cos, sin = ctx.saved_tensors
        d_x, d_weight = torch.empty_like(x), torch.zeros_like(weight)
        d_all = torch.zeros_like(all_three, dtype=torch.float32)
        buffer = x.new_empty((min(ROWS, len(x)), len(all_three)))
        for part in _slices(len(x)):
            unit, inverse = _unit(x[part], ctx.epsilon)
            inner = (unit * weight).to(ctx.dtype)
            d_three = buffer[: len(unit)]
            d_q, d_k, d_v = d_three.split(ctx.sizes, -1)
            for source, target in ((grads[0], d_q), (grads[1], d_k)):
                _turn(source[part], target, cos[part], -sin[part])  # a turn's transpose is the turn back
            d_v.copy_(grads[2][part])
            d_narrow = d_three.to(ctx.dtype)
            _add_product(d_all, d_narrow.t(), inner)
            d_inner = (d_narrow @ all_three).float()
            d_weight += (d_inner * unit).sum(0)
            d_x[part] = _unit_gradient(d_inner, unit, inverse, weight)
        d_query, d_key, d_value = d_all.split(ctx.sizes)
        return d_x, d_weight, d_query, d_key, d_value, None, None, None, None


def _turn(source: Tensor, target: Tensor, cos: Tensor, sin: Tensor) -> None:
    """`rotary` from one [n, heads D] into another."""
    half = cos.shape[-1]
    heads = source.shape[1] // (2 * half), 2 * half
    a, b = source.unflatten(1, heads).chunk(2, -1)
    c, d = target.unflatten(1, heads).chunk(2, -1)
    torch.mul(a, cos, out=c)
    c.addcmul_(b, sin, value=-1)
    torch.mul(b, cos, out=d)
    d.addcmul_(a, sin)
