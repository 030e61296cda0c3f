"""Hand-written gradients against the definitions, differentiated by torch."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from trueup.ops.fused import rms_norm, rotary, swiglu


def test_swiglu_by_hand() -> None:
    # silu(x) = x sigmoid(x): silu(0) = 0 with slope 1/2; silu(ln 3) = ln 3 * 3/4
    x = torch.tensor([[0.0, math.log(3), 2.0, 4.0]], requires_grad=True)
    out = swiglu(x)
    torch.testing.assert_close(out.detach(), torch.tensor([[0.0, 3 * math.log(3)]]), rtol=0, atol=1e-6)
    out.sum().backward()
    # d/dgate = up * (s + x s (1 - s)): 2 * 1/2 = 1 and 4 * (3/4 + ln 3 * 3/16); d/dup = silu(gate)
    slope = 4 * (0.75 + math.log(3) * 3 / 16)
    assert x.grad is not None
    torch.testing.assert_close(x.grad, torch.tensor([[1.0, slope, 0.0, 0.75 * math.log(3)]]), rtol=0, atol=1e-6)


def test_rms_norm_by_hand() -> None:
    # mean square of (3, 4) is 12.5
    out = rms_norm(torch.tensor([[3.0, 4.0]]), torch.tensor([1.0, 10.0]), 0.0)
    torch.testing.assert_close(out, torch.tensor([[3.0, 40.0]]) / math.sqrt(12.5), rtol=0, atol=1e-6)


def test_rotary_by_hand() -> None:
    # a quarter turn takes (1, 0) of each pair to (0, 1); pairs are (x0, x2) and (x1, x3)
    zero, one = torch.zeros(1, 1, 2), torch.ones(1, 1, 2)
    out = rotary(torch.tensor([[[1.0, 2.0, 0.0, 0.0]]]), zero, one)
    torch.testing.assert_close(out, torch.tensor([[[0.0, 0.0, 1.0, 2.0]]]), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["swiglu", "rms_norm"])
def test_gradients_equal_autograd(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight, upstream = torch.randn(5, 8, generator=generator), torch.randn(8, generator=generator), torch.randn(5, 8, generator=generator)
    results = []
    for lean in (True, False):
        a, w = x.clone().requires_grad_(), weight.clone().requires_grad_()
        if name == "swiglu":
            gate, up = a.chunk(2, -1)
            out = swiglu(a) if lean else F.silu(gate) * up
        else:
            out = rms_norm(a, w, 1e-6) if lean else F.rms_norm(a, (8,), w, 1e-6)
        (out * upstream[:, : out.shape[1]]).sum().backward()
        results.append((out.detach(), a.grad, w.grad))
    for mine, reference in zip(*results, strict=True):
        if reference is not None:
            torch.testing.assert_close(mine, reference, rtol=0, atol=1e-5)
