"""The flat batch of prompts with replies: its places worked out by hand, and passes over it against transformers' own."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForSequenceClassification

from trueup.data.tokens import Sequences, pack
from trueup.models import llama
from trueup.models.layout import lay_out, like_lengths
from trueup.models.llama import last_states, reply_states


def test_rows_part_where_padding_costs_more_than_a_call() -> None:
    # query-key pairs: prompt 0 has 4^2 + 2 rows of 2 x (4+2), 40; prompt 1 has 1 + 2 x (1+2), 7; padded together
    # 2 x 4^2 + 3 x 2 x (4+2), 68: 21 more
    widths, steps, which = [4, 1], [1, 2, 2], [0, 0, 1]
    assert like_lengths(widths, steps, which, 21) == [[0, 1, 2]]
    assert like_lengths(widths, steps, which, 20) == [[0, 1], [2]]
    assert like_lengths(widths, steps, which, math.inf) == [[0, 1, 2]]


def test_waste_is_counted_afresh_in_every_part() -> None:
    # one row a prompt, no reply: 3 and 3 pad nothing; 1 after them would be 3 x 9 - 19 = 8 more. Then 1 and 1 pad nothing again
    assert like_lengths([1, 3, 1, 3], [0, 0, 0, 0], [0, 1, 2, 3], 7) == [[1, 3], [0, 2]]


def test_places_of_the_flat_batch() -> None:
    # rows 0 and 2 share the prompt (3); row 2 has no reply. The longer prompt comes first: 5 6 8 9, then 3 7
    at = lay_out(pack([[3], [5, 6], [3]], [[7], [8, 9], []], pad_id=0), 0)
    assert at.tokens.tolist() == [5, 6, 8, 9, 3, 7]
    assert at.positions.tolist() == [0, 1, 2, 3, 0, 1]
    assert at.counts == [2, 2, 1, 1]
    assert at.row.tolist() == [1, 0, 2]
    assert at.before.tolist() == [1, 4, 4]
    assert at.last.tolist() == [3, 5, 4]
    assert at.replies.tolist() == [2, 3, 5]
    assert at.grid.spread(torch.tensor([[8.0], [9.0], [7.0]])).squeeze(2).tolist() == [[7, 0], [8, 9], [0, 0]]
    long, short = at.parts
    no = -float("inf")
    assert long.seen.tolist() == [[[[0, 0, 0, no], [0, 0, 0, 0]]]]
    assert (long.each, short.each) == (1, 2)
    assert short.which.tolist() == [0, 0]
    # each prompt's keys for both of its rows, the same whether rows stand evenly or are looked up
    keys = torch.arange(6.0).view(1, 2, 3)
    assert torch.equal(short.shared(keys), short._replace(each=None).shared(keys))
    assert short.real.int().flatten(1).tolist() == [[1, 1], [1, 0]]


def test_uneven_rows_are_looked_up() -> None:
    # prompts sort as 3, 4: rows 0, 1, 0 are not neighbours, and 0, 0, 1 not even
    for prompts in ([[3], [4], [3]], [[3], [3], [4]]):
        (part,) = lay_out(pack(prompts, [[7], [8], [9]], pad_id=0), float("inf")).parts
        assert part.each is None
        assert part.shared(torch.tensor([[[3.0]], [[4.0]]])).flatten().tolist() == [float(p[0]) for p in prompts]


PROMPTS = [[3, 4, 5, 6, 7, 8, 9], [3], [3, 4, 5, 6, 7, 8, 9], [5, 6], [5, 7], [3]]
REPLIES = [[10, 11], [12, 13, 14, 15, 16], [], [10], [2, 3, 4], [9]]


def model_of(kv_heads: int) -> LlamaForSequenceClassification:
    torch.manual_seed(0)
    sizes = {"vocab_size": 20, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(**sizes, num_key_value_heads=kv_heads, max_position_embeddings=16, num_labels=2, pad_token_id=0)
    model = LlamaForSequenceClassification(config).eval()
    with torch.no_grad():
        for p in model.parameters():
            if p.dim() > 1:
                p.mul_(10)  # far enough from uniform attention that every token matters
    return model


def plain_states(model: LlamaForSequenceClassification, seq: Sequences) -> Tensor:
    """[B, P+T, W] by transformers."""
    inputs = {"input_ids": seq.tokens, "attention_mask": seq.attention(), "position_ids": seq.positions()}
    hidden: Tensor = model.model(**inputs, use_cache=False).last_hidden_state
    return hidden


@pytest.mark.parametrize("call", [0, 2**21], ids=["many parts", "one part"])
@pytest.mark.parametrize("kv_heads", [4, 2])
def test_last_states_and_their_gradients_are_those_of_transformers(monkeypatch: pytest.MonkeyPatch, kv_heads: int, call: int) -> None:
    monkeypatch.setattr(llama, "CALL", call)
    model, seq = model_of(kv_heads), pack(PROMPTS, REPLIES, 0)
    assert len(lay_out(seq, call).parts) == (1 if call else 4)  # prompt lengths 7, 2 with replies of 3 and 1, and 1
    upstream = torch.randn(len(seq), 16, generator=torch.Generator().manual_seed(1))
    outcomes = []
    for lean in (True, False):
        model.zero_grad()
        states = last_states(model.model, seq) if lean else plain_states(model, seq)[torch.arange(len(seq)), seq.last()]
        (states * upstream).sum().backward()
        outcomes.append([states.detach(), *(p.grad for p in model.model.parameters())])
    for mine, theirs in zip(*outcomes, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("call", [0, 2**21], ids=["many parts", "one part"])
def test_reply_states_are_those_of_transformers(monkeypatch: pytest.MonkeyPatch, call: int) -> None:
    monkeypatch.setattr(llama, "CALL", call)
    model, seq = model_of(2), pack(PROMPTS, REPLIES, 0)
    with torch.no_grad():
        found, plain = reply_states(model.model, seq), plain_states(model, seq)
    width = seq.prompt_width
    torch.testing.assert_close(found.before, plain[:, width - 1], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.replies[seq.mask], plain[:, width:][seq.mask], rtol=1e-4, atol=1e-4)
    assert found.replies[~seq.mask].abs().max() == 0
