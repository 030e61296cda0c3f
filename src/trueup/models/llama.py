"""A lean forward pass of Llama models over prompts with replies: every distinct prompt once, weights as transformers keeps them.

Numbers are those of `LlamaModel.forward` up to rounding; gradients flow into the same parameters. What differs is the work: samples of
one prompt share its keys and values, queries, keys and values come from one product (gate and up too), rows attend in parts of like
length, and only what is asked for is returned.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import LlamaForCausalLM, LlamaForSequenceClassification, LlamaModel
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from trueup.data.tokens import Sequences
from trueup.models.layout import CALL, Layout, Part, lay_out
from trueup.ops.fused import NormWeight, mlp_block, project_heads, rms_norm

Rotation = tuple[Tensor, Tensor]
"""[n, 1, D/2] float32 cosines and sines of rotary positions."""


class Hidden(NamedTuple):
    """Last hidden states, after the final norm."""

    before: Tensor
    """[B, W] at each row's last prompt token."""
    replies: Tensor
    """[B, T, W] at reply tokens."""


def lean_trunk(model: Any) -> LlamaModel | None:
    """The trunk, where this file computes exactly what the model computes; None otherwise."""
    trunk = (
        model if type(model) is LlamaModel else model.model if type(model) in (LlamaForCausalLM, LlamaForSequenceClassification) else None
    )
    if trunk is None:
        return None
    config = trunk.config
    plain = (
        config.hidden_act == "silu"
        and not config.attention_bias
        and not config.mlp_bias
        and config.rope_parameters.get("rope_type") == "default"
        and config.rope_parameters.get("partial_rotary_factor", 1.0) == 1.0
        and trunk.dtype != torch.float64  # here all is float32 or narrower
    )
    # weights that are split over processes are there only inside the call of their layer, whose class then is another
    whole = all(type(layer) is LlamaDecoderLayer for layer in trunk.layers) and all(
        type(m) is nn.Linear for layer in trunk.layers for m in (layer.self_attn.q_proj, layer.self_attn.v_proj, layer.mlp.up_proj)
    )
    return trunk if plain and whole else None


def reply_states(trunk: LlamaModel, sequences: Sequences, dtype: torch.dtype = torch.float32) -> Hidden:
    """Hidden states that replies need; each distinct prompt is computed once, and padding not at all.

    Args:
        trunk: from `lean_trunk`.
        sequences: prompts with replies.
        dtype: matrix products are done in it; the residual stream is float32.
    """
    at, turn = _begin(trunk, sequences)
    x = _through(trunk, trunk.layers, at, turn, dtype)
    states = rms_norm(x, _norm(trunk.norm)).to(dtype)
    return Hidden(states.index_select(0, at.before[at.row.argsort()]), at.grid.spread(states.index_select(0, at.replies)))


def last_states(trunk: LlamaModel, sequences: Sequences, dtype: torch.dtype = torch.float32) -> Tensor:
    """[B, W] float32 state of each row's last token (of the prompt where the reply is empty), after the final norm.

    As `reply_states`, but the last layer computes only keys and values of the tokens that are not read.

    Args:
        trunk: from `lean_trunk`.
        sequences: prompts with replies.
        dtype: matrix products are done in it; the residual stream is float32.
    """
    at, turn = _begin(trunk, sequences)
    *layers, top = trunk.layers
    x = _through(trunk, layers, at, turn, dtype)
    block, norm, nothing = top.self_attn, _norm(top.input_layernorm), x.new_empty(0, x.shape[1])
    read = x.index_select(0, at.last)
    q, _, _ = project_heads(read, norm, block.q_proj.weight, nothing, nothing, turn[at.last], dtype)
    _, k, v = project_heads(x, norm, nothing, block.k_proj.weight, block.v_proj.weight, turn, dtype)
    states = rms_norm(_after(top, read, _attend_last(q, k, v, block.head_dim, at), dtype), _norm(trunk.norm))
    return states.index_select(0, at.row.argsort())


def rotation(trunk: LlamaModel, positions: Tensor) -> Rotation:
    """Of tokens at these positions, [n]."""
    angles = positions[:, None].float() * trunk.rotary_emb.inv_freq
    return angles.cos()[:, None], angles.sin()[:, None]


def _norm(norm: Any) -> NormWeight:
    return NormWeight(norm.weight, norm.variance_epsilon)


