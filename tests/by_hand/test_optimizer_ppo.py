"""PPO where its parts meet: the first pass over a rollout, the limits of its advantages, first critics, demonstrations mixed in."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from tests_support import parameters, tiny_parts, tiny_policy, tiny_reward
from trueup.core.errors import UserError
from trueup.core.rng import Key
from trueup.data.rows import Demonstration, Prompt, Reply
from trueup.data.tokens import Sequences, encode_prompts, encode_replies, pack
from trueup.models.loading import recompute_activations
from trueup.models.policy import LoraSettings, Policy, adapted
from trueup.models.reward import TrunkReward
from trueup.models.tiny import tiny_tokenizer
from trueup.models.token_outputs import token_outputs
from trueup.models.value import ValueModel, value_from_policy, value_from_reward
from trueup.ops.masking import keep
from trueup.ops.policy_gradient import clipped_surrogate
from trueup.ops.returns import gae
from trueup.optimizers.experience import PromptBatch
from trueup.optimizers.ppo import PPO, PPOConfig, PPOExperience
from trueup.optimizers.protocol import Parts
from trueup.rewards.combine import WeightedSum
from trueup.rewards.in_force import RewardInForce
from trueup.rewards.learned import LearnedReward, Scale

ASKED = PromptBatch(row=torch.arange(3), prompt=("ask", "tell good", "ask tell bad"), ids=((6,), (7, 3), (6, 7, 4)))
COMMON: dict[str, Any] = {"max_completion_length": 5, "temperature": 0.7, "missing_eos_penalty": 0.5, "num_generations": 4}
SHOWN = tuple(
    Demonstration(prompt=Prompt(id="p", text=p), reply=Reply(text=r, finished=f))
    for p, r, f in (("ask", "good bad", True), ("tell", "dull", False), ("ask tell", "good good tell", True))
)


def nudged(module: torch.nn.Module, seed: int, size: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(torch.randn(p.shape, generator=generator) * size)


def collected(config: PPOConfig, parts: Parts | None = None) -> tuple[PPO, PPOExperience]:
    """A policy that has left its reference, a critic that says something, and what they gathered."""
    parts = parts or tiny_parts()
    nudged(parts.policy.model, 1, 0.05)
    learner = config.build(parts)
    nudged(learner.critic.head, 7, 0.3)
    with torch.no_grad():
        return learner, learner.collect(ASKED, Key(3))


def test_the_first_pass_is_reinforce_with_the_advantages() -> None:
    learner, e = collected(PPOConfig(**COMMON, beta=0.3, vf_coef=0.0))
    mask, tokens = e.sequences.mask, int(e.sequences.mask.sum())
    loss = learner.loss(e, learner.weigh(e, learner.totals(e)))
    found = {name: m.value for name, m in loss.metrics.items()}
    assert found["policy/clip_ratio"] == 0
    assert found["policy/approxkl_k3"] == pytest.approx(0, abs=1e-6)
    # every ratio is 1, so the loss is minus the mean of standardised advantages
    assert found["loss/policy"] == pytest.approx(0, abs=1e-5)
    policy = list(learner.parts.policy.model.parameters())
    ours = torch.autograd.grad(loss.value, policy)
    logp = learner.parts.policy.logprobs(e.sequences, 0.7)
    plain = torch.autograd.grad(-(keep(e.advantage, mask) * logp).sum() / tokens, policy)
    for a, b in zip(ours, plain, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_advantages_at_the_ends_of_lambda() -> None:
    """Reward (1, -2, 4), values (0.5, 1, 3): returns are 3, 2, 4; errors 1 + 1 - 0.5, -2 + 3 - 1, 4 - 3."""
    mask = torch.tensor([[True, True, True, False]])
    nan = float("nan")
    reward, value = torch.tensor([[1.0, -2.0, 4.0, nan]]), torch.tensor([[0.5, 1.0, 3.0, nan]])
    assert gae(reward, value, mask, 1.0, 1.0).tolist() == [[2.5, 1.0, 1.0, 0.0]]
    assert gae(reward, value, mask, 1.0, 0.0).tolist() == [[1.5, 0.0, 1.0, 0.0]]


def test_without_critic_and_penalty_every_token_gets_the_score() -> None:
    config = PPOConfig(**{**COMMON, "missing_eos_penalty": 0.0}, beta=0.0, lam=1.0)
    parts = tiny_parts()
    with torch.no_grad():
        e = config.build(parts).collect(ASKED, Key(3))  # the head is zero, so the values are 0
    wanted = e.score[:, None].expand_as(e.target)
    torch.testing.assert_close(e.target[e.sequences.mask], wanted[e.sequences.mask])


def test_rewards_of_a_reply_add_up_to_score_less_kl() -> None:
    """gamma = lambda = 1 and values 0: the first token's target is the sum of the row's rewards."""
    config = PPOConfig(**COMMON, beta=0.3, lam=1.0)
    parts = tiny_parts()
    nudged(parts.policy.model, 1, 0.05)
    with torch.no_grad():
        e = config.build(parts).collect(ASKED, Key(3))
    assert e.kl.abs().max() > 0.05
    torch.testing.assert_close(e.target[:, 0], e.score - 0.5 * (~e.finished).float() - 0.3 * e.kl)


@pytest.mark.parametrize(
    ("advantage", "ratio", "moves"),
    [(1.0, 1.3, False), (1.0, 0.7, True), (-1.0, 0.7, False), (-1.0, 1.3, True), (1.0, 1.1, True), (-1.0, 0.9, True)],
)
def test_gradients_vanish_beyond_the_clip_and_only_there(advantage: float, ratio: float, moves: bool) -> None:
    logp = torch.tensor([math.log(ratio)], requires_grad=True)
    found = clipped_surrogate(logp, torch.zeros(1), torch.tensor([advantage]), torch.ones(1, dtype=torch.bool), 0.2)
    found.loss.sum().backward()
    assert logp.grad is not None
    # d(-A ratio)/d log ratio = -A ratio inside
    assert logp.grad.item() == pytest.approx(-advantage * ratio if moves else 0.0)


def made(tokenizer: Any) -> Sequences:
    prompts, replies = ["ask", "tell good"], [Reply(text="good bad"), Reply(text="dull", finished=False)]
    return pack(encode_prompts(tokenizer, prompts), encode_replies(tokenizer, replies), tokenizer.pad_token_id)


def test_a_critic_from_the_reward_model_says_what_it_says_of_the_text_so_far() -> None:
    policy, model = tiny_policy(), tiny_reward()
    critic = value_from_reward(model, policy, gain=2.0, shift=-0.5)
    seq = made(policy.tokenizer)
    with torch.no_grad():
        value, said = critic(seq), token_outputs(model, seq)[..., 0]
        # before the first token it has read the prompt, so the reply is empty
        nothing = [Reply(text="", finished=False)] * 2
        first = model.score(model.encode(["ask", "tell good"], nothing))
    torch.testing.assert_close(value[:, 0], 2.0 * first - 0.5, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(value[0, 1:3], 2.0 * said[0, 0:2] - 0.5, rtol=1e-4, atol=1e-5)
    assert value.abs().min() > 1e-3
    ours, theirs = {id(p) for p in critic.parameters()}, {id(p) for p in model.module.parameters()}
    assert not ours & theirs
    assert all(p.requires_grad for p in critic.parameters())


def test_ppo_takes_its_critic_from_the_reward_in_force() -> None:
    model = tiny_reward()
    parts = replace(tiny_parts(), reward=RewardInForce(LearnedReward(model, Scale(gain=2.0, shift=-0.5))))
    critic = PPOConfig(critic="reward").build(parts).critic
    torch.testing.assert_close(critic.head.weight, 2.0 * model.head.weight)
    assert critic.head.bias.tolist() == [-0.5]
    assert PPOConfig().build(parts).critic.head.weight.abs().max() == 0


class TextOnly:
    """A reward model without a trunk."""


def test_rewards_that_are_no_critic_are_refused() -> None:
    plain = LearnedReward(tiny_reward())
    other = TrunkReward(tiny_reward().model, tiny_tokenizer(["other", "words", "than", "the", "policy"]))
    refused: list[tuple[Any, str]] = [
        (WeightedSum([(1.0, plain)]), "WeightedSum is none"),
        (LearnedReward(TextOnly()), "reads the whole text"),  # type: ignore[arg-type]
        (LearnedReward(other), "another tokenizer"),
    ]
    for reward, said in refused:
        with pytest.raises(UserError, match=said):
            PPOConfig(critic="reward").build(replace(tiny_parts(), reward=RewardInForce(reward)))


def test_values_are_the_same_on_the_lean_path_and_on_transformers_own() -> None:
    policy = tiny_policy()
    critic = value_from_policy(policy, outputs=2)
    nudged(critic.head, 7, 0.3)
    seq = made(policy.tokenizer)
    with torch.no_grad():
        lean, other = critic.values(seq), critic.double().values(seq)  # double precision leaves the lean path
    torch.testing.assert_close(lean[seq.mask], other[seq.mask].float(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(critic(seq), critic.values(seq)[..., 0])
    # a value knows nothing of the token it stands at, nor of later ones
    changed = replace(seq, tokens=seq.tokens.clone())
    changed.tokens[0, seq.prompt_width + 1 :] = 5
    after = critic.values(changed)
    torch.testing.assert_close(after[0, :2], critic.values(seq)[0, :2])
    assert not torch.allclose(after[0, 2], critic.values(seq)[0, 2], atol=1e-3)


def test_the_critic_of_an_adapted_policy_has_an_adapter_of_its_own() -> None:
    plain = tiny_policy()
    policy = Policy(adapted(plain.model, LoraSettings(rank=2)), plain.tokenizer)
    critic = value_from_policy(policy)
    assert isinstance(critic, ValueModel)
    trained = [n for n, p in critic.named_parameters() if p.requires_grad]
    assert trained
    assert all("lora" in n or n.startswith("head") for n in trained)
    assert not {id(p) for p in critic.parameters()} & {id(p) for p in policy.model.parameters()}
    with torch.no_grad():
        assert critic(made(policy.tokenizer)).abs().max() == 0


@pytest.mark.parametrize("source", ["policy", "reward"])
def test_the_critic_recomputes_activations_where_the_policy_does(source: str) -> None:
    def grads(policy: Policy) -> list[torch.Tensor]:
        critic = value_from_policy(policy) if source == "policy" else value_from_reward(tiny_reward(), policy)
        assert critic.trunk.gradient_checkpointing == policy.model.model.gradient_checkpointing
        nudged(critic.head, 7, 0.3)
        seq = made(policy.tokenizer)
        return list(torch.autograd.grad(critic(seq)[seq.mask].square().sum(), [p for p in critic.parameters() if p.requires_grad]))

    plain, sparing = tiny_policy(), tiny_policy()
    recompute_activations(sparing.model)
    for a, b in zip(grads(plain), grads(sparing), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_demonstrations_are_mixed_in() -> None:
    parts = replace(tiny_parts(), demonstrations=SHOWN)
    plain, e0 = collected(PPOConfig(**COMMON, beta=0.3))
    mixed, e = collected(PPOConfig(**COMMON, beta=0.3, ptx_coef=2.0), parts)
    assert len(e.demonstration) == len(e) == 12
    texts = {"good bad": (3, 4, 1), "dull": (5,), "good good tell": (3, 3, 7, 1)}
    drawn = [tuple(row[valid].tolist()) for row, valid in zip(e.demonstration.replies, e.demonstration.mask, strict=True)]
    assert set(drawn) == set(texts.values()), "all three should come in twelve draws"
    torch.testing.assert_close(e.advantage, e0.advantage)
    with torch.no_grad():
        weight = mixed.weigh(e, mixed.totals(e))
        loss, alone = mixed.loss(e, weight), plain.loss(e0, plain.weigh(e0, plain.totals(e0)))
        logp = parts.policy.logprobs(e.demonstration)
    shown = int(e.demonstration.mask.sum())
    assert mixed.totals(e).tolist() == [12.0, float(e.sequences.mask.sum()), float(shown)]
    nll = -logp[e.demonstration.mask].sum().item() / shown
    assert loss.value.item() == pytest.approx(alone.value.item() + 2.0 * nll, abs=1e-4)
    assert loss.metrics["loss/ptx"].value == pytest.approx(2.0 * nll, abs=1e-4)
    assert "loss/ptx" not in alone.metrics
    assert e0.demonstration.tokens.shape == (12, 0)


def test_a_share_of_the_batch_draws_the_same_demonstrations() -> None:
    config, parts = PPOConfig(**COMMON, ptx_coef=1.0), replace(tiny_parts(), demonstrations=SHOWN)
    learner = config.build(parts)
    with torch.no_grad():
        whole, share = learner.collect(ASKED, Key(3)), learner.collect(ASKED.take(torch.tensor([1, 2])), Key(3))
        other = learner.collect(ASKED, Key(4))

    def drawn(e: PPOExperience) -> list[list[int]]:
        return [row[valid].tolist() for row, valid in zip(e.demonstration.replies, e.demonstration.mask, strict=True)]

    assert drawn(share) == drawn(whole)[4:]
    assert drawn(other) != drawn(whole)


def test_nothing_to_mix_in_is_refused() -> None:
    with pytest.raises(UserError, match="this world has none"):
        PPOConfig(ptx_coef=1.0).build(tiny_parts())
    assert len(parameters(PPOConfig().build(tiny_parts()))) > 0
