"""ILQL: expectiles, targets and the tilt on paper; what the value model starts from and how its slow copies follow."""

from __future__ import annotations

import math

import pytest
import torch
from accelerate import Accelerator

from tests_support import tiny_parts, tiny_policy
from trueup.core.rng import Key
from trueup.data.rows import Judged, Preference, Prompt, Reply, judged
from trueup.learn.table import Examples
from trueup.loop.config import LoopConfig
from trueup.loop.train import train
from trueup.models.q_heads import q_from_policy
from trueup.ops.action_values import expectile_loss, step_target, tilted_logprobs
from trueup.optimizers.ilql import ILQL, ILQLConfig

PAIR = judged(
    Preference(id="0", prompt=Prompt(id="p", text="ask"), chosen=Reply(text="good good"), rejected=Reply(text="bad", finished=False))
)
DATA: Examples[Judged] = Examples(row=torch.arange(2), example=(PAIR, PAIR))


@pytest.mark.parametrize(("expectile", "wanted"), [(0.5, 3.25), (0.7, 4.9375), (0.9, 7.75), (0.99, 9.7352941)])
def test_expectiles_of_four_numbers(expectile: float, wanted: float) -> None:
    # tau sum (x - v)_+ = (1 - tau) sum (v - x)_+ over {0, 1, 2, 10}: for .7, with v between 2 and 10, .7 (10 - v) = .3 (3 v - 3)
    numbers = torch.tensor([0.0, 1.0, 2.0, 10.0], dtype=torch.float64)
    v = torch.tensor(wanted, dtype=torch.float64, requires_grad=True)
    expectile_loss(numbers - v, expectile).sum().backward()
    assert v.grad is not None
    assert v.grad.item() == pytest.approx(0, abs=1e-5)


def test_half_is_half_the_squared_error() -> None:
    assert expectile_loss(torch.tensor([-2.0, 3.0]), 0.5).tolist() == [2.0, 4.5]
    assert expectile_loss(torch.tensor([-2.0, 3.0]), 0.9).tolist() == pytest.approx([0.4, 8.1])


def test_targets_look_one_token_ahead() -> None:
    # gamma .5: 0 + .5 * 4, then 1 with nothing after; the second reply is one token long, and its neighbour in padding is not looked at
    reward = torch.tensor([[0.0, 1.0], [3.0, float("nan")]])
    value = torch.tensor([[2.0, 4.0], [6.0, float("nan")]])
    mask = torch.tensor([[True, True], [True, False]])
    assert step_target(reward, value, mask, 0.5).tolist() == [[2.0, 1.0], [3.0, 0.0]]


def test_the_tilt_by_hand() -> None:
    # (1/2, 1/4, 1/4) tilted by values (0, log 2, log 4) at strength 1: 1/2, 1/2, 1 -> (.25, .25, .5); a shift of all values: the same
    logits, value = torch.tensor([[0.5, 0.25, 0.25]]).log(), torch.tensor([[0.0, math.log(2), math.log(4)]])
    assert tilted_logprobs(logits, value, 1.0).exp()[0].tolist() == pytest.approx([0.25, 0.25, 0.5])
    assert tilted_logprobs(logits, value + 7, 1.0).exp()[0].tolist() == pytest.approx([0.25, 0.25, 0.5])
    assert tilted_logprobs(logits, value, 0.0).exp()[0].tolist() == pytest.approx([0.5, 0.25, 0.25])
    assert tilted_logprobs(logits, value, 100.0).exp()[0].tolist() == pytest.approx([0, 0, 1], abs=1e-6)


def test_at_first_all_values_are_0_and_the_policy_is_where_it_should_be() -> None:
    learner = ILQLConfig(cql_coef=0.25, gamma=0.5).build(tiny_parts())
    e = learner.collect(DATA, Key(0))
    with torch.no_grad():
        loss = learner.loss(e, learner.weigh(e, learner.totals(e)))
    # 'good good' and eos: rewards 0, 0, .4; 'bad' unfinished: 0. Four tokens a pair: Q loss 2 * .4^2 / 4 (both heads), V loss 0,
    # CQL log of 8 tokens for both heads; the tilted reference is the reference, which the policy is
    values = {name: m.value for name, m in loss.metrics.items()}
    assert values["loss/q"] == pytest.approx(0.08, abs=1e-6)
    assert values["loss/value"] == values["value"] == 0
    assert values["loss/cql"] == pytest.approx(2 * math.log(8), abs=1e-5)
    assert values["loss/policy"] == pytest.approx(0, abs=1e-6)
    assert values["reward"] == pytest.approx(0.2)
    assert loss.value.item() == pytest.approx(0.08 + 0.25 * 2 * math.log(8), abs=1e-4)


def test_twins_begin_alike_in_value_but_not_in_weights() -> None:
    model = q_from_policy(tiny_policy(), Key(1))
    first, second = model.heads
    assert not torch.equal(first[0].weight, second[0].weight)
    assert torch.equal(first[2].weight, torch.zeros_like(first[2].weight))


def test_slow_copies_follow_by_their_share() -> None:
    learner = ILQLConfig().build(tiny_parts())
    flat = learner.collect(DATA, Key(0)).sequences.unstacked()
    with torch.no_grad():
        for i, head in enumerate(learner.values.heads):
            head[2].bias.fill_(4.0 - i)  # the first head says 4 everywhere, the second 3
        assert learner.values(flat).slow.abs().max().item() == 0
        learner.values.follow(0.25)
        # a quarter of the way: 1 and .75; the lesser counts
        torch.testing.assert_close(learner.values(flat).slow, torch.full_like(learner.values(flat).slow, 0.75))
        learner.values.follow(0.25)
        torch.testing.assert_close(learner.values(flat).slow, torch.full_like(learner.values(flat).slow, 3 * (1 - 0.75**2)))


def test_the_tilted_distribution_is_the_reference_tilted() -> None:
    learner = ILQLConfig(strength=2.0).build(tiny_parts())
    flat = learner.collect(DATA, Key(0)).sequences.unstacked()
    with torch.no_grad():
        for head in learner.values.heads:
            head[2].bias[3] = 1.0  # the token 'good' is worth 1
        learner.values.follow(1.0)
        before = learner.parts.reference.logits(flat)[flat.mask].float().log_softmax(-1)
        after = learner.tilted(flat)
    others = [i for i in range(before.shape[1]) if i != 3]
    gained = (after - before)[:, 3] - (after - before)[:, others].mean(1)
    assert gained.tolist() == pytest.approx([2.0] * len(gained), abs=1e-4)


def test_the_policy_moves_towards_the_tilt_and_the_reference_does_not_move() -> None:
    parts = tiny_parts()
    learner = ILQL(ILQLConfig(target_share=1.0, cql_coef=0.0), parts, q_from_policy(parts.policy, Key(0)))
    run = train(learner, lambda i: DATA, steps=60, config=LoopConfig(learning_rate=1e-2), key=Key(0), accelerator=Accelerator(cpu=True))
    metrics = [s.metrics for s in run]
    assert metrics[-1]["loss/q"] < 0.1 * metrics[0]["loss/q"]
    flat = learner.collect(DATA, Key(0)).sequences.unstacked()
    with torch.no_grad():
        wanted = learner.tilted(flat)
        now = parts.policy.logits(flat)[flat.mask].float().log_softmax(-1)
        home = parts.reference.logits(flat)[flat.mask].float().log_softmax(-1)
    kl = torch.nn.functional.kl_div
    assert kl(now, wanted, log_target=True, reduction="batchmean") < 0.5 * kl(home, wanted, log_target=True, reduction="batchmean")