def _begin(trunk: LlamaModel, sequences: Sequences) -> tuple[Layout, Tensor]:
    """The layout of the flat batch, and [n, 1, D/2] complex64 turns of its tokens."""
    device = sequences.tokens.device
    at = lay_out(sequences, CALL / trunk.config.hidden_size if device.type == "cpu" else math.inf)
    return at, torch.complex(*rotation(trunk, at.positions))


def _through(trunk: LlamaModel, layers: Iterable[Any], at: Layout, turn: Tensor, dtype: torch.dtype) -> Tensor:
    """[n, W] float32 after these layers; what a layer computes inside is computed again in the backward pass where the trunk says so."""
    x: Tensor = trunk.embed_tokens(at.tokens).float()
    again = trunk.gradient_checkpointing and torch.is_grad_enabled()
    for layer in layers:
        x = checkpoint(_layer, layer, x, at, turn, dtype, use_reentrant=False) if again else _layer(layer, x, at, turn, dtype)
    return x


def _layer(layer: Any, x: Tensor, at: Layout, turn: Tensor, dtype: torch.dtype) -> Tensor:
    q, k, v = _heads(layer, x, turn, dtype)
    return _after(layer, x, _attend(q, k, v, layer.self_attn.head_dim, at), dtype)


def _heads(layer: Any, x: Tensor, turn: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    block = layer.self_attn
    weights = block.q_proj.weight, block.k_proj.weight, block.v_proj.weight
    return project_heads(x, _norm(layer.input_layernorm), *weights, turn, dtype)


def _after(layer: Any, x: Tensor, seen: Tensor, dtype: torch.dtype) -> Tensor:
    """The rest of a layer, from what attention gave."""
    x, mlp = x + F.linear(seen.to(dtype), layer.self_attn.o_proj.weight.to(dtype)), layer.mlp
    return mlp_block(x, _norm(layer.post_attention_layernorm), mlp.gate_proj.weight, mlp.up_proj.weight, mlp.down_proj.weight, dtype)


def _attend(q: Tensor, k: Tensor, v: Tensor, size: int, at: Layout) -> Tensor:
    """[n, H D], [n, G D] twice -> [n, H D]; in float32, because the bfloat16 backward kernel of CPUs is ten times slower."""
    grouped, seen = q.shape[1] != k.shape[1], []
    queries, keys, values = (y.split(at.counts) for y in (q, k, v))
    for i, part in enumerate(at.parts):
        k0, v0 = (part.prompts.spread(y[2 * i]) for y in (keys, values))
        first = F.scaled_dot_product_attention(
            _split(part.prompts.spread(queries[2 * i]), size), _split(k0, size), _split(v0, size), is_causal=True, enable_gqa=grouped
        )
        seen.append(part.prompts.gather(first.transpose(1, 2)))
        if at.counts[2 * i + 1]:
            k1, v1 = (_joined(y, z[2 * i + 1], part, size) for y, z in ((k0, keys), (v0, values)))
            q1 = _split(part.replies.spread(queries[2 * i + 1]), size)
            second = F.scaled_dot_product_attention(q1, k1, v1, attn_mask=part.seen, enable_gqa=grouped)
            seen.append(part.replies.gather(second.transpose(1, 2)))
    return torch.cat(seen)


def _attend_last(q: Tensor, k: Tensor, v: Tensor, size: int, at: Layout) -> Tensor:
    """[B, H D] of the last tokens, [n, G D] twice -> [B, H D]."""
    grouped, seen = q.shape[1] != k.shape[1], []
    keys, values = (y.split(at.counts) for y in (k, v))
    for i, (part, queries) in enumerate(zip(at.parts, q.split([len(part.which) for part in at.parts]), strict=True)):
        k1, v1 = (_joined(part.prompts.spread(y[2 * i]), y[2 * i + 1], part, size) for y in (keys, values))
        out = F.scaled_dot_product_attention(_split(queries[:, None], size), k1, v1, attn_mask=part.real, enable_gqa=grouped)
        seen.append(out.flatten(1))
    return torch.cat(seen)


def _joined(prompts: Tensor, replies: Tensor, part: Part, size: int) -> Tensor:
    """[N, P, G D] of prompts and [m, G D] of replies -> [b, G, P+T, D] of rows."""
    return _split(torch.cat([part.shared(prompts), part.replies.spread(replies)], 1), size)


def _split(y: Tensor, size: int) -> Tensor:
    """[b, n, H D] -> [b, H, n, D]."""
    return y.unflatten(2, (-1, size)).transpose(1, 2)
