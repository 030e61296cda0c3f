"""Feedback as people give it: each perturbation by hand, and what must hold of all."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from trueup.core.rng import Key
from trueup.data.rows import Reply
from trueup.rewards.feedback import Disturbance, NoisyFeedback, granular, skewed, varied
from trueup.rewards.kinds.noisy import NoisyConfig
from trueup.rewards.programmed import ProgrammedReward

RATINGS = torch.tensor([0.0, 0.2, 0.5, 0.9, 1.0], dtype=torch.float64)


def test_perturbations_by_hand() -> None:
    # quarters: 0.8 -> 1, 2, 3.6 -> 4 of 4; thumbs: 0.5 goes up
    assert granular(RATINGS, 4).tolist() == [0.0, 0.25, 0.5, 1.0, 1.0]
    assert granular(RATINGS, 1).tolist() == [0.0, 0.0, 1.0, 1.0, 1.0]
    assert skewed(RATINGS, 2.0).tolist() == pytest.approx([0.0, 0.04, 0.25, 0.81, 1.0])
    # deviations min(0.64 r, 0.67 (1 - r)): 0, 0.128, 0.32, 0.067, 0; half of them, one up, two down, ten up
    draws = torch.tensor([9.0, 1.0, -2.0, 10.0, -9.0], dtype=torch.float64)
    assert varied(RATINGS, 0.5, draws).tolist() == pytest.approx([0.0, 0.264, 0.18, 1.0, 1.0])


@pytest.mark.parametrize("steps", [1, 3, 10])
def test_a_coarse_scale_is_off_by_half_a_step_at_most(steps: int) -> None:
    fine = torch.linspace(0, 1, 1001, dtype=torch.float64)
    assert (granular(fine, steps) - fine).abs().max() <= 0.5 / steps + 1e-9
    assert len(granular(fine, steps).unique()) == steps + 1


@pytest.mark.parametrize("power", [0.3, 1.0, 3.0])
def test_skew_keeps_the_order(power: float) -> None:
    fine = torch.linspace(0, 1, 101, dtype=torch.float64)
    assert (skewed(fine, power).diff() > 0).all()


def replies(n: int) -> list[Reply]:
    return [Reply(text=f"reply {i}") for i in range(n)]


def numbered(low: float, high: float, n: int) -> ProgrammedReward:
    """Rewards that rise evenly with the reply's number."""
    return ProgrammedReward(lambda p, r: [low + (high - low) * int(x.text.split()[1]) / (n - 1) for x in r])


def asked(n: int = 101, low: float = -2.0, high: float = 6.0, seed: int = 0, **how: Any) -> torch.Tensor:
    feedback = NoisyFeedback(numbered(low, high, n), Disturbance(low=low, high=high, **how), Key(seed))
    return feedback.score(["ask"] * n, replies(n))


def test_nothing_disturbed_is_the_reward_within_its_range() -> None:
    true = torch.linspace(-2, 6, 101)
    torch.testing.assert_close(asked(), true)
    torch.testing.assert_close(asked(granularity=10**6), true, atol=1e-5, rtol=1e-5)
    narrow = NoisyFeedback(numbered(-2, 6, 101), Disturbance(low=0.0, high=4.0), Key(0)).score(["ask"] * 101, replies(101))
    torch.testing.assert_close(narrow, true.clamp(0, 4))


def test_hostile_careless_and_missing_feedback() -> None:
    true = torch.linspace(-2, 6, 101)
    torch.testing.assert_close(asked(adversarial=1.0), true.flip(0))  # upside down around the middle of -2 and 6
    assert asked(observed=0.0).unique().tolist() == [2.0]
    assert asked(observed=0.0, unobserved=-1.0).unique().tolist() == [-1.0]
    some = asked(observed=0.3, unobserved=-9.0)
    kept = some != -9.0
    torch.testing.assert_close(some[kept], true[kept])
    assert 0.15 < kept.double().mean().item() < 0.45  # 101 draws of chance 0.3 have deviation 0.046
    drawn = asked(random=1.0, n=1001)
    # 1001 uniform draws on -2..6: mean 2 with deviation 8 / sqrt(12 * 1001) = 0.073
    assert abs(drawn.mean().item() - 2.0) < 0.3
    assert abs(torch.corrcoef(torch.stack([drawn, torch.linspace(-2, 6, 1001)]))[0, 1].item()) < 0.12


def test_they_come_in_their_order() -> None:
    """0.5 squared is 0.25, on a scale of one step 0, turned upside down 1: the top."""
    feedback = NoisyFeedback(ProgrammedReward(lambda p, r: [0.5]), Disturbance(skew=2.0, granularity=1, adversarial=1.0), Key(0))
    assert feedback.score(["ask"], replies(1)).tolist() == [1.0]


def test_noise_has_the_mean_of_the_truth_and_the_deviation_it_says() -> None:
    """A rating of 0.5 with a tenth of 0.32: no draw of 4000 is cut off, so the mean is 0.5 and the deviation 0.032."""
    feedback = NoisyFeedback(ProgrammedReward(lambda p, r: [0.5] * len(r)), Disturbance(variance=0.1), Key(3))
    found = feedback.score(["ask"] * 4000, replies(4000)).double()
    assert found.mean().item() == pytest.approx(0.5, abs=4 * 0.032 / 4000**0.5)
    # the deviation of 4000 draws is off by 1 / sqrt(8000) = 1.1 % itself
    assert abs(found.std().item() / 0.032 - 1) < 0.05


def test_noise_belongs_to_the_reply_and_not_to_the_call() -> None:
    how = {"variance": 1.0, "random": 0.2, "observed": 0.8}
    whole = asked(**how)
    feedback = NoisyFeedback(numbered(-2, 6, 101), Disturbance(low=-2.0, high=6.0, **how), Key(0))
    backwards = feedback.score(["ask"] * 101, replies(101)[::-1])
    assert torch.equal(whole, backwards.flip(0))
    assert torch.equal(whole[40:], feedback.score(["ask"] * 61, replies(101)[40:]))
    assert not torch.equal(whole, asked(seed=1, **how))
    assert not torch.equal(whole, feedback.score(["other"] * 101, replies(101)))
    assert feedback.score([], []).shape == (0,)


def test_the_kind_builds_what_it_says() -> None:
    class Sources:
        def build(self, config: Any) -> Any:
            return numbered(-2, 6, 101)

    config = NoisyConfig(low=-2, high=6, granularity=4, skew=2.0, variance=0.5, adversarial=0.1, random=0.1, observed=0.9, unobserved=0.5)
    made = config.build(Sources())  # type: ignore[arg-type]
    assert isinstance(made, NoisyFeedback)
    assert made.disturbance == Disturbance(
        low=-2, high=6, granularity=4, skew=2.0, variance=0.5, adversarial=0.1, random=0.1, observed=0.9, unobserved=0.5
    )
    assert made.key == Key(0) / "feedback"
    with pytest.raises(ValueError, match="must be below high"):
        NoisyConfig(low=1, high=1)
    with pytest.raises(ValueError, match="must be below high"):
        NoisyFeedback(numbered(0, 1, 2), Disturbance(low=1.0, high=0.0), Key(0))
