"""Constrained RLHF: multipliers by hand, every column of the experience recomputed in plain loops, what is refused."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from tests_support import brevity, goodness, summed_parts, tiny_parts
from trueup.core.errors import UserError
from trueup.core.rng import Key
from trueup.data.rows import Reply
from trueup.ops.lagrange import ascended, objective_weights, squashed
from trueup.optimizers.constrained import Constrained, ConstrainedConfig, ConstrainedExperience
from trueup.optimizers.experience import PromptBatch
from trueup.rewards.combine import WeightedSum
from trueup.rewards.programmed import ProgrammedReward

ASKED = PromptBatch(row=torch.arange(3), prompt=("ask", "tell good", "ask tell bad"), ids=((6,), (7, 3), (6, 7, 4)))
COMMON: dict[str, Any] = {
    "max_completion_length": 5,
    "num_generations": 4,
    "missing_eos_penalty": 0.5,
    "beta": 0.3,
    "gamma": 0.9,
    "lam": 0.8,
}
BOTH = {"good": 0.5, "brief": -0.25}


def double(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_multipliers_and_weights_by_hand() -> None:
    # sigmoid(0) = 1/2, sigmoid(ln 3) = 3/4; tanh(ln 2) = (2 - 1/2) / (2 + 1/2) = 3/5
    assert squashed(double(0.0, math.log(3)), "sigmoid").tolist() == pytest.approx([0.5, 0.75])
    assert squashed(double(0.0, math.log(2)), "tanh").tolist() == pytest.approx([0.0, 0.6])
    # two constraints: the KL term counts 2 - (0.75 - 0.5)
    assert objective_weights(double(0.75, -0.5), double(0.0, 0.0)).tolist() == [1.75, 0.75, -0.5]
    assert objective_weights(double(0.75, 0.5), double(2.0, -1.0)).tolist() == [0.75, 2.75, -0.5]
    # no multiplier: the KL term alone
    assert objective_weights(double(0.0), double(0.0)).tolist() == [1.0, 0.0]


def test_ascent_by_hand() -> None:
    """d sigmoid = 1/4 at 0 and 3/16 at ln 3; d tanh = 1 at 0 and 16/25 at ln 2. Slack is mean less threshold."""
    raw, velocity = ascended(double(0.0, math.log(3)), double(0.0, 1.0), double(-0.4, 0.8), "sigmoid", 0.5, 0.1)
    # velocity: 0.25 * -0.4 = -0.1; 0.1 * 1 + 3/16 * 0.8 = 0.25; steps of half of it
    assert velocity.tolist() == pytest.approx([-0.1, 0.25])
    assert raw.tolist() == pytest.approx([0.05, math.log(3) - 0.125])
    raw, velocity = ascended(double(0.0, math.log(2)), double(0.0, 0.0), double(-0.4, 0.5), "tanh", 0.5, 0.1)
    assert velocity.tolist() == pytest.approx([-0.4, 0.32])
    assert raw.tolist() == pytest.approx([0.2, math.log(2) - 0.16])


@pytest.mark.parametrize("squash", ["sigmoid", "tanh"])
def test_multipliers_rise_when_violated_fall_when_slack_and_rest_at_equality(squash: Any) -> None:
    raw = double(0.3, 0.3, 0.3)
    after, _ = ascended(raw, torch.zeros_like(raw), double(-1.0, 0.0, 1.0), squash, 0.1, 0.0)
    assert after[0] > raw[0]
    assert after[1] == raw[1]
    assert after[2] < raw[2]


def nudged(module: torch.nn.Module, seed: int, size: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(torch.randn(p.shape, generator=generator) * size)


def learner_of(**settings: Any) -> Constrained:
    parts = summed_parts()
    nudged(parts.policy.model, 1, 0.05)
    made = ConstrainedConfig(**{**COMMON, **settings}).build(parts)
    nudged(made.critic.head, 7, 0.3)
    return made


def collected(learner: Constrained) -> ConstrainedExperience:
    with torch.no_grad():
        return learner.collect(ASKED, Key(3))


def advantages(reward: list[float], value: list[float]) -> list[float]:
    """Sum over l of (gamma lam)^l delta_{t+l}, written out."""
    after = [*value[1:], 0.0]
    delta = [r + 0.9 * v1 - v for r, v, v1 in zip(reward, value, after, strict=True)]
    return [sum(0.72 ** (s - t) * delta[s] for s in range(t, len(delta))) for t in range(len(delta))]


def standardised(values: list[float]) -> list[float]:
    mean = sum(values) / len(values)
    spread = math.sqrt(sum((x - mean) ** 2 for x in values) / len(values))
    return [(x - mean) / spread for x in values]


@pytest.mark.parametrize("whiten", ["total", "each"])
@pytest.mark.parametrize("variant", ["xi", "mu", "all"])
def test_experience(variant: str, whiten: str) -> None:
    learner = learner_of(variant=variant, whiten=whiten, thresholds=BOTH, multiplier_init=0.4)
    e = collected(learner)
    tokens = [row[valid].tolist() for row, valid in zip(e.sequences.replies, e.sequences.mask, strict=True)]
    with torch.no_grad():
        value = learner.critic.values(e.sequences)
        gaps = (learner.parts.policy.logprobs(e.sequences) - learner.parts.reference.logprobs(e.sequences)).tolist()
    texts = learner.parts.policy.tokenizer.batch_decode([[t for t in row if t != 1] for row in tokens])
    replies = [Reply(text=t) for t in texts]
    good, brief = goodness(None, replies), brevity(None, replies)
    assert e.part.tolist() == [pytest.approx(pair, abs=1e-6) for pair in zip(good, brief, strict=True)]
    assert e.score.tolist() == pytest.approx([g + 0.5 * b for g, b in zip(good, brief, strict=True)], abs=1e-6)
    streams: list[list[float]] = [[], [], []]
    targets: list[list[float]] = [[], [], []]
    for i, row in enumerate(tokens):
        n = len(row)
        kl = [-0.3 * gaps[i][t] for t in range(n)]
        kl[-1] -= 0.0 if row[-1] == 1 else 0.5
        for s, reward in enumerate((kl, [0.0] * (n - 1) + [good[i]], [0.0] * (n - 1) + [brief[i]])):
            v = value[i, :n, s].tolist()
            a = advantages(reward, v)
            streams[s] += a
            targets[s] += [x + y for x, y in zip(a, v, strict=True)]
    nu = math.tanh(0.4) if variant == "xi" else 1 / (1 + math.exp(-0.4))
    own = (1.0, 0.5) if variant == "all" else (0.0, 0.0)
    weights = (2 - 2 * nu, own[0] + nu, own[1] + nu)
    if whiten == "each":
        streams = [standardised(x) for x in streams]
    mixed = [sum(w * x for w, x in zip(weights, column, strict=True)) for column in zip(*streams, strict=True)]
    if whiten == "total":
        mixed = standardised(mixed)
    mask = e.sequences.mask
    assert e.advantage[mask].tolist() == pytest.approx(mixed, abs=1e-4)
    for s in range(3):
        assert e.target[..., s][mask].tolist() == pytest.approx(targets[s], abs=1e-5)
        assert e.value_old[..., s][mask].tolist() == pytest.approx(value[..., s][mask].tolist(), abs=1e-6)


def test_multipliers_move_after_they_were_used_by_the_batch_means() -> None:
    learner, still = learner_of(thresholds=BOTH, multiplier_lr=0.1), learner_of(thresholds=BOTH, multiplier_lr=1e-9)
    e, same = collected(learner), collected(still)
    assert torch.equal(e.advantage, same.advantage)
    good, brief = e.part.mean(0).tolist()
    # tanh has slope 1 at 0, so the step is 0.1 times threshold less mean
    expected = {"good": 0.1 * (0.5 - good), "brief": 0.1 * (-0.25 - brief)}
    state = json.loads(json.dumps(learner.state_dict()))
    assert state["raw"] == pytest.approx(expected, abs=1e-6)
    assert learner.multipliers() == pytest.approx({n: math.tanh(x) for n, x in expected.items()}, abs=1e-6)
    still.load_state_dict(state)
    assert still.state_dict() == state
    loss = learner.loss(e, learner.weigh(e, learner.totals(e)))
    assert loss.metrics["multiplier/good"].value == pytest.approx(math.tanh(expected["good"]), abs=1e-6)
    assert loss.metrics["reward/brief"].value == pytest.approx(brief, abs=1e-6)


def test_loss_adds_the_heads() -> None:
    learner = learner_of(thresholds=BOTH, vf_coef=0.4)
    e = collected(learner)
    nudged(learner.critic.head, 8, 0.02)
    with torch.no_grad():
        loss = learner.loss(e, learner.weigh(e, learner.totals(e)))
        value, mask = learner.critic.values(e.sequences), e.sequences.mask
    near = e.value_old + (value - e.value_old).clamp(-0.2, 0.2)
    heads = 0.5 * torch.maximum((value - e.target) ** 2, (near - e.target) ** 2)[mask].sum(-1).mean()
    # on the first pass the policy's part is minus the mean of standardised advantages, 0
    assert loss.value.item() == pytest.approx(0.4 * heads.item(), abs=1e-4)
    assert loss.metrics["loss/value"].value == pytest.approx(heads.item(), abs=1e-4)


def test_without_weight_the_rewards_do_not_matter() -> None:
    """xi begins with multipliers of 0, which is the pull towards the reference alone."""
    e = collected(learner_of(thresholds=BOTH))
    parts = summed_parts()
    nudged(parts.policy.model, 1, 0.05)
    noisy = WeightedSum([(1.0, ProgrammedReward(lambda p, r: [100.0 * len(x.text) for x in r])), (1.0, ProgrammedReward(brevity))], [*BOTH])
    other = ConstrainedConfig(**COMMON, thresholds=BOTH).build(replace(parts, reward=noisy))
    nudged(other.critic.head, 7, 0.3)
    torch.testing.assert_close(collected(other).advantage, e.advantage)


def test_what_is_refused() -> None:
    with pytest.raises(UserError, match="this one has none"):
        ConstrainedConfig(thresholds={"good": 1.0}).build(tiny_parts())
    with pytest.raises(UserError, match="Did you mean 'good'"):
        ConstrainedConfig(thresholds={"god": 1.0}).build(summed_parts())
    with pytest.raises(UserError, match="part 'brief' of the reward has no threshold"):
        ConstrainedConfig(thresholds={"good": 1.0}).build(summed_parts())
    free = ConstrainedConfig(thresholds={"brief": 1.0}, variant="all", multiplier_init=-40.0).build(summed_parts())
    assert free.names == ("brief", "good")
    assert free.critic.head.out_features == 3
    # a multiplier of 0 leaves the sum's own weights: KL 1, brief 0.5, good 1
    assert free.weights().tolist() == pytest.approx([1.0, 0.5, 1.0])
