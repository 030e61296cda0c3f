"""What the online optimizers make of sampled replies: every column and every metric recomputed in plain loops over rows and tokens."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from tests_support import goodness, tiny_parts, tiny_policy
from trueup.core.rng import Key
from trueup.data.rows import Demonstration, Prompt, Reply
from trueup.decoding.rollout import Rollout
from trueup.learn.table import Examples
from trueup.optimizers.experience import PromptBatch, importance_weight, penalised_score, reference_gap, sample_and_score, sampling_gap
from trueup.optimizers.ppo import PPO, PPOConfig
from trueup.optimizers.protocol import OnlineConfig, Parts
from trueup.optimizers.rloo import RLOO, RLOOConfig
from trueup.optimizers.sft import SFT, SFTConfig
from trueup.rewards.programmed import ProgrammedReward

ASKED = PromptBatch(row=torch.arange(3), prompt=("ask", "tell good", "ask tell bad"), ids=((6,), (7, 3), (6, 7, 4)))
COMMON: dict[str, Any] = {"max_completion_length": 5, "temperature": 0.7, "missing_eos_penalty": 0.5}


def nudged(module: torch.nn.Module, seed: int, size: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(torch.randn(p.shape, generator=generator) * size)


@pytest.fixture
def parts() -> Parts:
    """A policy that has left its reference."""
    found = tiny_parts()
    nudged(found.policy.model, 1, 0.05)
    return found


def rows(e: Any, column: torch.Tensor) -> list[list[float]]:
    """The valid elements of a [B, T] column, row by row."""
    return [values[valid].tolist() for values, valid in zip(column, e.sequences.mask, strict=True)]


def logprobs(parts: Parts, e: Any, who: str) -> list[list[float]]:
    with torch.no_grad():
        return rows(e, getattr(parts, who).logprobs(e.sequences, 0.7))


def ended(e: Any) -> list[bool]:
    return [row[-1] == 1 for row in rows(e, e.sequences.replies)]


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def flat(values: list[list[float]]) -> list[float]:
    return [x for row in values for x in row]


@pytest.mark.parametrize("beta", [0.0, 0.3])
def test_rloo_experience(parts: Parts, beta: float) -> None:
    with torch.no_grad():
        e = RLOO(RLOOConfig(**COMMON, num_generations=4, beta=beta), parts).collect(ASKED, Key(3))
    ours, theirs, done = logprobs(parts, e, "policy"), logprobs(parts, e, "reference"), ended(e)
    assert len(e) == 12
    assert 0 < sum(done) < 12, "both kinds of ending are needed"
    texts = parts.policy.tokenizer.batch_decode([[t for t in row if t != 1] for row in rows(e, e.sequences.replies)])
    score = goodness(None, [Reply(text=t) for t in texts])
    kl = [sum(a) - sum(b) for a, b in zip(ours, theirs, strict=True)]
    assert max(map(abs, kl)) > 0.05
    reward = [s - (0 if d else 0.5) - beta * k for s, d, k in zip(score, done, kl, strict=True)]
    for i in range(12):
        siblings = [reward[j] for j in range(12) if j // 4 == i // 4 and j != i]
        assert e.advantage[i].item() == pytest.approx(reward[i] - mean(siblings), abs=1e-5)
    assert e.score.tolist() == pytest.approx(score, abs=1e-6)
    assert e.finished.tolist() == done
    assert e.kl.tolist() == pytest.approx(kl, abs=1e-5)
    k3 = [sum(math.exp(y - x) - 1 + x - y for x, y in zip(a, b, strict=True)) for a, b in zip(ours, theirs, strict=True)]
    assert e.kl_k3.tolist() == pytest.approx(k3, abs=1e-5)
    assert e.importance.tolist() == [1.0] * 12
    assert flat(rows(e, e.logp_old)) == pytest.approx(flat(ours), abs=1e-6)
    assert e.sampling_gap.max() < 1e-4  # the sampler had the same temperature


def test_scores_belong_to_their_own_prompt(parts: Parts) -> None:
    reward = ProgrammedReward(lambda prompts, replies: [float(len(str(p))) for p in prompts])
    samples = sample_and_score(replace(parts, reward=reward), RLOOConfig(**COMMON, num_generations=2), ASKED, Key(3))
    assert samples.score.tolist() == [3, 3, 9, 9, 12, 12]  # letters of "ask", "tell good", "ask tell bad"
    assert samples.prompt == ("ask", "ask", "tell good", "tell good", "ask tell bad", "ask tell bad")
    seq = samples.sequences
    asked = [row[valid].tolist() for row, valid in zip(seq.tokens[:, : seq.prompt_width], seq.prompt_mask, strict=True)]
    assert asked == [[6], [6], [7, 3], [7, 3], [6, 7, 4], [6, 7, 4]]
    assert [r.text for r in samples.reply] == parts.policy.tokenizer.batch_decode(
        [[t for t in row if t != 1] for row in rows(samples, samples.sequences.replies)]
    )


class Listening:
    """A reward that keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: tuple[Any, ...] = ()

    def score(self, prompts: Any, replies: Any, sequences: Any = None) -> torch.Tensor:
        self.asked = (prompts, replies, sequences)
        return torch.zeros(len(replies))


