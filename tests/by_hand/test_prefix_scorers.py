"""What scorers of prefixes learn: losses by hand, and that the exact values of a small tree are where each loss is least."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from tests_support import tiny_reward
from trueup.core.rng import Key
from trueup.data.tokens import pack
from trueup.rewards.dense.cd_q import CdQConfig
from trueup.rewards.dense.cumulative import CumulativeConfig
from trueup.rewards.dense.fudge import FudgeConfig
from trueup.rewards.dense.protocol import DenseObjectiveConfig, SegmentTargets
from trueup.rewards.dense.soft_values import SoftValuesConfig
from trueup.rewards.fit_prefix import PrefixLearner, ScoredReplies


def whole(lengths: list[int], targets: list[float]) -> SegmentTargets:
    """Replies of these lengths as one segment each."""
    last = torch.tensor(lengths)[:, None] - 1
    zeros = torch.zeros_like(last)
    target = torch.tensor(targets)[:, None]
    return SegmentTargets(first=zeros, last=last, category=zeros, target=target, present=torch.ones_like(last).bool())


OUTPUT = torch.tensor([[[0.0], [0.5], [2.0], [77.0]]])
ONE = whole([3], [1.0])  # three tokens, then padding


@pytest.mark.parametrize(
    ("objective", "loss", "elements"),
    [
        # weights 2 t / (3 * 4) = 1/6, 2/6, 3/6 on errors 1, 1/4, 1
        (CumulativeConfig(), 1 / 6 + 1 / 12 + 1 / 2, 1),
        # errors 1, 1/4, 1
        (FudgeConfig(), 2.25, 3),
        # to the next value, and to 1 at the end: gaps 0 - 0.5, 0.5 - 2, 2 - 1; half of 0.25 + 2.25 + 1
        (CdQConfig(), 1.75, 3),
        # g = 1, 0.5, -1: (e - 2) + (e^0.5 - 1.5) + (e^-1 + 1 - 1)
        (SoftValuesConfig(), 0.7182818 + 0.1487213 + 0.3678794, 3),
        # strength 2: g = 2, 1, -2: ((e^2 - 3) + (e - 2) + (e^-2 + 2 - 1)) / 4
        (SoftValuesConfig(strength=2.0), (4.3890561 + 0.7182818 + 1.1353353) / 4, 3),
        # a straight line from g = 0.5 on: e^0.5 (1 + 0.5) - 1 - 1 at g = 1; the others as above
        (SoftValuesConfig(most=0.5), 0.4730819 + 0.1487213 + 0.3678794, 3),
    ],
    ids=["cumulative", "fudge", "cd_q", "soft_values", "soft_values at 2", "soft_values with a line"],
)
def test_losses(objective: DenseObjectiveConfig, loss: float, elements: int) -> None:
    assert objective.loss(OUTPUT, ONE).item() == pytest.approx(loss, abs=1e-6)
    assert objective.elements(ONE).item() == elements


def test_later_tokens_weigh_more() -> None:
    # golden: five tokens, all errors 1 but one at a time: .0667, .1333, .2, .2667, .3333
    found = [CumulativeConfig().loss(torch.eye(5)[t][None, :, None], whole([5], [0.0])).item() for t in range(5)]
    assert found == pytest.approx([0.0667, 0.1333, 0.2, 0.2667, 0.3333], abs=1e-4)


def test_a_second_segment_counts_its_own_tokens() -> None:
    # tokens 0-1 with target 0, tokens 2-4 with target 1; all outputs 0
    first, last = torch.tensor([[0, 2]]), torch.tensor([[1, 4]])
    two = SegmentTargets(
        first=first, last=last, category=torch.zeros_like(first), target=torch.tensor([[0.0, 1.0]]), present=torch.ones_like(first).bool()
    )
    output = torch.zeros(1, 5, 1)
    assert CumulativeConfig().loss(output, two).tolist() == [[0.0, 1.0]]
    assert FudgeConfig().loss(output, two).tolist() == [[0.0, 3.0]]
    # the first segment's last token is compared with its own target, not with the next segment's first value
    assert CdQConfig().loss(output, two).tolist() == [[0.0, 0.5]]


# A tree of two tokens: the first is a (chance 1/4) or b (3/4); after a the reply scores 0 or 2 with chances 1/2, after b 1 or 3 with
# chances 2/3 and 1/3.
CHANCES = torch.tensor([1 / 8, 1 / 8, 1 / 2, 1 / 4])
SCORES = [0.0, 2.0, 1.0, 3.0]
PLACE = torch.tensor([[0, 2], [0, 3], [1, 4], [1, 5]])
"""Which of six values each token of each reply reads: those after a and b, then those of whole replies."""


def slope(objective: DenseObjectiveConfig, values: torch.Tensor) -> torch.Tensor:
    """Gradient of the expected loss over the tree in each of the six values."""
    values = values.double().requires_grad_()
    losses = objective.loss(values[PLACE][..., None], whole([2] * 4, SCORES))[:, 0]
    (found,) = torch.autograd.grad((CHANCES.double() * losses).sum(), values)
    return found


# means: a (0 + 2) / 2 = 1, b 1 * 2/3 + 3 * 1/3 = 5/3
MEANS = torch.tensor([1.0, 5 / 3, *SCORES])
# soft values at strength 1: log((1 + e^2) / 2), log(2/3 e + 1/3 e^3)
SOFT = torch.tensor([math.log((1 + math.exp(2)) / 2), math.log(2 / 3 * math.e + math.exp(3) / 3), *SCORES])


@pytest.mark.parametrize(
    ("objective", "least"),
    [(FudgeConfig(), MEANS), (CdQConfig(), MEANS), (CumulativeConfig(), MEANS), (SoftValuesConfig(), SOFT)],
    ids=["fudge", "cd_q", "cumulative", "soft_values"],
)
def test_each_loss_is_least_at_the_exact_values(objective: DenseObjectiveConfig, least: torch.Tensor) -> None:
    assert slope(objective, least).abs().max() < 1e-6
    higher = least + 0.1 * (torch.arange(6) < 2)
    assert (slope(objective, higher)[:2] > 1e-3).all()


def test_soft_values_are_no_means() -> None:
    assert slope(SoftValuesConfig(), MEANS)[:2].abs().max() > 0.1
    # at a small strength they are nearly: mean + strength * variance / 2, with variances 1 and 8/9; each value counts by its chance,
    # so that the slopes are -1/4 * 0.001 / 2 and -3/4 * 0.001 * 4/9
    assert slope(SoftValuesConfig(strength=0.001), MEANS)[:2].tolist() == pytest.approx([-0.000125, -0.000333], abs=1e-6)


def test_a_reply_is_one_segment_and_tokens_count_the_same() -> None:
    model = tiny_reward()
    learner = PrefixLearner(FudgeConfig(), model)
    batch = ScoredReplies(sequences=pack([[3], [4, 5]], [[6, 7, 1], [3]], 0), score=torch.tensor([1.0, -1.0]))
    found = learner.collect(batch, Key(0))
    assert found.segments.last.tolist() == [[2], [0]]
    weight = learner.weigh(found, learner.totals(found))
    # four tokens in all
    assert weight.tolist() == [[0.25], [0.25]]
    loss = learner.loss(found, weight)
    with torch.no_grad():
        prefixes = ([3], [6], 1.0), ([3], [6, 7], 1.0), ([3], [6, 7, 1], 1.0), ([4, 5], [3], -1.0)
        gaps: list[Any] = [(model.score(pack([p], [r], 0))[0].item() - want) ** 2 for p, r, want in prefixes]
    assert loss.value.item() == pytest.approx(float(np.mean(gaps)), abs=1e-5)
