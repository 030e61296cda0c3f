"""Estimators against brute force: every reply of a tiny language is enumerated, so expectations and gradients are exact."""

from __future__ import annotations

import itertools

import pytest
import torch

from tests_support import tiny_policy
from trueup.core.rng import Key
from trueup.data.tokens import Sequences
from trueup.models.policy import Policy
from trueup.ops.kl import kl_k1, kl_k2, kl_k3
from trueup.ops.logprobs import exact_kl
from trueup.ops.masking import sequence_sum
from trueup.ops.policy_gradient import clipped_surrogate, leave_one_out, reinforce

LENGTH, EOS = 2, 1


def every_reply(policy: Policy) -> Sequences:
    """All replies of up to LENGTH tokens: those that end, and those cut at LENGTH."""
    vocabulary = range(len(policy.tokenizer))
    rows = [(EOS,)] + [(a, b) for a, b in itertools.product(vocabulary, repeat=2) if a != EOS]
    tokens = torch.zeros(len(rows), 1 + LENGTH, dtype=torch.int64)
    mask = torch.zeros(len(rows), LENGTH, dtype=torch.bool)
    for i, row in enumerate(rows):
        tokens[i, 0] = 5
        tokens[i, 1 : 1 + len(row)] = torch.tensor(row)
        mask[i, : len(row)] = True
    return Sequences(tokens=tokens, prompt_mask=torch.ones(len(rows), 1, dtype=torch.bool), mask=mask)


@pytest.fixture
def world() -> tuple[Policy, Sequences, torch.Tensor]:
    policy = tiny_policy(3, spread=0.4)
    policy.model.double()
    everything = every_reply(policy)
    score = torch.from_numpy(Key(1).generator().standard_normal(len(everything)))
    return policy, everything, score


def logp(policy: Policy, seq: Sequences) -> torch.Tensor:
    return sequence_sum(policy.logits(seq).log_softmax(-1).gather(-1, seq.replies[..., None]).squeeze(-1), seq.mask)


def grads(loss: torch.Tensor, policy: Policy) -> list[torch.Tensor]:
    return [g for g in torch.autograd.grad(loss, list(policy.model.parameters()), allow_unused=True) if g is not None]


def assert_same(a: list[torch.Tensor], b: list[torch.Tensor]) -> None:
    assert a
    for x, y in zip(a, b, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-7)


def test_the_enumeration_is_complete(world: tuple[Policy, Sequences, torch.Tensor]) -> None:
    policy, everything, _ = world
    assert logp(policy, everything).exp().sum().item() == pytest.approx(1.0, abs=1e-9)


def test_reinforce_is_the_gradient_of_expected_reward(world: tuple[Policy, Sequences, torch.Tensor]) -> None:
    policy, everything, score = world
    exact = grads(-(logp(policy, everything).exp() * score).sum(), policy)
    lp = logp(policy, everything)
    assert_same(exact, grads((lp.exp().detach() * reinforce(lp, score)).sum(), policy))


def test_rloo_averaged_over_every_pair_is_the_exact_gradient(world: tuple[Policy, Sequences, torch.Tensor]) -> None:
    policy, everything, score = world
    exact = grads(-(logp(policy, everything).exp() * score).sum(), policy)
    lp = logp(policy, everything)
    p = lp.exp().detach()
    n = len(everything)
    i, j = torch.meshgrid(torch.arange(n), torch.arange(n), indexing="ij")
    pairs = torch.stack([i.flatten(), j.flatten()], 1)
    advantage = leave_one_out(score[pairs].flatten(), 2).view(-1, 2)
    surrogate = clipped_surrogate(lp[pairs], lp[pairs].detach(), advantage, torch.ones_like(pairs, dtype=torch.bool), 0.2)
    assert_same(exact, grads((p[pairs].prod(1) * surrogate.loss.mean(1)).sum(), policy))


def test_kl_estimators_agree_with_the_exact_kl(world: tuple[Policy, Sequences, torch.Tensor]) -> None:
    policy, everything, _ = world
    other = tiny_policy(4, spread=0.4)
    other.model.double()
    with torch.no_grad():
        ours, theirs = logp(policy, everything), logp(other, everything)
        p, ratio = ours.exp(), ours - theirs
        true = (p * ratio).sum().item()
        assert (p * kl_k1(ratio)).sum().item() == pytest.approx(true)
        assert (p * kl_k3(ratio)).sum().item() == pytest.approx(true)
        assert (p * kl_k2(ratio)).sum().item() != pytest.approx(true, rel=1e-2)
        # Rao-Blackwell: the expected sum of per-position KLs along sampled prefixes is the sequence KL
        per_position = sequence_sum(exact_kl(policy.logits(everything), other.logits(everything)).double(), everything.mask)
        assert (p * per_position).sum().item() == pytest.approx(true, rel=1e-4)