def test_samplers_and_rewards_are_asked_as_configured(parts: Parts) -> None:
    reward, config = Listening(), RLOOConfig(max_completion_length=5, temperature=0.7, top_p=0.6, num_generations=2)
    batch = ASKED.take(torch.tensor([1, 2]))  # rows 1 and 2 of the global batch, so replies 2 to 5
    samples = sample_and_score(replace(parts, reward=reward), config, batch, Key(3))
    asked = {"num_samples": 2, "max_tokens": 5, "first_row": 2, "key": Key(3) / "rollout"}
    same = parts.rollout.sample([[7, 3], [6, 7, 4]], temperature=0.7, top_p=0.6, **asked)  # type: ignore[arg-type]
    assert rows(samples, samples.sequences.replies) == rows(same, same.sequences.replies)
    assert torch.equal(samples.logp_sampling, same.logp_sampling)
    for other in ({"temperature": 1.0, "top_p": 0.6}, {"temperature": 0.7, "top_p": 1.0}):
        found = parts.rollout.sample([[7, 3], [6, 7, 4]], **asked, **other)  # type: ignore[arg-type]
        assert rows(found, found.sequences.replies) != rows(same, same.sequences.replies)
    prompts, replies, sequences = reward.asked
    assert (prompts, replies) == (samples.prompt, samples.reply)
    assert sequences is samples.sequences


def test_a_row_is_sampled_alike_in_any_share_of_the_batch(parts: Parts) -> None:
    config = RLOOConfig(**COMMON, num_generations=2)
    whole = sample_and_score(parts, config, ASKED, Key(3))
    share = sample_and_score(parts, config, ASKED.take(torch.tensor([1, 2])), Key(3))
    assert rows(share, share.sequences.replies) == rows(whole, whole.sequences.replies)[2:]
    assert share.score.tolist() == whole.score.tolist()[2:]


def test_the_rollout_sees_the_latest_weights(parts: Parts) -> None:
    config = RLOOConfig(**COMMON, num_generations=2)
    before = sample_and_score(parts, config, ASKED, Key(3))
    nudged(parts.policy.model, 2, 0.5)
    after = sample_and_score(parts, config, ASKED, Key(3))
    assert rows(after, after.sequences.replies) != rows(before, before.sequences.replies)
    assert sampling_gap(after).max() < 1e-4


def test_penalties_gaps_and_importance_by_hand(parts: Parts) -> None:
    samples = sample_and_score(parts, RLOOConfig(**COMMON, num_generations=2), ASKED.take(torch.tensor([0])), Key(3))
    mask = torch.tensor([[True, True, False], [True, False, False]])
    nan = float("nan")
    made = replace(
        samples,
        sequences=replace(samples.sequences, tokens=torch.zeros(2, 4, dtype=torch.int64), mask=mask),
        logp=torch.tensor([[-1.0, -2.0, nan], [-1.5, nan, nan]]),
        logp_ref=torch.tensor([[-1.5, -1.0, nan], [-3.0, nan, nan]]),
        logp_sampling=torch.tensor([[-1.0, -2.0 - math.log(4), nan], [-1.5 + math.log(2), nan, nan]]),
        score=torch.tensor([2.0, 3.0]),
        finished=torch.tensor([True, False]),
    )
    assert penalised_score(made, RLOOConfig(missing_eos_penalty=0.75)).tolist() == [2.0, 2.25]
    assert reference_gap(made).tolist() == [[0.5, -1.0, 0.0], [1.5, 0.0, 0.0]]
    # pi_training / pi_sampling is 4 and 1/2 a reply; the first is cut at 3
    assert importance_weight(made, RLOOConfig(importance_cap=3.0)).tolist() == pytest.approx([3.0, 0.5])
    assert importance_weight(made, RLOOConfig()).tolist() == [1.0, 1.0]
    assert sampling_gap(made).tolist() == pytest.approx([math.log(4), math.log(2)])


