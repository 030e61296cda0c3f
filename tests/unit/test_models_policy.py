"""Policies: what is loaded, saved and refused; log-probabilities that padding, sharing and precision do not change."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from trueup.core.errors import UserError
from trueup.core.rng import Key
from trueup.data.tokens import Sequences, pack
from trueup.models import policy as policy_module
from trueup.models.llama import lean_trunk
from trueup.models.loading import seeded
from trueup.models.policy import LoraSettings, Policy, load_policy, reference_of
from trueup.models.reward import reward_from_policy
from trueup.models.tiny import tiny_llama, tiny_tokenizer

WORDS = [f"w{i}" for i in range(20)]
SIZE = len(WORDS) + 3
SMALL: dict[str, Any] = {
    "vocab_size": SIZE,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": None,
}


def make(kind: str, spread: float = 6.0) -> Policy:
    with seeded(Key(1)):
        model: Any = {
            "llama": lambda: LlamaForCausalLM(LlamaConfig(**SMALL)),
            "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SMALL, head_dim=4)),
            "gpt2": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=SIZE, n_embd=16, n_layer=2, n_head=4, n_positions=32)),
        }[kind]()
    with torch.no_grad():
        for p in model.parameters():
            if p.dim() > 1:
                p.mul_(spread)
    return Policy(model, tiny_tokenizer(WORDS))


def rows() -> tuple[list[list[int]], list[list[int]]]:
    """Prompts of different lengths, two of them shared by neighbours and one by strangers; replies with padding and eos inside."""
    shared, other = [5, 6, 7], [9]
    return [shared, shared, other, [4, 4, 4, 4, 8], shared], [[3, 4, 1], [0, 1], [7, 7, 7, 7, 0], [1], [12, 3]]


def sequences() -> Sequences:
    return pack(*rows(), pad_id=0)


def plain_logprobs(policy: Policy, temperature: float = 1.0) -> list[list[float]]:
    """Row by row, without padding."""
    out = []
    for prompt, reply in zip(*rows(), strict=True):
        logits = policy.model(input_ids=torch.tensor([prompt + reply]), use_cache=False).logits[0] / temperature
        logp = logits.log_softmax(-1)[len(prompt) - 1 : -1]
        out.append(logp.gather(1, torch.tensor(reply)[:, None]).squeeze(1).tolist())
    return out


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gpt2"])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_logprobs_equal_unpadded_rows_and_are_zero_in_padding(kind: str, temperature: float) -> None:
    policy, seq = make(kind), sequences()
    found = policy.logprobs(seq, temperature)
    assert found.dtype == torch.float32
    for row, valid, expected in zip(found, seq.mask, plain_logprobs(policy, temperature), strict=True):
        assert row[valid].tolist() == pytest.approx(expected, abs=1e-5)
        assert row[~valid].tolist() == [0.0] * int((~valid).sum())


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gpt2"])
def test_logits_predict_reply_tokens(kind: str) -> None:
    policy, seq = make(kind), sequences()
    logits = policy.logits(seq)
    assert logits.shape == (5, 5, SIZE)
    logp = logits.log_softmax(-1).gather(2, seq.replies[:, :, None]).squeeze(2)
    torch.testing.assert_close(logp[seq.mask], policy.logprobs(seq)[seq.mask], rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_poisoned_and_wider_padding_change_nothing(kind: str) -> None:
    policy, seq = make(kind), sequences()
    expected = policy.logprobs(seq)
    poisoned = Sequences(tokens=torch.where(seq.attention().bool(), seq.tokens, 17), prompt_mask=seq.prompt_mask, mask=seq.mask)
    torch.testing.assert_close(policy.logprobs(poisoned), expected, rtol=0, atol=1e-5)
    wide = policy.logprobs(seq.widen(9, 8, pad_id=17))
    torch.testing.assert_close(wide[:, :5], expected, rtol=0, atol=1e-5)
    assert wide[:, 5:].abs().max() == 0


def test_rows_may_come_in_any_order_and_number() -> None:
    policy, seq = make("llama"), sequences()
    expected = policy.logprobs(seq)
    for picked in ([4, 2, 0], [3], [1, 1]):
        torch.testing.assert_close(policy.logprobs(seq.take(torch.tensor(picked))), expected[picked], rtol=0, atol=1e-5)


def test_lean_and_generic_path_agree_in_values_and_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    policy, seq = make("llama"), sequences()
    weight = torch.randn(seq.mask.shape, generator=torch.Generator().manual_seed(0))
    outcomes = []
    for lean in (True, False):
        if not lean:
            monkeypatch.setattr(policy_module, "lean_trunk", lambda model: None)
        policy.model.zero_grad()
        found = policy.logprobs(seq, 0.9)
        (found * weight).sum().backward()
        outcomes.append((found.detach(), {n: p.grad.clone() for n, p in policy.model.named_parameters()}, policy.logits(seq).detach()))
    assert lean_trunk(policy.model) is policy.model.model
    torch.testing.assert_close(outcomes[0][0], outcomes[1][0], rtol=0, atol=1e-5)
    torch.testing.assert_close(outcomes[0][2][seq.mask], outcomes[1][2][seq.mask], rtol=0, atol=1e-4)
    for name, expected in outcomes[1][1].items():
        torch.testing.assert_close(outcomes[0][1][name], expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())


def test_a_head_that_is_no_plain_product_takes_the_whole_forward_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    policy, seq = make("qwen3"), sequences()
    expected = policy.logprobs(seq)
    monkeypatch.setattr(policy_module, "_PLAIN_HEADS", ())
    torch.testing.assert_close(policy.logprobs(seq), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_bf16_stays_near_and_leaves_weights_and_gradients_wide(kind: str) -> None:
    policy, seq = make(kind, spread=3.0), sequences()
    wide = policy.logprobs(seq)
    narrow_policy = Policy(policy.model, policy.tokenizer, precision="bf16")
    narrow = narrow_policy.logprobs(seq)
    narrow.sum().backward()
    assert narrow.dtype == torch.float32
    assert all(p.grad.dtype == torch.float32 for p in policy.model.parameters())
    assert 0 < (narrow - wide).abs().max() < 0.1


def test_one_token_replies() -> None:
    policy = make("llama")
    seq = pack([[5, 6], [7]], [[3], [4]], 0)
    expected = [
        policy.model(input_ids=torch.tensor([p]), use_cache=False).logits[0, -1].log_softmax(-1)[t].item()
        for p, t in (([5, 6], 3), ([7], 4))
    ]
    assert policy.logprobs(seq).flatten().tolist() == pytest.approx(expected, abs=1e-5)


def test_a_temperature_of_zero_has_no_log_probabilities() -> None:
    with pytest.raises(ValueError, match="temperature above 0"):
        make("llama").logprobs(sequences(), 0.0)


def test_dropout_is_off_even_in_training_mode() -> None:
    with seeded(Key(0)):
        model = GPT2LMHeadModel(
            GPT2Config(vocab_size=SIZE, n_embd=16, n_layer=1, n_head=2, resid_pdrop=0.5, embd_pdrop=0.5, attn_pdrop=0.5)
        )
    policy = Policy(model, tiny_tokenizer(WORDS))
    model.train()
    assert torch.equal(policy.logprobs(sequences()), policy.logprobs(sequences()))


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gpt2"])
def test_saved_policies_load_with_transformers_and_with_us(kind: str, tmp_path: Path) -> None:
    policy = make(kind)
    policy.save(tmp_path)
    again = load_policy(tmp_path)
    assert torch.equal(again.logprobs(sequences()), policy.logprobs(sequences()))
    plain = AutoModelForCausalLM.from_pretrained(tmp_path)
    ids = torch.tensor([[5, 6, 7]])
    assert torch.equal(plain(ids).logits, policy.model(ids).logits)
    assert AutoTokenizer.from_pretrained(tmp_path).eos_token == "<eos>"


def test_a_reference_stays_behind() -> None:
    policy, seq = make("llama"), sequences()
    reference = reference_of(policy)
    before = policy.logprobs(seq).detach()
    with torch.no_grad():
        for p in policy.model.parameters():
            p.add_(0.05)
    assert torch.equal(reference.logprobs(seq), before)
    assert not torch.allclose(policy.logprobs(seq), before)
    assert not reference.logits(seq).requires_grad
    assert not any(p.requires_grad for p in reference.model.parameters())


def adapt(policy: Policy, folder: Path) -> Policy:
    policy.save(folder)
    adapted = load_policy(folder, lora=LoraSettings(rank=2))
    return adapted


def test_an_adapters_reference_is_the_model_without_it(tmp_path: Path) -> None:
    base, seq = make("llama"), sequences()
    policy = adapt(base, tmp_path / "base")
    reference, expected = reference_of(policy), base.logprobs(seq).detach()
    assert reference.model is policy.model
    trained = {n for n, p in policy.model.named_parameters() if p.requires_grad}
    assert trained
    assert all("lora" in n for n in trained)
    torch.testing.assert_close(policy.logprobs(seq), expected, rtol=0, atol=1e-5)
    with torch.no_grad():
        for n, p in policy.model.named_parameters():
            if "lora_B" in n:
                p.fill_(0.02)
    moved = policy.logprobs(seq)
    assert (moved - expected).abs().max() > 1e-3
    torch.testing.assert_close(reference.logprobs(seq), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(policy.logprobs(seq), moved, rtol=0, atol=0)  # the adapter is on again
    moved.sum().backward()
    policy.save(tmp_path / "merged")
    torch.testing.assert_close(load_policy(tmp_path / "merged").logprobs(seq), moved.detach(), rtol=0, atol=1e-5)
    assert torch.equal(policy.logprobs(seq), moved)  # saving merged a copy


def test_adapters_start_the_same_every_time(tmp_path: Path) -> None:
    base = make("llama")
    first, second = (adapt(base, tmp_path / n).model.state_dict() for n in ("a", "b"))
    torch.rand(3)
    assert all(torch.equal(first[n], second[n]) for n in first)


def test_tiny_models_are_small_seeded_and_leave_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    a, b, c = (tiny_llama(1000, key=Key(s)) for s in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(a.lm_head.weight, b.lm_head.weight)
    assert not torch.equal(a.lm_head.weight, c.lm_head.weight)
    assert sum(p.numel() for p in a.parameters()) <= 200_000
    assert a.lm_head.weight is a.model.embed_tokens.weight


# What is refused


def saved(tmp_path: Path) -> Path:
    make("llama").save(tmp_path / "m")
    return tmp_path / "m"


def test_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nothing: no such folder"):
        load_policy(tmp_path / "nothing")


def test_a_file_instead_of_a_folder(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    with pytest.raises(UserError, match=r"config.json: is a file"):
        load_policy(folder / "config.json")


def test_a_folder_without_config(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no config.json"):
        load_policy(tmp_path)


def test_a_pickle_is_named_and_never_opened(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch /tmp/opened'\ntR.")
    with pytest.raises(UserError, match=r"pytorch_model.bin: is a pickle"):
        load_policy(folder)


def test_no_weights_at_all(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"no \*.safetensors"):
        load_policy(folder)


def test_an_interrupted_download(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    (folder / "model.safetensors").rename(folder / "model.safetensors.incomplete")
    with pytest.raises(UserError, match=r"model.safetensors.incomplete: is an unfinished download"):
        load_policy(folder)


@pytest.mark.parametrize("size", [5, 200, 5000])
def test_weights_cut_short(tmp_path: Path, size: int) -> None:
    folder = saved(tmp_path)
    weights = folder / "model.safetensors"
    assert weights.stat().st_size > size
    weights.write_bytes(weights.read_bytes()[:size])
    with pytest.raises(UserError, match=r"interrupted download"):
        load_policy(folder)


def test_a_missing_shard(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    index = {"metadata": {}, "weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=r"model-00002-of-00002.safetensors: 1 of 2 weight files are missing"):
        load_policy(folder)
    (folder / "model.safetensors.index.json").write_text("{")
    with pytest.raises(UserError, match=r"index.json: is not a readable index"):
        load_policy(folder)


def test_a_missing_tensor_would_stay_random(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    tensors = load_file(str(folder / "model.safetensors"))
    del tensors["lm_head.weight"]
    save_file(tensors, str(folder / "model.safetensors"), metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"'lm_head.weight'"):
        load_policy(folder)


def test_weights_of_another_size(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "intermediate_size": 32}))
    with pytest.raises(UserError, match=r"m: the weights do not have the shapes"):
        load_policy(folder)


def test_an_unknown_architecture(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    (folder / "config.json").write_text(json.dumps({"model_type": "no_such_model"}))
    with pytest.raises(UserError, match=r"no model can be loaded"):
        load_policy(folder)


def test_a_reward_model_is_no_policy(tmp_path: Path) -> None:
    reward_from_policy(make("llama"), Key(0)).save(tmp_path / "rm")
    with pytest.raises(UserError, match=r"a reward model, not a policy"):
        load_policy(tmp_path / "rm")


def test_double_precision_is_kept_where_a_test_wants_it() -> None:
    policy, seq = make("llama"), sequences()
    single = policy.logprobs(seq)
    policy.model.double()
    double = policy.logprobs(seq)
    assert double.dtype == torch.float64
    torch.testing.assert_close(double.float(), single, rtol=0, atol=1e-5)
