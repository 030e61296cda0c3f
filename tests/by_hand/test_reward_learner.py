"""Fitting reward models on judged groups: what the learner's sums amount to, against the whole objective written down at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from tests_support import gradients
from trueup.core.rng import Key
from trueup.data.rows import Judged, Prompt, Reply
from trueup.learn.table import Examples, Mean, Table
from trueup.rewards.fit import GroupExperience, RewardLearner, judgements
from trueup.rewards.objectives.bradley_terry import BradleyTerryConfig
from trueup.rewards.objectives.odin import ODINConfig


@dataclass(frozen=True, kw_only=True)
class Features(Table):
    """Two numbers a reply."""

    x: torch.Tensor


class TwoHeads:
    """Outputs are a linear map of the length of a reply and of its first letter."""

    def __init__(self, outputs: int = 2) -> None:
        self.module = torch.nn.Linear(2, outputs, bias=False).double()
        with torch.no_grad():
            self.module.weight.copy_(torch.tensor([[0.3, 0.5], [0.2, -0.4]], dtype=torch.float64)[:outputs])

    def encode(self, prompts: Any, replies: Sequence[Reply]) -> Features:
        rows = [[len(r.text) / 4, (ord(r.text[0]) - 97) / 3 if r.text else 0.0] for r in replies]
        return Features(x=torch.tensor(rows, dtype=torch.float64))

    def outputs(self, features: Features) -> torch.Tensor:
        return self.module(features.x)

    def head_weight(self) -> torch.Tensor:
        return self.module.weight


def group(*replies: str, ratings: tuple[float, ...] | None = None) -> Judged:
    said = ratings or tuple(float(-i) for i in range(len(replies)))
    return Judged(id="g", prompt=Prompt(id="p", text="x"), replies=tuple(Reply(text=r) for r in replies), ratings=said)


GROUPS = [group("abc", "b"), group("c", "aaaaaa"), group("bb", "dddd", "a"), group("ca", "d")]


def learned(learner: RewardLearner, groups: Sequence[Judged], micro: int = 100) -> tuple[torch.Tensor, GroupExperience, dict[str, Mean]]:
    e = learner.collect(Examples(row=torch.arange(len(groups)), example=tuple(groups)), Key(0))
    (gradient,), metrics = gradients(learner, e, micro=micro)
    return gradient, e, metrics


@pytest.mark.parametrize("micro", [100, 1])
def test_odin_is_its_formula_whole_or_in_parts(micro: int) -> None:
    model = TwoHeads()
    gradient, _, _ = learned(RewardLearner(ODINConfig(length_coefficient=0.7, orthogonal_coefficient=0.3), model), GROUPS, micro)  # type: ignore[arg-type]
    weight = model.module.weight.detach().clone().requires_grad_(True)
    outputs = [model.encode(None, g.replies).x @ weight.T for g in GROUPS]
    losses = []
    for out in outputs:
        total = out.sum(-1)
        pairs = [F.softplus(total[j] - total[i]) for i in range(len(total)) for j in range(i + 1, len(total))]
        losses.append(torch.stack(pairs).mean())
    flat = torch.cat(outputs)
    length = torch.tensor([float(len(r.text)) for g in GROUPS for r in g.replies], dtype=torch.float64)

    def rho(x: torch.Tensor) -> torch.Tensor:
        return torch.corrcoef(torch.stack([x, length]))[0, 1]

    whole = torch.stack(losses).mean() + 0.7 * (rho(flat[:, 0]).abs() - rho(flat[:, 1])) + 0.3 * (weight[0] @ weight[1]).abs()
    whole.backward()
    assert weight.grad is not None
    torch.testing.assert_close(gradient, weight.grad, rtol=1e-6, atol=1e-9)


def test_groups_that_teach_nothing_do_not_thin_the_mean() -> None:
    tied = group("ab", "c", ratings=(1.0, 1.0))
    model = TwoHeads(outputs=1)
    learner = RewardLearner(BradleyTerryConfig(ties="drop"), model)  # type: ignore[arg-type]
    without, _, _ = learned(learner, GROUPS)
    with_tied, e, metrics = learned(learner, [*GROUPS, tied])
    torch.testing.assert_close(without, with_tied)
    assert learner.totals(e).tolist() == [4.0]
    assert metrics["accuracy"].count == 4  # a tie is neither right nor wrong
    halved, _, _ = learned(RewardLearner(BradleyTerryConfig(), model), [*GROUPS, tied])  # type: ignore[arg-type]
    assert not torch.allclose(halved, without)


def test_metrics_of_groups() -> None:
    model = TwoHeads(outputs=1)
    with torch.no_grad():
        model.module.weight.copy_(torch.tensor([[4.0, 0.0]]))  # the score is the length
    # lengths 3 1 / 1 6 / 2 4 1 / 2 1: of the pairs of each group right 1, 0, 2/3, 1
    _, e, metrics = learned(RewardLearner(BradleyTerryConfig(), model), GROUPS)  # type: ignore[arg-type]
    assert metrics["accuracy"].value == pytest.approx((1 + 0 + 2 / 3 + 1) / 4)
    # gaps 2, -5, (-2 + 1 + 3) / 3, 1
    assert metrics["margin"].value == pytest.approx((2 - 5 + 2 / 3 + 1) / 4)
    assert metrics["mean_reward"].value == pytest.approx((3 + 1 + 1 + 6 + 2 + 4 + 1 + 2 + 1) / 9)
    assert e.judged.present.tolist() == [[True, True, False], [True, True, False], [True, True, True], [True, True, False]]
    assert judgements(GROUPS, torch.arange(4)).length.tolist()[2] == [2.0, 4.0, 1.0]