def test_rloo_loss_before_and_after_the_policy_moves(parts: Parts) -> None:
    learner = RLOO(RLOOConfig(**COMMON, num_generations=4, beta=0.3, epsilon=0.05), parts)
    with torch.no_grad():
        e = replace(learner.collect(ASKED, Key(3)), importance=torch.linspace(0.5, 1.5, 12))
    totals = learner.totals(e)
    assert (totals.dtype, totals.tolist()) == (torch.float64, [12.0])  # float32 would miscount beyond 2^24
    weight = learner.weigh(e, totals)
    assert weight.tolist() == pytest.approx([x / 12 for x in e.importance.tolist()])
    still = learner.loss(e, weight)
    assert still.value.item() == pytest.approx(
        -mean([w * a for w, a in zip(e.importance.tolist(), e.advantage.tolist(), strict=True)]), abs=1e-5
    )
    assert still.metrics["policy/clip_ratio"].value == 0
    nudged(parts.policy.model, 5, 0.03)
    now, old = logprobs(parts, e, "policy"), rows(e, e.logp_old)
    expected, clipped = 0.0, 0
    for w, a, x, y in zip(e.importance.tolist(), e.advantage.tolist(), now, old, strict=True):
        ratio = math.exp(sum(x) - sum(y))
        limited = min(max(ratio, 0.95), 1.05)
        expected -= w * min(ratio * a, limited * a) / 12
        clipped += limited * a < ratio * a
    assert 0 < clipped < 12
    loss = learner.loss(e, weight)
    found = {name: m.value for name, m in loss.metrics.items()}
    assert loss.value.item() == pytest.approx(expected, abs=1e-5)
    assert found == pytest.approx(
        {
            "reward": mean(e.score.tolist()),
            "objective/kl": mean(e.kl.tolist()),
            "objective/kl_k3": mean(e.kl_k3.tolist()),
            "objective/rlhf_reward": mean([s - 0.3 * k for s, k in zip(e.score.tolist(), e.kl.tolist(), strict=True)]),
            "policy/clip_ratio": clipped / 12,
            "policy/entropy_sampled": -mean(flat(now)),
            "completions/mean_length": mean([float(len(x)) for x in now]),
            "completions/clipped_ratio": mean([float(not d) for d in ended(e)]),
            "advantage_abs": mean([abs(a) for a in e.advantage.tolist()]),
            "sampling_gap_nats": mean(e.sampling_gap.tolist()),
        },
        abs=1e-5,
    )


def critic_of(parts: Parts, config: PPOConfig) -> PPO:
    learner = config.build(parts)
    assert isinstance(learner, PPO)
    nudged(learner.critic.head, 7, 0.3)
    return learner


def advantages(reward: list[float], value: list[float], gamma: float, lam: float) -> list[float]:
    """Sum over l of (gamma lam)^l delta_{t+l}, written out."""
    after = [*value[1:], 0.0]
    delta = [r + gamma * v1 - v for r, v, v1 in zip(reward, value, after, strict=True)]
    return [sum((gamma * lam) ** (s - t) * delta[s] for s in range(t, len(delta))) for t in range(len(delta))]


