"""Corners of the tensor mathematics: single tokens, constant rewards, empty masks, narrow precision."""

from __future__ import annotations

import math

import pytest
import torch

from trueup.ops import fused, logprobs
from trueup.ops.fused import NormWeight, mlp_block, project_heads
from trueup.ops.logprobs import entropy, exact_kl, head_logprobs
from trueup.ops.returns import gae, moments, rescale, standardise
from trueup.ops.weights import row_mean, sequence_mean, token_mean

ONE = torch.tensor([[True]])


def test_a_reply_of_one_token() -> None:
    assert gae(torch.tensor([[2.0]]), torch.tensor([[0.5]]), ONE, 0.9, 0.9).item() == 1.5
    assert token_mean(ONE, 1).item() == 1
    assert row_mean(torch.zeros(1), 1).item() == 1
    assert sequence_mean(ONE, 1).item() == 1


def test_of_nothing_the_weight_is_zero() -> None:
    nothing = torch.zeros(2, 3, dtype=torch.bool)
    assert token_mean(nothing, 0).tolist() == [[0.0] * 3] * 2
    assert sequence_mean(nothing, 0).tolist() == [[0.0] * 3] * 2
    assert row_mean(torch.zeros(2), 0).tolist() == [1.0, 1.0]


def test_a_constant_has_no_deviation_to_divide_by() -> None:
    x, mask = torch.full((1, 3), 0.1), torch.ones(1, 3, dtype=torch.bool)
    assert standardise(x, mask, moments(x, mask)).abs().max() < 1e-3
    assert rescale(x, mask, moments(x, mask)).tolist()[0] == pytest.approx([0.1] * 3, abs=1e-3)


def test_epsilon_is_added_to_the_variance() -> None:
    # -1 and 1: variance 1, plus 3 gives a deviation of 2
    x, mask = torch.tensor([[-1.0, 1.0]]), torch.ones(1, 2, dtype=torch.bool)
    totals = moments(x, mask)
    assert standardise(x, mask, totals, 3.0).tolist() == [[-0.5, 0.5]]
    assert rescale(x + 5, mask, moments(x + 5, mask), 3.0).tolist() == [[4.5, 5.5]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_whitening_keeps_the_precision_given(dtype: torch.dtype) -> None:
    x, mask = torch.tensor([[1.0, 3.0]], dtype=dtype), torch.ones(1, 2, dtype=torch.bool)
    totals = moments(x, mask)
    assert totals.dtype == torch.float64
    for found in (standardise(x, mask, totals), rescale(x, mask, totals)):
        assert found.dtype == dtype


def test_more_tokens_than_float32_can_count() -> None:
    n = 2**24 + 1
    assert moments(torch.ones(1).expand(1, n), torch.ones(1, dtype=torch.bool).expand(1, n)).tolist() == [n, n, n]


def test_the_head_at_another_temperature() -> None:
    # logits 0 and 2 ln 3 at temperature 2: weights 1 and 3. Of token 1: d/dw = (onehot - p) h / 2 = (-1/8, 1/8)
    w = torch.tensor([[0.0], [2 * math.log(3)]], requires_grad=True)
    out = head_logprobs(torch.ones(1, 1), w, torch.tensor([1]), 2.0)
    out.sum().backward()
    assert out.item() == pytest.approx(math.log(3 / 4), abs=1e-6)
    assert w.grad is not None
    torch.testing.assert_close(w.grad, torch.tensor([[-0.125], [0.125]]), rtol=0, atol=1e-6)


@pytest.mark.parametrize("kept", [1 << 20, 0], ids=["logits kept", "logits computed again"])
def test_the_head_multiplies_in_bfloat16_and_adds_in_float32(monkeypatch: pytest.MonkeyPatch, kept: int) -> None:
    # 600 states of 1, weights 0: p = 1/2 each, so d/dw of token 0 is +-1/2 a row, 300 in all. In bfloat16 a sum of halves stops at 128.
    monkeypatch.setattr(logprobs, "CHUNK", 2)  # one row at a time
    monkeypatch.setattr(logprobs, "KEPT", kept)
    for weights in (torch.float32, torch.bfloat16):
        h = torch.ones(600, 1, dtype=torch.bfloat16, requires_grad=True)
        w = torch.zeros(2, 1, dtype=weights, requires_grad=True)
        out = head_logprobs(h, w, torch.zeros(600, dtype=torch.int64))
        assert out.dtype == torch.float32
        assert out.tolist() == pytest.approx([-math.log(2)] * 600, abs=1e-6)
        out.sum().backward()
        assert w.grad is not None
        assert h.grad is not None
        assert (w.grad.dtype, h.grad.dtype) == (weights, torch.bfloat16)
        assert w.grad.tolist() == [[300.0], [-300.0]]
        assert not h.grad.any()  # (onehot - p) times weights of 0


def test_double_precision_stays_double() -> None:
    # p = 1/2 + d and q = 1/2 - d: KL is 8 d^2 to first order, far below what float32 can tell from 0
    d = 1e-8
    p, q = (torch.tensor([0.5 + s * d, 0.5 - s * d], dtype=torch.float64).log() for s in (1, -1))
    assert exact_kl(p, q).item() == pytest.approx(8 * d**2, rel=1e-2)
    assert entropy(p).dtype == torch.float64


def test_heads_multiply_in_the_precision_asked_for() -> None:
    # a norm of (1, 1) is (1, 1); bfloat16 knows nothing between 1 and 1 + 2^-7, so 1.003 becomes 1 there, and the product of two such
    # weights, 1.006, which is rounded once, becomes 1 + 2^-7
    x, still = torch.ones(1, 2), torch.ones(1, 1, 1, dtype=torch.complex64)
    weights = torch.eye(2) * 1.003
    for norm, narrow in ((torch.ones(2), 1.0), (torch.full((2,), 1.003), 1 + 2**-7)):
        for dtype, expected in ((torch.bfloat16, narrow), (torch.float32, 1.003 * norm[0].item())):
            for out in project_heads(x, NormWeight(norm, 0.0), weights, weights, weights, still, dtype):
                assert out.dtype == torch.float32
                torch.testing.assert_close(out, torch.full((1, 2), expected), rtol=0, atol=1e-6)


def test_blocks_are_the_same_without_gradients_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(3)
    x, gate, up, down = (torch.randn(s, generator=generator) for s in ((5, 4), (6, 4), (6, 4), (4, 6)))
    norm = NormWeight(torch.ones(4), 1e-6)
    whole = mlp_block(x, norm, gate.requires_grad_(), up, down, torch.float32).detach()
    monkeypatch.setattr(fused, "ROWS", 2)
    with torch.no_grad():
        torch.testing.assert_close(mlp_block(x, norm, gate, up, down, torch.float32), whole, rtol=0, atol=1e-5)
