"""Log-probabilities, entropy and exact KL against numbers that can be worked out on paper."""

from __future__ import annotations

import math

import pytest
import torch

from trueup.ops import logprobs
from trueup.ops.logprobs import chosen_logprobs, entropy, exact_kl, head_logprobs

LN2, LN5 = math.log(2), math.log(5)


def test_chosen_tokens_of_three_words() -> None:
    # exp(0), exp(ln 2), exp(ln 5) = 1, 2, 5: probabilities 1/8, 2/8, 5/8
    logits = torch.tensor([[[0.0, LN2, LN5], [0.0, LN2, LN5], [0.0, LN2, LN5]]])
    found = chosen_logprobs(logits, torch.tensor([[0, 1, 2]]), torch.ones(1, 3, dtype=torch.bool))
    torch.testing.assert_close(found, torch.tensor([[-3 * LN2, -2 * LN2, LN5 - 3 * LN2]]), rtol=0, atol=1e-6)


def test_temperature_divides_logits() -> None:
    # at temperature 2 the weights are the square roots: 1 and 2 of logits 0 and ln 4, so probability 2/3
    found = chosen_logprobs(torch.tensor([[[0.0, 2 * LN2]]]), torch.tensor([[1]]), torch.ones(1, 1, dtype=torch.bool), temperature=2.0)
    assert found.item() == pytest.approx(math.log(2 / 3), abs=1e-6)


def test_masked_positions_are_zero_even_where_logits_are_not_numbers() -> None:
    logits = torch.tensor([[[0.0, 0.0], [math.nan, math.inf]]], requires_grad=True)
    found = chosen_logprobs(logits, torch.tensor([[0, 1]]), torch.tensor([[True, False]]))
    assert found.tolist() == [[pytest.approx(-LN2), 0.0]]


def test_entropy_and_exact_kl() -> None:
    # p = 1/2, 1/4, 1/4 and q = 1/4, 1/4, 1/2
    # H(p) = 1/2 ln 2 + 2 * 1/4 * 2 ln 2 = 3/2 ln 2;  KL(p||q) = 1/2 ln 2 + 0 - 1/4 ln 2 = 1/4 ln 2
    p, q = torch.tensor([[LN2, 0.0, 0.0]]), torch.tensor([[0.0, 0.0, LN2]])
    assert entropy(p).item() == pytest.approx(1.5 * LN2, abs=1e-6)
    assert exact_kl(p, q).item() == pytest.approx(0.25 * LN2, abs=1e-6)
    assert exact_kl(p, p).item() == 0.0


def test_kl_is_not_symmetric_and_keeps_its_direction() -> None:
    # p = 1/2, 1/2 and q = 1/4, 3/4: KL(p||q) = 1/2 ln 2 + 1/2 ln(2/3); KL(q||p) = 1/4 ln(1/2) + 3/4 ln(3/2)
    p, q = torch.tensor([0.0, 0.0]), torch.tensor([0.0, math.log(3)])
    assert exact_kl(p, q).item() == pytest.approx(0.5 * LN2 + 0.5 * math.log(2 / 3), abs=1e-6)
    assert exact_kl(q, p).item() == pytest.approx(-0.25 * LN2 + 0.75 * math.log(1.5), abs=1e-6)


def test_impossible_tokens_count_nothing() -> None:
    ruled_out = torch.tensor([[0.0, 0.0, -math.inf]])
    assert entropy(ruled_out).item() == pytest.approx(LN2, abs=1e-6)  # two equal tokens
    assert exact_kl(ruled_out, ruled_out).item() == 0.0


def test_kl_and_entropy_keep_leading_shape_over_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    p, q = (torch.randn(3, 5, 7, generator=generator) for _ in range(2))
    whole = exact_kl(p, q), entropy(p)
    monkeypatch.setattr(logprobs, "CHUNK", 14)  # two rows of seven at a time
    torch.testing.assert_close(exact_kl(p, q), whole[0], rtol=0, atol=1e-6)
    torch.testing.assert_close(entropy(p), whole[1], rtol=0, atol=1e-6)
    assert whole[0].shape == (3, 5)


@pytest.mark.parametrize("kept", [1 << 20, 0], ids=["logits kept", "logits computed again"])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_head_in_chunks_equals_the_plain_formula_and_gradient(monkeypatch: pytest.MonkeyPatch, kept: int, temperature: float) -> None:
    monkeypatch.setattr(logprobs, "CHUNK", 3 * 11)  # three rows of eleven words at a time, so the last chunk is short
    monkeypatch.setattr(logprobs, "KEPT", kept)
    generator = torch.Generator().manual_seed(1)
    hidden, weight = torch.randn(7, 4, generator=generator), torch.randn(11, 4, generator=generator)
    tokens, upstream = torch.randint(11, (7,), generator=generator), torch.randn(7, generator=generator)
    results = []
    for lean in (True, False):
        h, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
        plain = (h @ w.t() / temperature).log_softmax(-1).gather(1, tokens[:, None]).squeeze(1)
        out = head_logprobs(h, w, tokens, temperature) if lean else plain
        (out * upstream).sum().backward()
        results.append((out.detach(), h.grad, w.grad))
    for mine, reference in zip(*results, strict=True):
        torch.testing.assert_close(mine, reference, rtol=0, atol=1e-5)


def test_head_by_hand() -> None:
    # one state 1, weights 0 and ln 3: probabilities 1/4 and 3/4. Of token 0: d/dw = (onehot - p) h = (3/4, -3/4), d/dh = -3/4 ln 3
    h, w = torch.tensor([[1.0]], requires_grad=True), torch.tensor([[0.0], [math.log(3)]], requires_grad=True)
    out = head_logprobs(h, w, torch.tensor([0]))
    out.sum().backward()
    assert out.item() == pytest.approx(-2 * LN2, abs=1e-6)
    assert w.grad is not None
    assert h.grad is not None
    torch.testing.assert_close(w.grad, torch.tensor([[0.75], [-0.75]]), rtol=0, atol=1e-6)
    assert h.grad.item() == pytest.approx(-0.75 * math.log(3), abs=1e-6)


def test_no_rows_is_no_error() -> None:
    h = torch.zeros(0, 4, requires_grad=True)
    head_logprobs(h, torch.zeros(5, 4), torch.zeros(0, dtype=torch.int64)).sum().backward()
    assert h.grad is not None
    assert h.grad.shape == (0, 4)
