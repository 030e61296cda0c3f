"""Online optimizers whose fixed point is not the maximum of E r - beta KL(pi || ref): each against its own, derived here."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tests.oracle.enumerated import Floats, Table, kl_to, make_world, trained
from trueup.optimizers.best_of_n_distill import BestOfNDistillConfig
from trueup.optimizers.grpo import GRPOConfig
from trueup.optimizers.online_dpo import OnlineDPOConfig
from trueup.optimizers.raft import RaftConfig
from trueup.optimizers.rloo import RLOOConfig
from trueup.sandbox.exact import expectation

WORLD = make_world()
REF, REWARD = WORLD.logp_ref, WORLD.reward


def near(found: Floats, target: Floats) -> float:
    """KL(target || found) as a share of KL(target || ref): 1 at the reference, 0 at the target."""
    return kl_to(target, found) / kl_to(target, REF)


def test_tables_are_the_world() -> None:
    table = Table(WORLD)
    np.testing.assert_allclose(table.logp(table.reference())[0].numpy(), REF, atol=1e-5)


def forward_optimum(beta: float) -> Floats:
    """argmax E_pi r - beta KL(ref || pi).

    Stationary where r(y) + beta ref(y)/pi(y) = nu, so pi = beta ref / (nu - r), with nu > max r such that it sums to 1.
    """
    low, high = REWARD.max(1, keepdims=True), REWARD.max(1, keepdims=True) + beta
    for _ in range(200):
        nu = (low + high) / 2
        above = (beta * np.exp(REF) / (nu - REWARD)).sum(1, keepdims=True) > 1
        low, high = np.where(above, nu, low), np.where(above, high, nu)
    return np.log(beta) + REF - np.log(nu - REWARD)


@pytest.mark.parametrize("beta", [0.5, 1.0, 2.0])
def test_k3_in_the_loss_pulls_along_the_other_divergence(beta: float) -> None:
    target = forward_optimum(beta)
    np.testing.assert_allclose(np.exp(target).sum(1), 1.0, rtol=1e-6)

    def gain(logp: Floats) -> float:
        return float((expectation(logp, REWARD) - beta * (np.exp(REF) * (REF - logp)).sum(1)).mean())

    found = trained(WORLD, RLOOConfig(num_generations=32, beta=beta, kl_penalty="k3", **WORLD.limits)).logp
    assert (gain(found) - gain(REF)) / (gain(target) - gain(REF)) >= 0.99
    assert kl_to(target, WORLD.best(beta)) > 10 * kl_to(target, found), "it must not be the usual optimum"


def test_grpo_with_its_deviation_ends_where_its_rule_stands_still() -> None:
    # Two replies: the sample deviation of (a, b) is |a - b|/sqrt 2, so a reply's advantage is +-1/sqrt 2, and on average over its sibling
    # a(y) = (P(sibling worse) - P(sibling better)) / sqrt 2. The penalty is k3 of each token: at a visited prefix its gradient is that of
    # KL(ref || pi) there, - sum_w ref(w) d log pi(w). The rule below has these as its gradient; nothing else of it is differentiated.
    better = torch.from_numpy(np.sign(REWARD[:, :, None] - REWARD[:, None, :]))
    table, beta = Table(WORLD), 0.3
    ref, states, mask = table.reference(), table.states(), torch.from_numpy(WORLD.space.mask)

    def rule(logp: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
        p = logp.detach().exp()
        advantage = (better @ p[:, :, None]).squeeze(-1) / 2**0.5
        pull = ((ref.exp() * words).sum(-1)[:, states] * mask).sum(-1)
        return (p * (advantage * logp + beta * pull)).sum()

    target = table.followed(rule)
    config = GRPOConfig(num_generations=2, beta=beta, loss_type="dr_grpo", **WORLD.limits)
    found = trained(WORLD, config, rows=1024).logp
    assert near(found, target) <= 0.04
    assert min(kl_to(other, target) for other in (WORLD.best(beta), forward_optimum(beta))) > 5 * kl_to(target, found)


def test_online_ipo_ends_at_the_tilt_by_its_own_win_rate() -> None:
    # Loss (h - 1/(2 beta))^2 of pairs sampled from pi, h = u(winner) - u(loser), u = log pi/ref. Its gradient is
    # 4 sum_y pi(y) [u(y) - E u - (P(y wins) - P(y loses))/(2 beta)] d log pi(y); it vanishes where the bracket does (its mean is 0), so
    # pi is proportional to ref exp((P(y wins) - P(y loses)) / (2 beta)), with ties none.
    better, target, beta = np.sign(REWARD[:, :, None] - REWARD[:, None, :]), REF, 0.25
    for _ in range(2000):
        tilted = REF + np.einsum("pij,pj->pi", better, np.exp(target)) / (2 * beta)
        target = 0.9 * target + 0.1 * tilted
        target = target - np.logaddexp.reduce(target, axis=1, keepdims=True)
    config = OnlineDPOConfig(beta=beta, loss_type="ipo", **WORLD.limits)
    found = trained(WORLD, config, rows=1024).logp
    assert near(found, target) <= 0.04
    assert kl_to(WORLD.best(beta), target) > 5 * kl_to(target, found)


def test_the_root_of_chi2_is_what_is_held_down() -> None:
    # J = E r - beta sqrt(mean over prompts of chi^2(pi || ref)), maximised over tables by its own gradient. beta is below the deviation of
    # r under the reference: above it the optimum is the reference itself, since E r gains sd(r) sqrt(chi^2) at most.
    beta, ref, reward = 0.6, torch.from_numpy(REF), torch.from_numpy(REWARD)

    def rule(logp: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
        chi2 = ((2 * logp - ref).exp().sum(1) - 1).mean().clamp(min=0)
        return (logp.exp() * reward).sum(1).mean() - beta * (chi2 + 1e-8).sqrt()

    def gain(logp: Floats) -> float:
        return float(rule(torch.from_numpy(logp), torch.zeros(0)))

    target = Table(WORLD).followed(rule)
    found = trained(WORLD, RLOOConfig(num_generations=32, beta=beta, kl_penalty="sqrt_chi2", **WORLD.limits)).logp
    assert (gain(found) - gain(REF)) / (gain(target) - gain(REF)) >= 0.95  # ratios to the reference have heavy tails: the noisiest of all
    stayed = trained(WORLD, RLOOConfig(num_generations=32, beta=3.0, kl_penalty="sqrt_chi2", **WORLD.limits)).logp
    assert kl_to(stayed, REF) < 0.01


def test_raft_goes_on_to_the_best_reply() -> None:
    # The best of K samples of pi is never worse than a sample of pi, so the only laws that imitate themselves give all to the best reply
    # that they still write; small steps, so that it is not lost before it was seen.
    found = trained(WORLD, RaftConfig(num_generations=8, **WORLD.limits), learning_rate=1e-3).logp
    home, best = float(expectation(REF, REWARD).mean()), float(REWARD.max(1).mean())
    assert (float(expectation(found, REWARD).mean()) - home) / (best - home) >= 0.99


@pytest.mark.parametrize("n", [4, 8])
def test_the_law_of_the_best_of_n_is_distilled(n: int) -> None:
    # pi_n(y) = F(<= r(y))^n - F(< r(y))^n under the reference; rewards are all different here
    order = np.argsort(REWARD, axis=1)
    upto = np.take_along_axis(np.exp(REF), order, 1).cumsum(1)
    law = np.empty_like(REF)
    np.put_along_axis(law, order, np.diff(upto**n, axis=1, prepend=0.0), 1)
    target = np.log(law)
    config: Any = BestOfNDistillConfig(num_generations=n, **WORLD.limits)
    assert near(trained(WORLD, config).logp, target) <= 0.03
