"""Fused halves of a transformer block: numbers worked out on paper, and hand-written gradients against torch's own."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from trueup.ops import fused
from trueup.ops.fused import NormWeight, mlp_block, project_heads, rms_norm, rotary


def test_mlp_by_hand() -> None:
    # one feature: the norm of any positive x is 1 (epsilon 0). gate = ln 3, up = 2, down = 5: silu(ln 3) = 3/4 ln 3
    x = torch.tensor([[7.0]], requires_grad=True)
    one = torch.ones(1)
    out = mlp_block(x, NormWeight(one, 0.0), torch.tensor([[math.log(3)]]), torch.tensor([[2.0]]), torch.tensor([[5.0]]), torch.float32)
    assert out.item() == pytest.approx(7 + 5 * 2 * 0.75 * math.log(3), abs=1e-5)
    out.sum().backward()
    assert x.grad is not None
    assert x.grad.item() == pytest.approx(1.0, abs=1e-5)  # a norm of one feature has slope 0: only the residual remains


def test_rms_norm_by_hand() -> None:
    # mean square of (3, 4) is 12.5
    out = rms_norm(torch.tensor([[3.0, 4.0]]), NormWeight(torch.tensor([1.0, 10.0]), 0.0))
    torch.testing.assert_close(out, torch.tensor([[3.0, 40.0]]) / math.sqrt(12.5), rtol=0, atol=1e-6)


def test_rotary_by_hand() -> None:
    # a quarter turn takes (1, 0) of each pair to (0, 1); pairs are (x0, x2) and (x1, x3)
    zero, one = torch.zeros(1, 1, 2), torch.ones(1, 1, 2)
    out = rotary(torch.tensor([[[1.0, 2.0, 0.0, 0.0]]]), zero, one)
    torch.testing.assert_close(out, torch.tensor([[[0.0, 0.0, 1.0, 2.0]]]), rtol=0, atol=1e-6)


def leaves(generator: torch.Generator, *shapes: tuple[int, ...]) -> list[Tensor]:
    return [torch.randn(s, generator=generator) for s in shapes]


@pytest.mark.parametrize("rows", [1, 4, 100], ids=["row by row", "with a short last slice", "all at once"])
def test_mlp_and_its_gradient_equal_the_plain_formula(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    monkeypatch.setattr(fused, "ROWS", rows)
    generator = torch.Generator().manual_seed(0)
    values = leaves(generator, (7, 6), (6,), (10, 6), (10, 6), (6, 10))
    (upstream,) = leaves(generator, (7, 6))
    results = []
    for lean in (True, False):
        x, weight, gate, up, down = (v.clone().requires_grad_() for v in values)
        if lean:
            out = mlp_block(x, NormWeight(weight, 1e-6), gate, up, down, torch.float32)
        else:
            inner = F.rms_norm(x, (6,), weight, 1e-6)
            out = x + (F.silu(inner @ gate.t()) * (inner @ up.t())) @ down.t()
        (out * upstream).sum().backward()
        results.append([out.detach(), *(p.grad for p in (x, weight, gate, up, down))])
    for mine, reference in zip(*results, strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rows", [1, 4, 100], ids=["row by row", "with a short last slice", "all at once"])
def test_heads_and_their_gradient_equal_the_plain_formula(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    monkeypatch.setattr(fused, "ROWS", rows)
    generator = torch.Generator().manual_seed(1)
    values = leaves(generator, (7, 6), (6,), (8, 6), (4, 6), (4, 6))  # two heads of four on one key/value head
    upstreams = leaves(generator, (7, 8), (7, 4), (7, 4))
    angles = torch.rand(7, 1, 2, generator=generator) * 6
    cos, sin = angles.cos(), angles.sin()
    results = []
    for lean in (True, False):
        x, weight, query, key, value = (v.clone().requires_grad_() for v in values)
        if lean:
            out = project_heads(x, NormWeight(weight, 1e-6), query, key, value, torch.complex(cos, sin), torch.float32)
        else:
            inner = F.rms_norm(x, (6,), weight, 1e-6)
            q, k = (rotary((inner @ w.t()).view(7, -1, 4), cos, sin).reshape(7, -1) for w in (query, key))
            # numbers that turn together become neighbours: 0, 2, 1, 3 of each head of four
            out = (*(y.view(7, -1, 4)[..., [0, 2, 1, 3]].reshape(7, -1) for y in (q, k)), inner @ value.t())
        sum((o * u).sum() for o, u in zip(out, upstreams, strict=True)).backward()  # type: ignore[union-attr]
        results.append([*(o.detach() for o in out), *(p.grad for p in (x, weight, query, key, value))])
    for mine, reference in zip(*results, strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-5, atol=1e-5)


def test_queries_or_keys_may_be_left_out() -> None:
    generator = torch.Generator().manual_seed(3)
    x, weight, query, key, value, angles = leaves(generator, (5, 6), (6,), (4, 6), (4, 6), (4, 6), (5, 1, 2))
    nothing, turn, norm = torch.empty(0, 6), torch.polar(torch.ones_like(angles), angles), NormWeight(weight, 1e-6)
    q, k, v = project_heads(x, norm, query, key, value, turn, torch.float32)
    alone, *rest = project_heads(x, norm, query, nothing, nothing, turn, torch.float32)
    assert [r.shape for r in rest] == [(5, 0), (5, 0)]
    torch.testing.assert_close(alone, q, rtol=0, atol=1e-6)
    _, *both = project_heads(x, norm, nothing, key, value, turn, torch.float32)
    torch.testing.assert_close(both, [k, v], rtol=0, atol=1e-6)


def test_narrow_products_stay_near_and_give_float32_gradients() -> None:
    generator = torch.Generator().manual_seed(2)
    values = leaves(generator, (5, 8), (8,), (16, 8), (16, 8), (8, 16))
    outcomes = []
    for dtype in (torch.float32, torch.bfloat16):
        x, weight, gate, up, down = (v.mul(0.5).requires_grad_() for v in values)
        out = mlp_block(x, NormWeight(weight, 1e-6), gate, up, down, dtype)
        out.pow(2).sum().backward()
        outcomes.append([out.detach(), x.grad, gate.grad, down.grad])
    for wide, narrow in zip(*outcomes, strict=True):
        assert wide is not None
        assert narrow is not None
        assert narrow.dtype == torch.float32
        assert 0 < (wide - narrow).abs().max() < 0.03 * wide.abs().max()
