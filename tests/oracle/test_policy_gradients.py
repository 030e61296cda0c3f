"""Estimators against brute force: every reply of a tiny language is enumerated, so expectations and gradients are exact."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch

from tests_support import tiny_policy
from trueup.core.rng import Key
from trueup.data.tokens import Sequences
from trueup.models.policy import Policy
from trueup.ops.kl import chi2_term, kl_k1, kl_k2, kl_k3, sqrt_chi2_penalty
from trueup.ops.logprobs import exact_kl
from trueup.ops.masking import sequence_sum
from trueup.ops.policy_gradient import clipped_surrogate, leave_one_out, pair_joint, pair_separate, reinforce

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


def every_pair(lp: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """[n^2, 2] rows of all ordered pairs, and [n^2] their probability."""
    n = len(lp)
    i, j = torch.meshgrid(torch.arange(n), torch.arange(n), indexing="ij")
    pairs = torch.stack([i.flatten(), j.flatten()], 1)
    return pairs, lp.exp().detach()[pairs].prod(1)


@pytest.mark.parametrize("surrogate", [pair_separate, pair_joint])
def test_pairs_averaged_over_all_are_the_exact_gradient_and_rloo(
    surrogate: Callable[..., tuple[torch.Tensor, torch.Tensor]], world: tuple[Policy, Sequences, torch.Tensor]
) -> None:
    policy, everything, score = world
    exact = grads(-(logp(policy, everything).exp() * score).sum(), policy)
    lp = logp(policy, everything)
    pairs, chance = every_pair(lp)
    loss, clipped = surrogate(lp[pairs], lp[pairs].detach(), score[pairs], 0.2)
    assert not clipped.any()
    assert_same(exact, grads((chance * loss).sum(), policy))
    # and pair by pair it is RLOO with K = 2: here one pair that differs much
    lp, one = logp(policy, everything), torch.tensor([[3, 11]])
    rows = torch.ones(2, dtype=torch.bool)
    rloo = clipped_surrogate(lp[one[0]], lp[one[0]].detach(), leave_one_out(score[one[0]], 2), rows, 0.2).loss.mean()
    expected, lp = grads(rloo, policy), logp(policy, everything)
    assert_same(expected, grads(surrogate(lp[one], lp[one].detach(), score[one], 0.2)[0].sum(), policy))


@pytest.mark.parametrize("baseline", [0.0, 0.7])
def test_reinforce_with_a_constant_baseline_is_the_exact_gradient(baseline: float, world: tuple[Policy, Sequences, torch.Tensor]) -> None:
    policy, everything, score = world
    exact = grads(-(logp(policy, everything).exp() * score).sum(), policy)
    lp = logp(policy, everything)
    rows = torch.ones_like(score, dtype=torch.bool)
    assert_same(exact, grads((lp.exp().detach() * clipped_surrogate(lp, lp.detach(), score - baseline, rows, 0.2).loss).sum(), policy))


def test_kl_in_the_loss_has_the_gradients_that_are_stated(world: tuple[Policy, Sequences, torch.Tensor]) -> None:
    policy, everything, _ = world
    other = tiny_policy(4, spread=0.4)
    other.model.double()
    ref = logp(other, everything).detach()
    lp = logp(policy, everything)
    p = lp.exp().detach()

    def on_policy(term: torch.Tensor) -> list[torch.Tensor]:
        return grads((p * term).sum(), policy)

    reverse = grads((lp.exp() * (lp - ref)).sum(), policy)
    lp = logp(policy, everything)
    forward = grads((ref.exp() * (ref - lp)).sum(), policy)
    lp = logp(policy, everything)
    assert_same(on_policy(kl_k2(lp - ref)), reverse)
    lp = logp(policy, everything)
    assert_same(on_policy(kl_k3(lp - ref)), forward)
    lp = logp(policy, everything)
    assert_same(on_policy(kl_k1(lp - ref)), [torch.zeros_like(g) for g in reverse])
    # the root of chi^2 = sum pi^2/ref - 1, with the penalty held constant as rewards are
    lp = logp(policy, everything)
    root = grads(((2 * lp - ref).exp().sum() - 1).sqrt(), policy)
    lp = logp(policy, everything)
    gap = (lp - ref).detach()
    chi2 = (p * chi2_term(gap)).sum()
    assert chi2.item() == pytest.approx(((2 * lp - ref).exp().sum() - 1).item(), rel=1e-6)
    assert_same(on_policy(sqrt_chi2_penalty(gap, chi2) * lp), root)