@pytest.mark.parametrize("whiten", [False, True])
def test_ppo_experience(parts: Parts, whiten: bool) -> None:
    learner = critic_of(parts, PPOConfig(**COMMON, num_generations=4, beta=0.3, gamma=0.9, lam=0.8, whiten_rewards=whiten))
    with torch.no_grad():
        e = learner.collect(ASKED, Key(3))
        value = rows(e, learner.critic(e.sequences))
    assert max(map(abs, flat(value))) > 0.05
    ours, theirs, done = logprobs(parts, e, "policy"), logprobs(parts, e, "reference"), ended(e)
    reward = []
    for a, b, score, end in zip(ours, theirs, e.score.tolist(), done, strict=True):
        row = [-0.3 * (x - y) for x, y in zip(a, b, strict=True)]
        row[-1] += score - (0 if end else 0.5)
        reward.append(row)
    if whiten:  # (r - m) / s + m, population deviation
        m = mean(flat(reward))
        s = math.sqrt(mean([(r - m) ** 2 for r in flat(reward)]))
        reward = [[(r - m) / s + m for r in row] for row in reward]
    raw = [advantages(r, v, 0.9, 0.8) for r, v in zip(reward, value, strict=True)]
    m = mean(flat(raw))
    s = math.sqrt(mean([(x - m) ** 2 for x in flat(raw)]))
    assert flat(rows(e, e.advantage)) == pytest.approx([(x - m) / s for x in flat(raw)], abs=1e-4)
    assert flat(rows(e, e.target)) == pytest.approx([a + v for a, v in zip(flat(raw), flat(value), strict=True)], abs=1e-4)
    assert flat(rows(e, e.value_old)) == pytest.approx(flat(value), abs=1e-6)
    assert flat(rows(e, e.logp_old)) == pytest.approx(flat(ours), abs=1e-6)
    assert e.kl.tolist() == pytest.approx([sum(a) - sum(b) for a, b in zip(ours, theirs, strict=True)], abs=1e-5)
    assert e.finished.tolist() == done
    assert e.importance.tolist() == [1.0] * 12
    assert e.sampling_gap.max() < 1e-4


def test_the_kl_coefficient_moves_after_it_was_used(parts: Parts) -> None:
    config = PPOConfig(**COMMON, num_generations=4, beta=0.3, target_kl_nats=1e-3, kl_horizon=120)
    adaptive, fixed = critic_of(parts, config), critic_of(parts, config.model_copy(update={"target_kl_nats": None}))
    with torch.no_grad():
        e, same = (learner.collect(ASKED, Key(3)) for learner in (adaptive, fixed))
    assert torch.equal(e.advantage, same.advantage)  # the new coefficient is for the next step
    assert e.kl.mean() > 0.0012  # so the error is clipped at +0.2: beta (1 + 0.2 * 12 replies / 120)
    assert adaptive.state_dict() == {"beta": pytest.approx(0.3 * 1.02)}
    assert fixed.state_dict() == {"beta": 0.3}
    fixed.load_state_dict(adaptive.state_dict())
    assert fixed.beta == adaptive.beta
    # a target just above the KL of this batch: the error is small and negative, and counts replies, not tokens
    kl = e.kl.mean().item()
    near = critic_of(parts, config.model_copy(update={"target_kl_nats": kl / 0.9}))
    with torch.no_grad():
        near.collect(ASKED, Key(3))
    assert near.beta == pytest.approx(0.3 * (1 - 0.1 * 12 / 120), rel=1e-5)


def test_ppo_loss_and_metrics(parts: Parts) -> None:
    learner = critic_of(parts, PPOConfig(**COMMON, num_generations=4, beta=0.3, cliprange=0.02, cliprange_value=0.01, vf_coef=0.4))
    with torch.no_grad():
        e = replace(learner.collect(ASKED, Key(3)), importance=torch.linspace(0.5, 1.5, 12))
    learner.beta = 0.7  # adapted since; the reward metric is at the coefficient in force
    totals = learner.totals(e)
    assert (totals.dtype, totals[0].item()) == (torch.float64, 12.0)
    weight = learner.weigh(e, totals)
    nudged(parts.policy.model, 5, 0.03)
    nudged(learner.critic.head, 8, 0.05)
    with torch.no_grad():
        value = rows(e, learner.critic(e.sequences))
    now, old = logprobs(parts, e, "policy"), rows(e, e.logp_old)
    columns = [rows(e, c) for c in (e.advantage, e.value_old, e.target)]
    tokens = len(flat(now))
    policy, critic, clipped, k3, total = [], [], 0, [], 0.0
    for i, w in enumerate(e.importance.tolist()):
        for x, y, v, a, v0, target in zip(now[i], old[i], value[i], *(c[i] for c in columns), strict=True):
            ratio = math.exp(x - y)
            limited = min(max(ratio, 0.98), 1.02)
            policy.append(-min(ratio * a, limited * a))
            clipped += limited * a < ratio * a
            near = v0 + min(max(v - v0, -0.01), 0.01)
            critic.append(0.5 * max((v - target) ** 2, (near - target) ** 2))
            k3.append(ratio - 1 - (x - y))
            total += w * (policy[-1] + 0.4 * critic[-1]) / tokens
    assert 0 < clipped < tokens
    loss = learner.loss(e, weight)
    assert loss.value.item() == pytest.approx(total, abs=1e-4)
    assert {name: m.value for name, m in loss.metrics.items()} == pytest.approx(
        {
            "reward": mean(e.score.tolist()),
            "objective/kl": mean(e.kl.tolist()),
            "objective/rlhf_reward": mean([s - 0.7 * k for s, k in zip(e.score.tolist(), e.kl.tolist(), strict=True)]),
            "objective/beta": 0.7,
            "policy/clip_ratio": clipped / tokens,
            "policy/approxkl_k3": mean(k3),
            "policy/entropy_sampled": -mean(flat(now)),
            "loss/policy": mean(policy),
            "loss/value": mean(critic),
            "completions/mean_length": tokens / 12,
            "completions/clipped_ratio": mean([float(not d) for d in ended(e)]),
            "sampling_gap_nats": mean(e.sampling_gap.tolist()),
        },
        abs=1e-4,
    )


