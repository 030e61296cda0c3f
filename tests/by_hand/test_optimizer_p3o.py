"""P3O: both clippings by hand, and what no reward that depends on the prompt alone can change."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from tests_support import goodness, gradients, parameters, tiny_parts
from trueup.core.rng import Key
from trueup.ops.policy_gradient import pair_joint, pair_separate
from trueup.optimizers.experience import PromptBatch
from trueup.optimizers.grpo import GRPOConfig
from trueup.optimizers.p3o import P3OConfig
from trueup.optimizers.ppo import PPOConfig
from trueup.optimizers.protocol import OnlineConfig
from trueup.optimizers.reinforce import ReinforceConfig
from trueup.optimizers.rloo import RLOOConfig
from trueup.rewards.programmed import ProgrammedReward

ASKED = PromptBatch(row=torch.arange(3), prompt=("ask", "tell good", "ask tell bad"), ids=((6,), (7, 3), (6, 7, 4)))
Surrogate = Callable[..., tuple[torch.Tensor, torch.Tensor]]


def gradient_of(surrogate: Surrogate, moved: list[float], reward: list[float], clip: float = 0.2) -> list[float]:
    logp = torch.tensor([moved], requires_grad=True)
    loss, _ = surrogate(logp, torch.zeros(1, 2), torch.tensor([reward]), clip)
    return torch.autograd.grad(loss.sum(), logp)[0][0].tolist()


def test_separate_clipping() -> None:
    # ratios e^.1 and e^-.1 stay inside: gradient -(1/2)(r_i - r_j) rho_1 rho_2 = -(1/2)(+-2) * 1
    assert gradient_of(pair_separate, [0.1, -0.1], [3.0, 1.0]) == pytest.approx([-1.0, 1.0])
    # e^.3 > 1.2 with a gain: the first stops; the second, at e^0, goes on with -(1/2)(-2) e^.3
    assert gradient_of(pair_separate, [0.3, 0.0], [3.0, 1.0]) == pytest.approx([0.0, math.exp(0.3)])
    # the other way round nothing is clipped: the worse reply at e^.3 is pulled back
    assert gradient_of(pair_separate, [0.3, 0.0], [1.0, 3.0]) == pytest.approx([math.exp(0.3), -math.exp(0.3)])


def test_joint_clipping() -> None:
    # the difference moved by .15: -(1/2) * 2 * rho_1 rho_2 = -e^.05 on the first, + on the second
    assert gradient_of(pair_joint, [0.1, -0.05], [3.0, 1.0]) == pytest.approx([-math.exp(0.05), math.exp(0.05)])
    assert gradient_of(pair_joint, [0.15, -0.15], [3.0, 1.0]) == [0.0, 0.0]  # moved by .3, with the better reply ahead
    assert gradient_of(pair_joint, [0.15, -0.15], [1.0, 3.0]) == pytest.approx([1.0, -1.0])
    loss, clipped = pair_joint(torch.tensor([[0.15, -0.15]]), torch.zeros(1, 2), torch.tensor([[3.0, 1.0]]), 0.2)
    assert loss.tolist() == pytest.approx([-0.2])  # -(1/2) * 2 * .2
    assert clipped.tolist() == [True]


@pytest.mark.parametrize("surrogate", [pair_separate, pair_joint])
def test_pairs_have_no_order_and_ties_no_gradient(surrogate: Surrogate) -> None:
    logp, reward = torch.tensor([[0.3, -0.1], [0.1, 0.2]]), torch.tensor([[3.0, 1.0], [0.5, 2.0]])
    a, b = (surrogate(x, torch.zeros(2, 2), r, 0.2)[0] for x, r in ((logp, reward), (logp.flip(1), reward.flip(1))))
    torch.testing.assert_close(a, b)
    assert gradient_of(surrogate, [0.3, -0.1], [2.0, 2.0]) == [0.0, 0.0]


def moved_gradients(config: OnlineConfig, shifted: bool, moved: bool) -> list[torch.Tensor]:
    """Gradients on a batch, with f(x) = letters of the prompt added to the reward or not, before or after the policy moved."""

    def reward(prompts: Any, replies: Any) -> list[float]:
        return [g + shifted * 3.0 * len(str(p)) for g, p in zip(goodness(prompts, replies), prompts, strict=True)]

    learner = config.build(replace(tiny_parts(), reward=ProgrammedReward(reward)))
    with torch.no_grad():
        e = learner.collect(ASKED, Key(3))
        generator = torch.Generator().manual_seed(5)
        for p in parameters(learner) if moved else []:
            p.add_(torch.randn(p.shape, generator=generator) * 0.1)
    found, metrics = gradients(learner, e)
    assert not moved or 0 < (metrics["policy/clip_ratio"].value or 0) < 1
    return found


PAIRED = {"max_completion_length": 5, "num_generations": 8, "beta": 0.1}
INVARIANT = {
    "p3o, joint": P3OConfig(**PAIRED, epsilon=0.05),
    "p3o, separate": P3OConfig(**PAIRED, clipping="separate", epsilon=0.05),
    "rloo": RLOOConfig(**PAIRED, epsilon=0.05),
    "grpo": GRPOConfig(**PAIRED, epsilon=0.05),
}
VARIANT = {"ppo": PPOConfig(**PAIRED, cliprange=0.05), "reinforce": ReinforceConfig(**PAIRED, epsilon=0.05)}


@pytest.mark.parametrize("moved", [False, True])
@pytest.mark.parametrize("name", INVARIANT)
def test_a_reward_of_the_prompt_alone_changes_nothing(name: str, moved: bool) -> None:
    for a, b in zip(*(moved_gradients(INVARIANT[name], s, moved) for s in (False, True)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", VARIANT)
def test_it_does_change_what_has_no_siblings(name: str) -> None:
    plain, shifted = (moved_gradients(VARIANT[name], s, True) for s in (False, True))
    assert max(float((a - b).abs().max()) for a, b in zip(plain, shifted, strict=True)) > 0.05


def test_neighbours_are_pairs() -> None:
    learner = P3OConfig(max_completion_length=5, num_generations=4, beta=0.3).build(tiny_parts())
    with torch.no_grad():
        e = learner.collect(ASKED, Key(3))
        flat = e.sequences.unstacked()
        rloo = RLOOConfig(max_completion_length=5, num_generations=4, beta=0.3).build(tiny_parts()).collect(ASKED, Key(3))
    assert len(e) == 6
    assert torch.equal(flat.tokens, rloo.sequences.tokens)
    torch.testing.assert_close(e.reward.flatten(), rloo.score - 0.3 * rloo.kl)
    scaled = replace(e, importance=torch.tensor([[2.0, 3.0]] * 6))
    assert learner.weigh(scaled, learner.totals(scaled)).tolist() == pytest.approx([1.0] * 6)  # 2 * 3 / 6 pairs
    with pytest.raises(ValidationError, match="even num_generations, got 3"):
        P3OConfig(num_generations=3)
