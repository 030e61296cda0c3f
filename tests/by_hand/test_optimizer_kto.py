"""KTO: numbers worked out on paper, and where the reference point comes from."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from tests_support import gradients, tiny_parts
from trueup.core.errors import UserError
from trueup.core.rng import Key
from trueup.data.rows import Judged, Preference, Prompt, Reply, judged
from trueup.learn.table import Examples
from trueup.ops.preference import kto_loss
from trueup.optimizers.kto import KTO, KTOConfig, KTOExperience, neighbours
from trueup.optimizers.offline import pair_logps


def sigma(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def batch(*pairs: tuple[str, str, str]) -> Examples[Judged]:
    rows = [
        judged(Preference(id=str(i), prompt=Prompt(id=p, text=p), chosen=Reply(text=c), rejected=Reply(text=r)))
        for i, (p, c, r) in enumerate(pairs)
    ]
    return Examples(row=torch.arange(len(rows)), example=tuple(rows))


DATA = batch(("ask", "good", "bad dull"), ("tell", "dull", "tell"), ("ask tell", "good good", "bad"))


def moved(**settings: Any) -> tuple[KTO, KTOExperience]:
    """A learner whose policy has left the reference, so that mismatched replies have gained probability."""
    parts = tiny_parts()
    learner = KTOConfig(**settings).build(parts)
    experience = learner.collect(DATA, Key(0))
    with torch.no_grad():
        g = torch.Generator().manual_seed(1)
        for p in parts.policy.model.parameters():
            p.add_(torch.randn(p.shape, generator=g) * 0.05)
    return learner, experience


def test_loss_by_hand() -> None:
    # beta .5, z .4: chosen 1 - sigma(.5 (1.4 - .4)) = sigma(-.5); rejected 1 - sigma(.5 (.4 - -.6)) = sigma(-.5); halved and summed
    assert kto_loss(torch.tensor([[1.4, -0.6]]), 0.4, 0.5).tolist() == pytest.approx([sigma(-0.5)])
    # weights 2 and 3: (2 + 3) / 2 times that
    assert kto_loss(torch.tensor([[1.4, -0.6]]), 0.4, 0.5, 2.0, 3.0).tolist() == pytest.approx([2.5 * sigma(-0.5)])


def test_at_the_reference_the_loss_is_half_the_weight() -> None:
    assert kto_loss(torch.zeros(1, 2), 0.0, 0.1, 1.5, 1.5).tolist() == pytest.approx([0.75])


def test_gradients_saturate_on_both_sides() -> None:
    ratio = torch.tensor([[0.0, 0.0], [50.0, -50.0], [-50.0, 50.0]], requires_grad=True)
    kto_loss(ratio, 0.0, 1.0).sum().backward()
    assert ratio.grad is not None
    # d/dratio = -+ sigma'(0) / 2 = -+ .125 in the middle, nothing far out
    assert ratio.grad[0].tolist() == pytest.approx([-0.125, 0.125])
    assert ratio.grad[1:].abs().max().item() < 1e-6


def test_prompts_meet_the_replies_of_other_rows() -> None:
    # three rows in turn; ids: good 3, bad 4, dull 5, ask 6, tell 7, eos 1
    _, e = moved()
    flat = e.mismatched.unstacked()
    rows = [row[real].tolist() for row, real in zip(flat.tokens, flat.attention().bool(), strict=True)]
    assert rows == [[6, 3, 3, 1], [6, 4, 1], [7, 3, 1], [7, 4, 5, 1], [6, 7, 5, 1], [6, 7, 7, 1]]


def test_the_reference_point_is_the_mean_over_all_mismatches() -> None:
    learner, e = moved()
    gap = (pair_logps(learner.parts.policy, e.mismatched) - e.mismatched_ref).mean().item()
    totals = learner.totals(e)
    assert totals.tolist() == pytest.approx([3, 3 * gap], rel=1e-4)
    weight = learner.weigh(e, totals)
    assert weight[:, 0].tolist() == pytest.approx([1 / 3] * 3)
    assert weight[:, 1].tolist() == pytest.approx([max(gap, 0)] * 3, rel=1e-4)
    # a sum of 6 nats over 3 pairs is 2; a negative one is no KL
    assert learner.weigh(e, torch.tensor([3.0, 6.0]))[0, 1].item() == pytest.approx(2)
    assert learner.weigh(e, torch.tensor([3.0, -6.0]))[0, 1].item() == 0


def test_no_gradient_flows_through_the_reference_point() -> None:
    learner, e = moved(beta=0.5)
    weight = learner.weigh(e, torch.tensor([3.0, 6.0], dtype=torch.float64))
    found, metrics = gradients(learner, e, weight)
    logp = pair_logps(learner.parts.policy, e.sequences)
    by_hand = kto_loss(logp - e.logp_ref, 2.0, 0.5).mean()
    wanted = torch.autograd.grad(by_hand, [p for p in learner.parts.policy.model.parameters() if p.grad is not None])
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    assert metrics["kl"].value == pytest.approx(2)


def test_one_pair_alone_is_refused() -> None:
    with pytest.raises(UserError, match="at least 2 a step"):
        KTOConfig().build(tiny_parts()).collect(DATA.take(torch.tensor([0])), Key(0))


def test_neighbours_exchange_replies() -> None:
    rows: list[Any] = list("abcde")
    assert neighbours(rows[:2]) == ["b", "a"]
    assert neighbours(rows[:4]) == ["b", "a", "d", "c"]
    assert neighbours(rows) == ["b", "a", "e", "c", "d"]  # the last three in turn
    # two processes with an even share mismatch what one does
    assert neighbours(rows[:2]) + neighbours(rows[2:4]) == neighbours(rows[:4])
