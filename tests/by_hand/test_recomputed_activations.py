"""Activations that are computed again in the backward pass: the same numbers, less kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from tests_support import tiny_policy
from trueup.core.rng import Key
from trueup.data.tokens import Sequences, pack
from trueup.models.llama import lean_trunk
from trueup.models.loading import recompute_activations
from trueup.models.policy import Policy, load_policy
from trueup.models.tiny import tiny_llama

ROWS = pack([[6], [7, 6], [6]], [[3, 4, 1], [5, 3], [4, 4, 4, 1]], pad_id=0)


def policy_of(kind: str) -> Policy:
    tokenizer = tiny_policy().tokenizer
    if kind == "lean":
        return Policy(tiny_llama(len(tokenizer), 16, 3, 2, 32, key=Key(2)), tokenizer)
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_embd=16,
        n_layer=3,
        n_head=2,
        n_positions=32,
        attn_pdrop=0.5,
        resid_pdrop=0.5,
        bos_token_id=1,
        eos_token_id=1,
    )
    return Policy(GPT2LMHeadModel(config), tokenizer)


def kept_and_gradients(policy: Policy, sequences: Sequences) -> tuple[int, torch.Tensor, list[torch.Tensor]]:
    """Numbers held for the backward pass beside weights; log-probabilities; gradients."""
    weights = {p.data_ptr() for p in policy.model.parameters()}
    held: dict[int, int] = {}

    def note(x: torch.Tensor) -> torch.Tensor:
        if x.data_ptr() not in weights:
            held[x.data_ptr()] = x.numel()
        return x

    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        logp = policy.logprobs(sequences)
    policy.model.zero_grad()
    logp.sum().backward()
    gradients: list[Any] = [p.grad for p in policy.model.parameters()]
    return sum(held.values()), logp.detach(), gradients


@pytest.mark.parametrize("kind", ["lean", "generic"])
def test_the_same_numbers_and_less_kept(kind: str) -> None:
    plain, again = policy_of(kind), policy_of(kind)
    assert (lean_trunk(plain.model) is not None) == (kind == "lean")
    recompute_activations(again.model)
    (kept, logp, gradients), (fewer, same, alike) = kept_and_gradients(plain, ROWS), kept_and_gradients(again, ROWS)
    torch.testing.assert_close(same, logp, rtol=0, atol=1e-6)
    for a, b in zip(alike, gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    # of three layers only what enters them is kept: well below half of all activations
    assert fewer < 0.5 * kept


def test_a_policy_is_loaded_so(tmp_path: Path) -> None:
    tiny_policy().save(tmp_path / "policy")
    for wanted in (True, False):
        model = load_policy(tmp_path / "policy", gradient_checkpointing=wanted).model
        assert any(getattr(m, "gradient_checkpointing", False) for m in model.modules()) == wanted
