"""Pieces of a transformer block with hand-written gradients, which write into one buffer where autograd would fill, copy and add."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def swiglu(gate_up: Tensor) -> Tensor:
    """silu(gate) * up of two halves: [n, 2 I] -> [n, I] (Shazeer 2020, arXiv 2002.05202)."""
    out: Tensor = _SwiGLU.apply(gate_up)
    return out


def rms_norm(x: Tensor, weight: Tensor, epsilon: float, dtype: torch.dtype | None = None) -> Tensor:
    """x / sqrt(mean(x^2) + epsilon) * weight over the last dimension, computed in float32, given in ``dtype``: [n, W] -> [n, W]."""
    out: Tensor = _RMSNorm.apply(x, weight, epsilon, dtype or x.dtype)
    return out


def rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the halves of the last dimension: [n, heads, D] with [n, 1, D/2] (Su et al. 2021, arXiv 2104.09864)."""
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:
        ctx.save_for_backward(gate_up)
        gate, up = gate_up.chunk(2, -1)
        return F.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (gate_up,) = ctx.saved_tensors
        gate, up = gate_up.chunk(2, -1)
        out = torch.empty_like(gate_up)
        d_gate, d_up = out.chunk(2, -1)
        share = torch.sigmoid(gate)
        torch.mul(gate, share, out=d_up)  # silu(gate)
        # d silu = share + silu (1 - share)
        torch.sub(share, d_up * share, out=d_gate)
        d_gate.add_(d_up).mul_(up).mul_(grad)
        d_up.mul_(grad)
        return out


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float, dtype: torch.dtype) -> Tensor:
        wide = x.float()
        inverse = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).pow_(2).div_(x.shape[-1]).add_(epsilon).rsqrt_()
        unit = wide * inverse
        ctx.save_for_backward(unit, inverse, weight)
        return (unit * weight).to(dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        unit, inverse, weight = ctx.saved_tensors
        grad = grad.float()
        d_weight = (grad * unit).sum(0)
        d_unit = grad * weight
        along = (d_unit * unit).mean(-1, keepdim=True)
        return d_unit.sub_(unit * along).mul_(inverse), d_weight, None, None
