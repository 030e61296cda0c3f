"""A lean forward pass of Llama models over prompts with replies: every distinct prompt once, weights as transformers keeps them.

Numbers are those of `LlamaModel.forward` up to rounding; gradients flow into the same parameters. What differs is the work: samples of
one prompt share its keys and values, queries, keys and values come from one product (gate and up too), and only replies are returned.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import LlamaForCausalLM, LlamaForSequenceClassification, LlamaModel

from trueup.data.tokens import Sequences


class Hidden(NamedTuple):
    """Last hidden states, after the final norm."""

    before: Tensor
    """[B, W] at each row's last prompt token."""
    replies: Tensor
    """[B, T, W] at reply tokens."""


def lean_trunk(model: Any) -> LlamaModel | None:
    """The trunk, where this file computes exactly what the model computes; None otherwise."""
    trunk = model if type(model) is LlamaModel else model.model if type(model) in (LlamaForCausalLM, LlamaForSequenceClassification) else None
    if trunk is None:
        return None
    config = trunk.config
    plain = (
        config.hidden_act == "silu"
        and not config.attention_bias
        and not config.mlp_bias
        and config.rope_parameters.get("rope_type") == "default"
        and not config.rope_parameters.get("partial_rotary_factor", 1.0) != 1.0
    )
    whole = all(type(m) is nn.Linear for layer in trunk.layers for m in (layer.self_attn.q_proj, layer.self_attn.v_proj, layer.mlp.up_proj))
    return trunk if plain and whole else None


def reply_states(trunk: LlamaModel, sequences: Sequences) -> Hidden:
    """Hidden states that replies need; each distinct prompt is computed once."""
    width = sequences.prompt_width
    prompts, which = _distinct(sequences.tokens[:, :width], sequences.prompt_mask)
    prompt_mask = prompts.mask
    lengths = prompt_mask.sum(1)
    count, rows, steps = len(prompt_mask), len(sequences), sequences.mask.shape[1]
    positions = torch.cat(
        [
            (prompt_mask.cumsum(1) - 1).clamp(min=0).flatten(),
            (lengths[which, None] + torch.arange(steps, device=which.device)).flatten(),
        ]
    )
    layout = _Layout(
        prompts=count,
        width=width,
        rows=rows,
        steps=steps,
        which=which,
        prompt_bias=_prompt_bias(prompt_mask),
        reply_bias=_reply_bias(prompt_mask, which, steps),
    )
    x = F.embedding(torch.cat([prompts.tokens.flatten(), sequences.replies.flatten()]), trunk.embed_tokens.weight)
    cos, sin = rotation(trunk, positions)
    for layer in trunk.layers:
        x = x + _attention(layer, _norm(x, layer.input_layernorm), cos, sin, layout)
        x = x + _mlp(layer.mlp, _norm(x, layer.post_attention_layernorm))
    x = _norm(x, trunk.norm)
    last = x[: count * width].view(count, width, -1)[:, -1]
    return Hidden(last[which], x[count * width :].view(rows, steps, -1))


def rotation(trunk: LlamaModel, positions: Tensor) -> tuple[Tensor, Tensor]:
    """[n, 1, D/2] float32 cosines and sines of rotary positions (Su et al. 2021, arXiv 2104.09864)."""
    angles = positions[:, None].float() * trunk.rotary_emb.inv_freq
    return angles.cos()[:, None], angles.sin()[:, None]


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the halves of the last dimension: [n, heads, D]."""
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


class _Distinct(NamedTuple):
    tokens: Tensor
    mask: Tensor


class _Layout(NamedTuple):
    prompts: int
    width: int
    rows: int
    steps: int
    which: Tensor
    prompt_bias: Tensor
    reply_bias: Tensor


def _distinct(tokens: Tensor, mask: Tensor) -> tuple[_Distinct, Tensor]:
    keyed = torch.where(mask, tokens, -1)
    found, which = torch.unique(keyed, dim=0, return_inverse=True)
    return _Distinct(found.clamp(min=0), found >= 0), which


def _prompt_bias(mask: Tensor) -> Tensor:
    """[N, 1, P, P] bool: earlier real tokens, and oneself, so that padding has something to look at."""
    width = mask.shape[1]
    causal = torch.ones(width, width, dtype=torch.bool, device=mask.device).tril()
    return ((causal & mask[:, None]) | torch.eye(width, dtype=torch.bool, device=mask.device))[:, None]


def _reply_bias(mask: Tensor, which: Tensor, steps: int) -> Tensor:
    """[B, 1, T, P+T] bool: the whole prompt, and the reply up to oneself."""
    causal = torch.ones(steps, steps, dtype=torch.bool, device=mask.device).tril()
    rows = len(which)
    return torch.cat([mask[which][:, None].expand(rows, steps, -1), causal.expand(rows, -1, -1)], 2)[:, None]


def _norm(x: Tensor, norm: Any) -> Tensor:
    return F.rms_norm(x, (x.shape[-1],), norm.weight, norm.variance_epsilon)


def _attention(layer: Any, x: Tensor, cos: Tensor, sin: Tensor, at: _Layout) -> Tensor:
    block = layer.self_attn
    size = block.head_dim
    qkv = F.linear(x, torch.cat([block.q_proj.weight, block.k_proj.weight, block.v_proj.weight]))
    qkv = qkv.view(len(x), -1, size)
    heads = block.config.num_attention_heads
    groups = block.config.num_key_value_heads
    cos, sin = cos.to(qkv.dtype), sin.to(qkv.dtype)
    turned = rotate(qkv[:, : heads + groups], cos, sin)
    cut = at.prompts * at.width

    def split(y: Tensor) -> tuple[Tensor, Tensor]:
        return y[:cut].view(at.prompts, at.width, -1, size).transpose(1, 2), y[cut:].view(at.rows, at.steps, -1, size).transpose(1, 2)

    q_prompt, q_reply = split(turned[:, :heads])
    k_prompt, k_reply = split(turned[:, heads:])
    v_prompt, v_reply = split(qkv[:, heads + groups :])
    grouped = heads != groups
    first = F.scaled_dot_product_attention(q_prompt, k_prompt, v_prompt, attn_mask=at.prompt_bias, enable_gqa=grouped)
    keys, values = (torch.cat([p[at.which], r], 2) for p, r in ((k_prompt, k_reply), (v_prompt, v_reply)))
    second = F.scaled_dot_product_attention(q_reply, keys, values, attn_mask=at.reply_bias, enable_gqa=grouped)
    out = torch.cat([first.transpose(1, 2).reshape(cut, -1), second.transpose(1, 2).reshape(at.rows * at.steps, -1)])
    return F.linear(out, block.o_proj.weight)


def _mlp(mlp: Any, x: Tensor) -> Tensor:
    gate, up = F.linear(x, torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight])).chunk(2, -1)
    return F.linear(F.silu(gate) * up, mlp.down_proj.weight)
