"""Constraints in a world whose replies are all listed: where constrained policies come to rest, and where their multipliers do.

The policy nearest to the reference, in KL(pi || ref), among those with E r = theta is pi = ref exp(lambda r) / Z, with one lambda for all
prompts, since the mean is over them. E r grows with lambda (its slope is the mean variance of r), so lambda is the one root of
E r = theta. With one constraint the objectives count beta (1 - nu) and nu, so that at rest lambda = nu / (beta (1 - nu)).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from scipy.optimize import brentq

from oracle import enumerated
from oracle.enumerated import Floats, World, expectation, kl_to, make_world, tilted, trained
from trueup.data.rows import Conversation, Reply
from trueup.optimizers.constrained import ConstrainedConfig
from trueup.optimizers.protocol import Parts
from trueup.rewards.combine import WeightedSum
from trueup.rewards.programmed import ProgrammedReward
from trueup.rewards.protocol import Reward


@pytest.fixture(scope="module")
def world() -> World:
    return make_world()


def name_parts(monkeypatch: pytest.MonkeyPatch, *others: Reward) -> None:
    """Optimizers see the world's reward as the part ``r`` of a sum, and the others as ``1``, ``2``, ..."""
    made = enumerated.parts_of

    def summed(world: World) -> Parts:
        parts = made(world)
        return replace(parts, reward=WeightedSum([(1.0, x) for x in (parts.reward, *others)], ["r", *map(str, range(1, len(others) + 1))]))

    monkeypatch.setattr(enumerated, "parts_of", summed)


@pytest.fixture(autouse=True)
def _one_named_part(monkeypatch: pytest.MonkeyPatch) -> None:
    name_parts(monkeypatch)


def mean_at(world: World, lam: float) -> float:
    return float(expectation(world.best(1 / lam), world.reward).mean())


def settings(world: World, **more: Any) -> ConstrainedConfig:
    return ConstrainedConfig(**{"num_generations": 4, "lam": 1.0, "beta": 1.0, "multiplier_momentum": 0.0, **world.limits, **more})


@pytest.mark.parametrize(("variant", "theta", "rate"), [("xi", 0.5, 0.03), ("mu", 0.5, 0.2)])
def test_constrained_policies_rest_at_the_tilt_that_meets_the_threshold(world: World, variant: str, theta: float, rate: float) -> None:
    lam = brentq(lambda x: mean_at(world, x) - theta, 1e-3, 20.0)
    config = settings(world, thresholds={"r": theta}, variant=variant, multiplier_lr=rate)
    found = trained(world, config, steps=200, rows=128, learning_rate=5e-3)
    reached = float(expectation(found.logp, world.reward).mean())
    assert abs(reached - theta) < 0.05
    assert kl_to(found.logp, world.best(1 / lam)) < 0.02  # a tenth of how far the reference is, below
    # and it is not just any policy with that mean: the reference is far
    assert kl_to(world.best(1 / lam), world.logp_ref) > 0.2
    nu = found.learner.multipliers()["r"]
    assert abs(nu / (1 - nu) - lam) < 0.15


def test_two_constraints_rest_where_both_hold(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """pi = ref exp(a r + b s) / Z with E r and E s at their thresholds; objectives count beta (2 - nu_1 - nu_2), nu_1 and nu_2."""
    monkeypatch.undo()
    other = make_world(seed=3).reward

    def score(prompts: Sequence[Conversation], replies: Sequence[Reply]) -> list[float]:
        return [float(other[enumerated.PROMPTS.index(str(p)), world.space.index()[r]]) for p, r in zip(prompts, replies, strict=True)]

    name_parts(monkeypatch, ProgrammedReward(score))

    def tilt(x: Floats) -> Floats:
        return tilted(world.logp_ref, x[0] * world.reward + x[1] * other, 1.0)

    def means(logp: Floats) -> Floats:
        return np.array([expectation(logp, world.reward).mean(), expectation(logp, other).mean()])

    # nu = (0.545, -0.364): 0.545 / (2 - 0.182) = 0.3
    wanted = means(tilt(np.array([0.3, -0.2])))
    config = settings(world, thresholds={"r": float(wanted[0]), "1": float(wanted[1])})
    found = trained(world, config, steps=200, rows=128, learning_rate=5e-3)
    assert np.abs(means(found.logp) - wanted).max() < 0.06
    assert kl_to(found.logp, tilt(np.array([0.3, -0.2]))) < 0.02
    assert kl_to(world.logp_ref, tilt(np.array([0.3, -0.2]))) > 0.03
    nu = found.learner.multipliers()
    reached = np.array([nu["r"], nu["1"]]) / (2 - nu["r"] - nu["1"])
    assert np.abs(reached - [0.3, -0.2]).max() < 0.15


def test_a_threshold_below_the_reference_holds_an_equality_and_frees_an_inequality(world: World) -> None:
    """xi pushes down to theta with a negative multiplier; mu lets its multiplier fall and stays above."""
    theta = mean_at(world, 1e-6) - 0.3
    down = trained(world, settings(world, thresholds={"r": theta}), steps=50, rows=128, learning_rate=5e-3)
    assert down.learner.multipliers()["r"] < -0.05
    slack = trained(
        world, settings(world, thresholds={"r": theta}, variant="mu", multiplier_lr=0.2), steps=80, rows=128, learning_rate=5e-3
    )
    multipliers = [m["multiplier/r"] for m in slack.metrics]
    assert all(b < a for a, b in pairwise(multipliers[10:]))
    assert float(expectation(slack.logp, world.reward).mean()) > theta


def test_out_of_reach_the_multiplier_saturates(world: World) -> None:
    """No policy has a mean above the largest reward, so the multiplier rises at every step."""
    found = trained(world, settings(world, thresholds={"r": float(world.reward.max()) + 1}, multiplier_lr=0.2), steps=20, rows=64)
    multipliers = [m["multiplier/r"] for m in found.metrics]
    assert all(a < b for a, b in pairwise(multipliers))
    assert multipliers[-1] > 0.9
