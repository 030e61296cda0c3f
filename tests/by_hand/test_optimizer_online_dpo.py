"""Online DPO: who is chosen, ties, both losses."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from tests_support import tiny_parts
from trueup.core.rng import Key
from trueup.optimizers.experience import PromptBatch
from trueup.optimizers.online_dpo import OnlineDPO, OnlineDPOConfig
from trueup.rewards.programmed import ProgrammedReward

ROWS = 6
ASKED = PromptBatch(row=torch.arange(ROWS), prompt=("ask",) * ROWS, ids=((6,),) * ROWS)


def collected(**settings: Any) -> tuple[OnlineDPO, Any]:
    parts = replace(tiny_parts(), reward=ProgrammedReward(lambda prompts, replies: [float(r.text.count("good")) for r in replies]))
    learner = OnlineDPOConfig(**{"max_completion_length": 4, "beta": 0.2, **settings}).build(parts)
    with torch.no_grad():
        return learner, learner.collect(ASKED, Key(3))


def test_the_better_reply_comes_first() -> None:
    _, e = collected()
    assert (e.score[:, 0] >= e.score[:, 1]).all()
    assert e.untied.tolist() == (e.score[:, 0] > e.score[:, 1]).tolist()
    assert 0 < e.untied.sum() < ROWS
    good = (e.sequences.tokens[:, :, 1:] == 3) & e.sequences.mask  # word 3 is "good": the columns moved with the scores
    assert good.sum(2).tolist() == e.score.tolist()


def test_not_ending_costs_before_the_order_is_made() -> None:
    _, plain = collected()
    _, e = collected(missing_eos_penalty=10.0)
    assert torch.equal(e.score.sum(1), plain.score.sum(1))  # the same samples, scores without the penalty
    mixed = e.finished[:, 0] != e.finished[:, 1]
    assert mixed.any()
    assert e.finished[mixed, 0].all()


@pytest.mark.parametrize("loss_type", ["sigmoid", "ipo"])
def test_losses(loss_type: str) -> None:
    learner, e = collected(loss_type=loss_type)
    e = replace(e, logp_ref=e.logp_ref + torch.tensor([-1.0, 0.5]))  # so the margin is 1.5 nats everywhere
    weight = learner.weigh(e, learner.totals(e))
    assert weight.tolist() == pytest.approx([u / ROWS for u in e.untied.tolist()])
    # log(1 + e^(-.2 * 1.5)), or (1.5 - 1/(2 * .2))^2 = 1
    each = math.log(1 + math.exp(-0.3)) if loss_type == "sigmoid" else 1.0
    loss = learner.loss(e, weight)
    assert loss.value.item() == pytest.approx(each * e.untied.sum().item() / ROWS, abs=1e-4)
    assert loss.metrics["rewards/margins"].value == pytest.approx(0.3, abs=1e-4)
    assert loss.metrics["ties_share"].value == pytest.approx(1 - e.untied.float().mean().item())


def test_always_a_pair() -> None:
    with pytest.raises(ValidationError, match="less than or equal to 2"):
        OnlineDPOConfig(num_generations=4)
