"""Each learner solves the world it is meant for, in seconds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from accelerate import Accelerator

from tests_support import goodness, tiny_parts, tiny_policy, tiny_reward
from trueup.core.rng import Key
from trueup.data.rows import Demonstration, Preference, Prompt, Reply, judged
from trueup.data.tokens import decode_replies
from trueup.decoding.rollout import Rollout
from trueup.learn.table import Examples
from trueup.loop.config import LoopConfig
from trueup.loop.train import train
from trueup.models.policy import Policy
from trueup.optimizers.a_lol import ALoLConfig
from trueup.optimizers.advantage_model_ppo import AdvantageModelPPOConfig
from trueup.optimizers.best_of_n_distill import BestOfNDistillConfig
from trueup.optimizers.constrained import ConstrainedConfig
from trueup.optimizers.dpo import DPOConfig
from trueup.optimizers.experience import PromptBatch
from trueup.optimizers.grpo import GRPOConfig
from trueup.optimizers.ilql import ILQLConfig
from trueup.optimizers.inclusive import InclusiveConfig
from trueup.optimizers.ipo import IPOConfig
from trueup.optimizers.kto import KTOConfig
from trueup.optimizers.online_dpo import OnlineDPOConfig
from trueup.optimizers.p3o import P3OConfig
from trueup.optimizers.ppo import PPOConfig
from trueup.optimizers.raft import RaftConfig
from trueup.optimizers.reinforce import ReinforceConfig
from trueup.optimizers.remax import RemaxConfig
from trueup.optimizers.rloo import RLOOConfig
from trueup.optimizers.sft import SFT
from trueup.rewards.combine import WeightedSum
from trueup.rewards.feedback import Disturbance, NoisyFeedback
from trueup.rewards.fit import RewardLearner
from trueup.rewards.objectives.bradley_terry import BradleyTerryConfig
from trueup.rewards.programmed import ProgrammedReward

PROMPT = Prompt(id="p", text="ask")


def truth(policy: Policy) -> float:
    sampled = Rollout(policy).sample([[6]], num_samples=256, max_tokens=6, key=Key(50))
    replies = decode_replies(policy.tokenizer, sampled.sequences.replies, sampled.sequences.mask)
    return sum(goodness(None, replies)) / len(replies)


def learn(learner: Any, batch_of: Any, steps: int, **loop: Any) -> None:
    for _ in train(learner, batch_of, steps=steps, config=LoopConfig(**loop), key=Key(7), accelerator=Accelerator(cpu=True)):
        pass


def asked(_: int) -> PromptBatch:
    return PromptBatch(row=torch.arange(8), prompt=("ask",) * 8, ids=((6,),) * 8)


@pytest.mark.parametrize(
    ("config", "steps", "loop"),
    [
        (RLOOConfig(num_generations=8, max_completion_length=6, beta=0.0), 40, {"learning_rate": 1e-2}),
        (
            PPOConfig(num_generations=8, max_completion_length=6, beta=0.0),
            30,
            {"learning_rate": 1e-2, "num_iterations": 3, "minibatch_rows": 32},
        ),
        (
            AdvantageModelPPOConfig(num_generations=8, max_completion_length=6, beta=0.0, ptx_coef=0.0),
            30,
            {"learning_rate": 1e-2, "num_iterations": 3, "minibatch_rows": 32},
        ),
        (ReinforceConfig(num_generations=8, max_completion_length=6, beta=0.0), 40, {"learning_rate": 1e-2}),
        (RemaxConfig(num_generations=8, max_completion_length=6, beta=0.0), 40, {"learning_rate": 1e-2}),
        (GRPOConfig(max_completion_length=6), 40, {"learning_rate": 1e-2, "num_iterations": 2}),
        (P3OConfig(num_generations=8, max_completion_length=6, beta=0.0), 40, {"learning_rate": 1e-2}),
        (RaftConfig(max_completion_length=6, accumulate=True), 40, {"learning_rate": 1e-2}),
        (OnlineDPOConfig(max_completion_length=6), 60, {"learning_rate": 1e-2}),
    ],
    ids=["rloo", "ppo", "advantage_model_ppo", "reinforce", "remax", "grpo", "p3o", "raft", "online_dpo"],
)
def test_policies_find_the_reward(config: Any, steps: int, loop: dict[str, Any]) -> None:
    parts = tiny_parts()
    before = truth(parts.policy)
    learn(config.build(parts), asked, steps, **loop)
    assert truth(parts.policy) > before + 0.4


@pytest.mark.parametrize("how", [{"granularity": 5}, {"skew": 2.0}, {"variance": 1.0}, {"observed": 0.5}], ids=lambda how: next(iter(how)))
def test_policies_learn_from_feedback_as_people_give_it(how: dict[str, Any]) -> None:
    """Nguyen et al. 2017: what is learned survives each perturbation."""
    plain = tiny_parts()
    before = truth(plain.policy)
    noisy = NoisyFeedback(plain.reward, Disturbance(low=0.0, high=1.2, **how), Key(3))
    config = RLOOConfig(num_generations=8, max_completion_length=6, beta=0.0)
    learn(config.build(replace(plain, reward=noisy)), asked, 40, learning_rate=1e-2)
    assert truth(plain.policy) > before + 0.3


def test_constraints_hold_a_reward_where_it_is_useful() -> None:
    """The share of 'good' is held at 0.5, which unconstrained policies pass."""
    parts = replace(tiny_parts(), reward=WeightedSum([(1.0, ProgrammedReward(goodness))], ["good"]))
    config = ConstrainedConfig(num_generations=8, max_completion_length=6, thresholds={"good": 0.5}, multiplier_lr=0.1, beta=0.1, lam=1.0)
    learn(config.build(parts), asked, 80, learning_rate=5e-3, lr_scheduler_type="cosine")
    assert abs(truth(parts.policy) - 0.5) < 0.1  # the standard error of 256 replies is 0.02


def test_a_distilled_policy_scores_what_the_best_of_n_score() -> None:
    parts = tiny_parts()
    sampled = Rollout(parts.policy).sample([[6]], num_samples=64 * 32, max_tokens=6, key=Key(51))
    found = torch.tensor(goodness(None, decode_replies(parts.policy.tokenizer, sampled.sequences.replies, sampled.sequences.mask)))
    expected = found.view(64, 32).amax(1).mean().item()
    learn(
        BestOfNDistillConfig(num_generations=32, max_completion_length=6).build(parts),
        asked,
        120,
        learning_rate=1e-2,
        lr_scheduler_type="cosine",
    )
    assert expected > found.mean().item() + 0.2
    assert abs(truth(parts.policy) - expected) < 0.06  # 64 maxima, and 256 samples of the policy


def test_a_strong_kl_coefficient_keeps_the_policy_home() -> None:
    parts = tiny_parts()
    before = truth(parts.policy)
    learn(RLOOConfig(num_generations=8, max_completion_length=6, beta=10.0).build(parts), asked, 20, learning_rate=1e-2)
    assert abs(truth(parts.policy) - before) < 0.15


def test_sft_imitates() -> None:
    policy = tiny_policy()
    rows = tuple(Demonstration(prompt=PROMPT, reply=Reply(text="good good tell")) for _ in range(8))
    learn(SFT(policy), lambda i: Examples(row=torch.arange(8), example=rows), 60, learning_rate=1e-2)
    sampled = Rollout(policy).sample([[6]], num_samples=50, max_tokens=6, key=Key(1))
    texts = [r.text for r in decode_replies(policy.tokenizer, sampled.sequences.replies, sampled.sequences.mask)]
    assert texts.count("good good tell") > 45


def pairs(seed: int, n: int) -> tuple[Preference, ...]:
    """Pairs that the truth of the toy world orders."""
    out: list[Preference] = []
    g = Key(seed).generator()
    while len(out) < n:
        a, b = (Reply(text=" ".join(g.choice(["good", "bad", "dull", "tell"], size=4))) for _ in range(2))
        ga, gb = goodness(None, [a, b])
        if ga != gb:
            chosen, rejected = (a, b) if ga > gb else (b, a)
            out.append(Preference(id=str(len(out)), prompt=PROMPT, chosen=chosen, rejected=rejected))
    return tuple(out)


@pytest.mark.parametrize(
    "config",
    [
        DPOConfig(beta=0.1),
        DPOConfig(beta=0.1, loss_type="robust", label_smoothing=0.1),
        IPOConfig(beta=0.1),
        KTOConfig(beta=0.1),
        InclusiveConfig(),
        ALoLConfig(max_completion_length=6),
        ILQLConfig(strength=10.0, target_share=0.1),
    ],
    ids=lambda c: f"{c.kind}-{c.loss_type}" if isinstance(c, DPOConfig) else c.kind,
)
def test_policies_learn_from_pairs(config: Any) -> None:
    parts = tiny_parts()
    before = truth(parts.policy)
    batches = [Examples(row=torch.arange(32), example=tuple(judged(p) for p in pairs(i, 32))) for i in range(60)]
    learn(config.build(parts), lambda i: batches[i], 60, learning_rate=1e-2)
    assert truth(parts.policy) > before + 0.1  # twice what it was; a tenth of it is the standard error of 256 replies


def test_reward_models_rank_unseen_pairs() -> None:
    model = tiny_reward()
    batches = [Examples(row=torch.arange(64), example=tuple(judged(p) for p in pairs(i, 64))) for i in range(60)]
    learn(RewardLearner(BradleyTerryConfig(), model), lambda i: batches[i], 60, learning_rate=1e-2)
    held = pairs(1000, 300)
    with torch.no_grad():
        chosen, rejected = (model.score(model.encode(["ask"] * 300, r)) for r in ([p.chosen for p in held], [p.rejected for p in held]))
    assert (chosen > rejected).float().mean().item() > 0.95