def test_what_is_trained_and_kept() -> None:
    parts = tiny_parts()
    ppo, rloo = PPOConfig().build(parts), RLOOConfig().build(parts)
    assert list(ppo.modules()) == ["policy", "critic"]
    assert ppo.modules()["policy"] is rloo.modules()["policy"] is parts.policy.model
    assert list(rloo.modules()) == ["policy"]
    assert rloo.state_dict() == {}
    sft = SFTConfig().build(parts)
    assert isinstance(sft, SFT)
    assert sft.modules() == {"policy": parts.policy.model}
    assert sft.state_dict() == {}


def test_one_reply_has_no_siblings() -> None:
    with pytest.raises(ValidationError, match="at least 2, got 1"):
        RLOOConfig(num_generations=1)
    assert RLOOConfig(num_generations=2).num_generations == 2
    assert issubclass(PPOConfig, OnlineConfig)


def test_sft_counts_reply_tokens_alike_and_cuts_prompts_only() -> None:
    policy = tiny_policy()
    said = [("ask", "good bad", True), ("tell", "dull", False), ("ask " * 31 + "tell", "good", True)]
    batch = Examples(
        row=torch.arange(3),
        example=tuple(Demonstration(prompt=Prompt(id="p", text=p), reply=Reply(text=r, finished=f)) for p, r, f in said),
    )
    learner = SFT(policy)
    with torch.no_grad():
        e = learner.collect(batch, Key(0))
        loss = learner.loss(e, learner.weigh(e, learner.totals(e)))
        logp = rows(e, policy.logprobs(e.sequences))
    assert rows(e, e.sequences.replies) == [[3, 4, 1], [5], [3, 1]]
    assert e.sequences.prompt_mask.sum(1).tolist() == [1, 1, 30]  # 32 positions less two of the reply
    assert e.sequences.tokens[2, e.sequences.prompt_width - 1].item() == 7
    assert loss.value.item() == pytest.approx(-mean(flat(logp)), abs=1e-5)
    assert {k: m.value for k, m in loss.metrics.items()} == pytest.approx(
        {"nll_nats": -mean(flat(logp)), "completions/mean_length": 2.0}, abs=1e-5
    )


@pytest.mark.parametrize(
    ("precision", "top_p", "asked"), [("float32", 1.0, 0), ("bf16", 1.0, 1), ("float32", 0.9, 1)], ids=["float32", "bf16", "nucleus"]
)
def test_a_sampler_that_says_what_the_policy_says_is_believed(
    parts: Parts, precision: Any, top_p: float, asked: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = replace(parts, rollout=Rollout(parts.policy, precision))
    calls, plain = [], parts.policy.logprobs
    monkeypatch.setattr(parts.policy, "logprobs", lambda *a: calls.append(1) or plain(*a))
    with torch.no_grad():
        found = sample_and_score(parts, RLOOConfig(**COMMON, num_generations=2, top_p=top_p), ASKED, Key(3))
        assert len(calls) == asked
        # up to rounding: the policy's own numbers, and 0 in padding
        torch.testing.assert_close(found.logp, plain(found.sequences, 0.7), rtol=0, atol=1e-5)
