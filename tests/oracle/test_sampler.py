"""The sampler against a plain float32 reference that recomputes everything and keeps nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)

from trueup.core.errors import UserError
from trueup.core.rng import Key
from trueup.data.tokens import Ids, pack
from trueup.decoding.cached import CacheDecoder
from trueup.decoding.fused_llama import FusedLlamaDecoder
from trueup.decoding.rollout import Rollout, native_bf16
from trueup.decoding.sample import BLOCK, Sampled, draw, inverse_cdf, nucleus, sample, sampling_gap_nats
from trueup.models.loading import seeded
from trueup.models.policy import LoraSettings, Policy, adapted
from trueup.models.tiny import tiny_tokenizer

WORDS = 67  # with three special tokens 70: no multiple of BLOCK
STEPS = 20
PROMPTS: list[Ids] = [[5, 9, 12], [7], [30, 31, 32, 33, 34, 35], [9, 9], [44, 3, 12, 69, 8]]
COMMON: dict[str, Any] = {"vocab_size": WORDS + 3, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": None}
LLAMA: dict[str, Any] = {
    **COMMON,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
CONFIGS: dict[str, Callable[[], Any]] = {
    "llama": lambda: LlamaConfig(**LLAMA, num_key_value_heads=4, tie_word_embeddings=True),
    "llama grouped": lambda: LlamaConfig(**LLAMA, num_key_value_heads=2, tie_word_embeddings=False),
    "llama wide heads": lambda: LlamaConfig(**LLAMA, num_key_value_heads=1, head_dim=16),
    "llama biased": lambda: LlamaConfig(**LLAMA, num_key_value_heads=4, attention_bias=True),
    "gpt2": lambda: GPT2Config(**COMMON, n_embd=32, n_layer=2, n_head=4, n_positions=64),
    "qwen2": lambda: Qwen2Config(**LLAMA, num_key_value_heads=2),
    "qwen3": lambda: Qwen3Config(**LLAMA, num_key_value_heads=2, head_dim=8),
    "mistral": lambda: MistralConfig(**LLAMA, num_key_value_heads=2, sliding_window=None),
}
FUSED = ("llama", "llama grouped", "llama wide heads")


def policy_of(name: str, spread: float = 6.0) -> Policy:
    """A random model whose next-token distributions are far from uniform and end replies now and then."""
    with seeded(Key(3) / name):
        model = AutoModelForCausalLM.from_config(CONFIGS[name]())
    with torch.no_grad():
        for p in model.parameters():
            if p.dim() > 1:
                p.mul_(spread)
        # eos likely enough that rows end at different steps
        direction = model.get_output_embeddings().weight
        direction[1] *= 3
    return Policy(model, tiny_tokenizer([f"w{i}" for i in range(WORDS)]))


@torch.no_grad()
def reference_sample(policy: Policy, prompts: list[Ids], uniforms: np.ndarray, temperature: float) -> list[tuple[Ids, list[float]]]:
    """Each row alone, without padding, cache or batch; the token is the first whose cumulative probability exceeds the uniform."""
    out = []
    for prompt, row in zip(prompts, uniforms, strict=True):
        ids, values = list(prompt), []
        for u in row:
            logp = (policy.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].double() / temperature).log_softmax(-1)
            cumulative = logp.exp().cumsum(0)
            token = int((cumulative > u * cumulative[-1]).nonzero()[0])
            ids.append(token)
            values.append(logp[token].item())
            if token == policy.tokenizer.eos_token_id:
                break
        out.append((ids[len(prompt) :], values))
    return out


def rows_of(sampled: Sampled) -> list[tuple[Ids, list[float]]]:
    seq = sampled.sequences
    return [
        (tokens[valid].tolist(), logp[valid].tolist())
        for tokens, logp, valid in zip(seq.replies, sampled.logp_sampling, seq.mask, strict=True)
    ]


def assert_same(found: list[tuple[Ids, list[float]]], expected: list[tuple[Ids, list[float]]]) -> None:
    assert [ids for ids, _ in found] == [ids for ids, _ in expected]
    for (_, mine), (_, theirs) in zip(found, expected, strict=True):
        assert mine == pytest.approx(theirs, abs=1e-5)


@pytest.mark.parametrize("name", list(CONFIGS))
@pytest.mark.parametrize("fused", [True, False], ids=["automatic", "generic"])
def test_same_tokens_and_log_probabilities_as_the_plain_reference(name: str, fused: bool) -> None:
    if name not in FUSED and not fused:
        pytest.skip("automatic is generic for this architecture")
    policy = policy_of(name)
    rollout = Rollout(policy, fused=fused)
    assert type(rollout.decoder()) is (FusedLlamaDecoder if fused and name in FUSED else CacheDecoder)
    key, copies = Key(11), 3
    sampled = rollout.sample(PROMPTS, num_samples=copies, max_tokens=STEPS, temperature=0.9, key=key, first_row=40)
    repeated = [p for p in PROMPTS for _ in range(copies)]
    uniforms = np.concatenate([key.uniforms([40 + r], STEPS) for r in range(len(repeated))])
    expected = reference_sample(policy, repeated, uniforms, 0.9)
    lengths = {len(ids) for ids, _ in expected}
    assert len(lengths) > 2, "rows must end at different steps for this test to mean anything"
    assert_same(rows_of(sampled), expected)


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "generic"])
def test_batching_dropping_and_row_offset_change_no_stream(fused: bool) -> None:
    policy, key = policy_of("llama grouped"), Key(5)
    rollout = Rollout(policy, fused=fused)
    whole = rows_of(rollout.sample(PROMPTS, num_samples=2, max_tokens=STEPS, key=key))
    for start, stop in ((0, 2), (2, 3), (3, 5)):
        part = rollout.sample(PROMPTS[start:stop], num_samples=2, max_tokens=STEPS, key=key, first_row=2 * start)
        assert_same(rows_of(part), whole[2 * start : 2 * stop])
    shorter = rollout.sample(PROMPTS, num_samples=2, max_tokens=STEPS // 2, key=key)
    assert_same(rows_of(shorter), [(ids[: STEPS // 2], logp[: STEPS // 2]) for ids, logp in whole])
    for drop_at in (0.0, 1.0):  # never; at every end
        other = sample(
            rollout.decoder(),
            PROMPTS,
            num_samples=2,
            uniforms=key.uniforms(range(10), STEPS),
            temperature=1.0,
            top_p=1.0,
            eos_id=1,
            pad_id=0,
            drop_at=drop_at,
        )
        assert_same(rows_of(other), whole)


def test_the_padding_token_changes_nothing() -> None:
    policy, key = policy_of("llama"), Key(6)
    outcomes = []
    for pad_id in (0, 1, 9):  # unused, eos, an ordinary word
        found = sample(
            Rollout(policy).decoder(),
            PROMPTS,
            num_samples=2,
            uniforms=key.uniforms(range(10), STEPS),
            temperature=1.0,
            top_p=1.0,
            eos_id=1,
            pad_id=pad_id,
        )
        outcomes.append(rows_of(found))
    assert outcomes[0] == outcomes[1] == outcomes[2]


def test_training_log_probabilities_equal_the_samplers() -> None:
    for name in CONFIGS:
        policy = policy_of(name)
        sampled = Rollout(policy).sample(PROMPTS, num_samples=4, max_tokens=STEPS, temperature=0.8, key=Key(1))
        with torch.no_grad():
            again = policy.logprobs(sampled.sequences, 0.8)
        torch.testing.assert_close(again, sampled.logp_sampling, rtol=0, atol=1e-5)
        assert sampling_gap_nats(again, sampled.logp_sampling, sampled.sequences.mask).max() < 1e-4


def test_greedy_takes_the_most_probable_token() -> None:
    policy = policy_of("llama")
    sampled = Rollout(policy).sample(PROMPTS, num_samples=1, max_tokens=STEPS, temperature=0.0, key=Key(1))
    # at a very low temperature the inverse of the cumulative distribution finds the same tokens
    cold = Rollout(policy).sample(PROMPTS, num_samples=1, max_tokens=STEPS, temperature=1e-4, key=Key(2))
    assert [ids for ids, _ in rows_of(sampled)] == [ids for ids, _ in rows_of(cold)]
    with torch.no_grad():  # log-probabilities of greedy tokens are those at temperature 1
        torch.testing.assert_close(policy.logprobs(sampled.sequences), sampled.logp_sampling, rtol=0, atol=1e-5)


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "generic"])
def test_an_adapter_is_sampled_with(fused: bool) -> None:
    policy = policy_of("llama", spread=3.0)
    policy = Policy(adapted(policy.model, LoraSettings(rank=2)), policy.tokenizer)
    with torch.no_grad():
        for name, p in policy.model.named_parameters():
            if "lora_B" in name:
                p.normal_(std=0.05, generator=torch.Generator().manual_seed(len(name)))
    sampled = Rollout(policy, fused=fused).sample(PROMPTS, num_samples=2, max_tokens=STEPS, key=Key(4))
    with torch.no_grad():
        torch.testing.assert_close(policy.logprobs(sampled.sequences), sampled.logp_sampling, rtol=0, atol=1e-5)
        with policy.model.disable_adapter():
            without = policy.logprobs(sampled.sequences)
    assert (without - sampled.logp_sampling).abs().max() > 0.1


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "generic"])
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_refresh_takes_over_new_weights(fused: bool, precision: Any) -> None:
    policy = policy_of("llama")
    rollout = Rollout(policy, precision, fused=fused)
    before = rollout.sample(PROMPTS, num_samples=2, max_tokens=STEPS, key=Key(4))
    with torch.no_grad():
        policy.model.model.layers[0].mlp.down_proj.weight.add_(0.3)
    rollout.refresh()
    after = rollout.sample(PROMPTS, num_samples=2, max_tokens=STEPS, key=Key(4))
    fresh = Rollout(policy, precision, fused=fused).sample(PROMPTS, num_samples=2, max_tokens=STEPS, key=Key(4))
    assert rows_of(after) == rows_of(fresh)
    assert rows_of(after) != rows_of(before)


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "generic"])
def test_bf16_rollouts_stay_near(fused: bool) -> None:
    policy = policy_of("llama grouped", spread=3.0)
    sampled = Rollout(policy, "bf16", fused=fused).sample(PROMPTS, num_samples=8, max_tokens=STEPS, key=Key(4))
    assert sampled.logp_sampling.dtype == torch.float32
    with torch.no_grad():
        gap = sampling_gap_nats(policy.logprobs(sampled.sequences), sampled.logp_sampling, sampled.sequences.mask)
    assert 0 < gap.max() < 0.3
    assert isinstance(native_bf16(), bool)


def test_a_context_too_short_is_said_before_anything_is_drawn() -> None:
    rollout = Rollout(policy_of("llama"))
    rollout.sample([[5] * 4], num_samples=1, max_tokens=60, key=Key(0))
    with pytest.raises(UserError, match="a prompt of 5 tokens and 60 tokens of reply are more than the model's context of 64"):
        rollout.sample([[5] * 5], num_samples=1, max_tokens=60, key=Key(0))


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "generic"])
def test_a_rollout_is_a_copy_until_it_is_refreshed(fused: bool) -> None:
    policy = policy_of("llama")
    rollout = Rollout(policy, fused=fused)
    before = rollout.sample(PROMPTS, num_samples=2, max_tokens=STEPS, key=Key(4))
    with torch.no_grad():
        policy.model.model.layers[0].mlp.down_proj.weight.add_(0.3)
    assert rows_of(rollout.sample(PROMPTS, num_samples=2, max_tokens=STEPS, key=Key(4))) == rows_of(before)


def test_inverse_cdf_takes_the_first_index_past_the_draw() -> None:
    # weights 1, 0, 3, 4 of 8: intervals [0, 1/8), nothing, [1/8, 1/2), [1/2, 1)
    weights = torch.tensor([[1.0, 0.0, 3.0, 4.0]])
    for u, index in ((0.0, 0), (0.12, 0), (0.125, 2), (0.49, 2), (0.5, 3), (0.999999999999, 3)):
        assert inverse_cdf(weights, torch.tensor([u], dtype=torch.float64)).tolist() == [index]


@pytest.mark.parametrize("words", [3, BLOCK, BLOCK + 1, 5 * BLOCK + 7])
def test_inverse_cdf_over_blocks_equals_numpy(words: int) -> None:
    generator = np.random.default_rng(words)
    weights = generator.random(words) ** 8 * (generator.random(words) > 0.3)
    weights[-1] = 0.0  # the end must never be drawn
    uniforms = np.append(generator.random(500), [0.0, 1 - 2**-53])
    found = inverse_cdf(torch.tensor(weights, dtype=torch.float64).expand(len(uniforms), -1), torch.tensor(uniforms)).numpy()
    cumulative = weights.cumsum()
    expected = np.minimum((cumulative[None] <= (uniforms * cumulative[-1])[:, None]).sum(1), weights.nonzero()[0][-1])
    assert (found == expected).mean() > 0.99  # the last bit of a sum may differ at a border
    assert (weights[found] > 0).all()


def test_draws_have_the_right_frequencies() -> None:
    # probabilities 1/8, 2/8, 5/8; equally spaced uniforms give exact frequencies
    logits = torch.tensor([[1.0, 2.0, 5.0]]).log().expand(8000, -1)
    tokens, logp = draw(logits, (torch.arange(8000, dtype=torch.float64) + 0.5) / 8000, 1.0, 1.0)
    assert tokens.bincount().tolist() == [1000, 2000, 5000]
    assert logp[-1].item() == pytest.approx(np.log(5 / 8), abs=1e-6)


def test_top_p_keeps_the_fewest_tokens_that_hold_the_share() -> None:
    probs = torch.tensor([[0.1, 0.5, 0.15, 0.25]])
    assert nucleus(probs, 0.5).tolist() == [[False, True, False, False]]
    assert nucleus(probs, 0.51).tolist() == [[False, True, False, True]]
    assert nucleus(probs, 0.76).tolist() == [[False, True, True, True]]
    # 1/3 and 2/3 remain of 0.25 and 0.5; the log-probability told is the whole distribution's
    tokens, logp = draw(probs.log().expand(3, -1), torch.tensor([0.1, 0.65, 0.7], dtype=torch.float64), 1.0, 0.6)
    assert tokens.tolist() == [1, 1, 3]
    assert logp.tolist() == pytest.approx([np.log(0.5), np.log(0.5), np.log(0.25)], abs=1e-6)


def test_packed_prompts_are_what_the_model_was_asked() -> None:
    policy = policy_of("llama")
    sampled = Rollout(policy).sample(PROMPTS, num_samples=2, max_tokens=4, key=Key(9))
    again = pack([p for p in PROMPTS for _ in range(2)], [ids for ids, _ in rows_of(sampled)], 0)
    assert torch.equal(again.tokens, sampled.sequences.tokens)
    assert torch.equal(again.prompt_mask, sampled.sequences.prompt_mask)
    assert torch.equal(again.mask, sampled.sequences.mask)
