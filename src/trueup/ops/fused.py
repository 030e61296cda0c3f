"""Halves of a Llama block with hand-written gradients, worked through in slices of rows that stay in the cache.

On a CPU the element-wise steps between matrix products cost as much as the products when whole batches pass through memory for each of
them. Values are those of the plain formulas up to rounding; gradients of gradients are not defined.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Complex, Float
from torch import Tensor
from torch.autograd.function import once_differentiable

ROWS = 512
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
    turn: Complex[Tensor, "n 1 half"],
    dtype: torch.dtype,
) -> tuple[Float[Tensor, "n HD"], Float[Tensor, "n GD"], Float[Tensor, "n GD"]]:
    """Queries and keys, turned by their positions, and values, of norm(x). A weight without rows gives a result without columns.

    The two numbers that turn together, i and D/2 + i of a head, come out as neighbours, 2i and 2i + 1: a complex number, so that a turn is
    one product. Queries and keys are reordered alike, and attention sees their inner products only.

    Args:
        x: [n, W] residual stream, float32.
        norm: of the block's input.
        query: [H D, W].
        key: [G D, W].
        value: [G D, W].
        turn: [n, 1, D/2] complex64, exp(i angle).
        dtype: precision of matrix products.

    Returns:
        [n, H D], [n, G D], [n, G D] float32.
    """
    out: tuple[Tensor, Tensor, Tensor] = _Heads.apply(x, norm.weight, query, key, value, turn, norm.epsilon, dtype)
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


def _unit_gradient(d_unit: Tensor, unit: Tensor, inverse: Tensor) -> Tensor:
    """Gradient of `_unit`'s input, from that of its output, which is overwritten."""
    along = (d_unit * unit).mean(-1, keepdim=True)
    return d_unit.addcmul_(unit, along, value=-1).mul_(inverse)


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """total += a b, where ``total`` is float32 and the factors may be narrower."""
    if a.dtype == total.dtype:
        total.addmm_(a, b)
    else:
        total.add_(a @ b)


class _MLP(torch.autograd.Function):
    # the norm's weight is multiplied into the rows that read it, once, instead of into every token
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, gate: Tensor, up: Tensor, down: Tensor, epsilon: float, dtype: torch.dtype) -> Tensor:
        rise, fall = (torch.cat([gate, up]) * weight).to(dtype), down.to(dtype)
        kept = x.new_empty((len(x) if any(ctx.needs_input_grad) else ROWS, len(rise)), dtype=dtype)
        out = torch.empty_like(x)
        for part in _slices(len(x)):
            inner = _unit(x[part], epsilon)[0].to(dtype)
            held = kept[part] if len(kept) == len(x) else kept[: len(inner)]
            torch.mm(inner, rise.t(), out=held)
            left, right = held.chunk(2, -1)
            torch.add(x[part], F.silu(left).mul_(right) @ fall.t(), out=out[part])
        if any(ctx.needs_input_grad):
            ctx.save_for_backward(x, weight, gate, up, rise, fall, kept)
        ctx.epsilon, ctx.dtype = epsilon, dtype
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, gate, up, rise, fall, kept = ctx.saved_tensors
        d_x = torch.empty_like(x)
        d_rise, d_fall = (torch.zeros_like(w, dtype=torch.float32) for w in (rise, fall))
        buffer = kept.new_empty((min(ROWS, len(x)), len(rise)))
        for part in _slices(len(x)):
            unit, inverse = _unit(x[part], ctx.epsilon)
            g = grad[part].to(ctx.dtype)
            left, right = kept[part].chunk(2, -1)
            d_both = buffer[: len(g)]
            d_left, d_right = d_both.chunk(2, -1)
            silu = F.silu(left)
            _add_product(d_fall, g.t(), silu * right)
            d_hidden = g @ fall
            torch.mul(d_hidden, silu, out=d_right)
            torch.ops.aten.silu_backward.grad_input(d_hidden.mul_(right), left, grad_input=d_left)
            _add_product(d_rise, d_both.t(), unit.to(ctx.dtype))
            torch.add(grad[part], _unit_gradient((d_both @ rise).float(), unit, inverse), out=d_x[part])
        d_gate, d_up = (d_rise * weight).chunk(2)
        return d_x, (d_rise * torch.cat([gate, up])).sum(0), d_gate, d_up, d_fall, None, None


class _Heads(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, query: Tensor, key: Tensor, value: Tensor, turn: Tensor, epsilon: float, dtype: torch.dtype
    ) -> tuple[Tensor, ...]:
        half, sizes = turn.shape[-1], [len(query), len(key), len(value)]
        plain = torch.cat([_neighbours(query, half), _neighbours(key, half), value])
        all_three = (plain * weight).to(dtype)
        out = [x.new_empty((len(x), size)) for size in sizes]
        for part in _slices(len(x)):
            inner = _unit(x[part], epsilon)[0].to(dtype)
            q, k, v = (inner @ all_three.t()).float().split(sizes, -1)
            for source, target in ((q, out[0]), (k, out[1])):
                torch.mul(_complex(source, half), turn[part], out=_complex(target[part], half))
            out[2][part] = v
        if any(ctx.needs_input_grad):
            ctx.save_for_backward(x, weight, plain, all_three, turn)
        ctx.epsilon, ctx.dtype, ctx.sizes = epsilon, dtype, sizes
        return tuple(out)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, plain, all_three, turn = ctx.saved_tensors
        d_x, half = torch.empty_like(x), turn.shape[-1]
        d_all = torch.zeros_like(all_three, dtype=torch.float32)
        buffer, back = x.new_empty((min(ROWS, len(x)), len(all_three))), turn.conj().resolve_conj()  # a turn's transpose is the turn back
        for part in _slices(len(x)):
            unit, inverse = _unit(x[part], ctx.epsilon)
            d_three = buffer[: len(unit)]
            d_q, d_k, d_v = d_three.split(ctx.sizes, -1)
            for source, target in ((grads[0], d_q), (grads[1], d_k)):
                torch.mul(_complex(source[part].contiguous(), half), back[part], out=_complex(target, half))
            d_v.copy_(grads[2][part])
            d_narrow = d_three.to(ctx.dtype)
            _add_product(d_all, d_narrow.t(), unit.to(ctx.dtype))
            d_x[part] = _unit_gradient((d_narrow @ all_three).float(), unit, inverse)
        d_query, d_key, d_value = (d_all * weight).split(ctx.sizes)
        d_weight = (d_all * plain).sum(0)
        return d_x, d_weight, _halves(d_query, half), _halves(d_key, half), d_value, None, None, None


def _neighbours(weight: Tensor, half: int) -> Tensor:
    """Rows i and half + i of each head -> rows 2i and 2i + 1: [heads D, W] -> the same."""
    return weight.view(len(weight) // (2 * half), 2, half, weight.shape[1]).transpose(1, 2).reshape(weight.shape)


def _halves(weight: Tensor, half: int) -> Tensor:
    """The inverse of `_neighbours`."""
    return weight.view(len(weight) // (2 * half), half, 2, weight.shape[1]).transpose(1, 2).reshape(weight.shape)


def _complex(y: Tensor, half: int) -> Tensor:
    """Neighbours as complex numbers: [n, heads D] -> [n, heads, D/2], the same memory."""
    return torch.view_as_complex(y.unflatten(1, (y.shape[1] // (2 * half), half, 2)))
