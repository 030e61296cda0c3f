"""Micro-batches hold rows of like length, and neither that nor trimming their padding changes a number."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from tests_support import tiny_policy
from trueup.data.tokens import Sequences, pack
from trueup.learn.table import Table
from trueup.loop.train import _micro_batches
from trueup.models.policy import Policy


@dataclass(frozen=True, kw_only=True)
class Rows(Table):
    sequences: Sequences
    other: torch.Tensor


PROMPTS = [[6], [7, 6, 6], [6], [7, 7]]
REPLIES = [[3, 4, 5, 4, 3, 1], [5], [4, 1], [3, 3, 3, 3, 3, 1]]


def test_rows_of_like_length_go_together() -> None:
    # 7, 4, 3 and 8 tokens
    e = Rows(sequences=pack(PROMPTS, REPLIES, pad_id=0), other=torch.zeros(4))
    assert [part.tolist() for part in _micro_batches(e, 2)] == [[2, 1], [0, 3]]  # type: ignore[union-attr]
    assert _micro_batches(e, 4) == [None]
    # groups of two: 11 and 11, and the order that they have
    pairs = Rows(sequences=e.sequences.stacked(2), other=torch.zeros(2))
    assert [part.tolist() for part in _micro_batches(pairs, 1)] == [[0], [1]]  # type: ignore[union-attr]


def test_short_rows_are_computed_narrow() -> None:
    tokenizer = tiny_policy().tokenizer
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=len(tokenizer), n_embd=16, n_layer=1, n_head=2, n_positions=32, bos_token_id=1, eos_token_id=1)
    policy = Policy(GPT2LMHeadModel(config), tokenizer)
    seen = []
    policy.model.transformer.wte.register_forward_hook(lambda module, args, out: seen.append(tuple(args[0].shape)))
    wide = pack(PROMPTS, REPLIES, pad_id=0)
    whole = policy.logprobs(wide)
    part = policy.logprobs(wide.take(torch.tensor([2])))
    # the third row alone: one token of the prompt, two of the reply, of which the last predicts nothing
    assert seen[1] == (1, 2)
    assert part.shape == (1, 6)
    torch.testing.assert_close(part, whole[2:3], rtol=0, atol=1e-6)
