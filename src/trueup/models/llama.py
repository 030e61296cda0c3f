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
from trueup.ops.fused import NormWeight, mlp_block, project_heads, rms_norm


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
    whole = all(type(m) is nn.Linear for layer in trunk.layers for m in (layer.self_attn.q_proj, layer.self_attn.v_proj, layer.mlp.up_proj))
    return trunk if plain and whole else None


def reply_states(trunk: LlamaModel, sequences: Sequences, dtype: torch.dtype = torch.float32) -> Hidden:
    """Hidden states that replies need; each distinct prompt is computed once, and padding not at all.

    Args:
        trunk: from `lean_trunk`.
        sequences: prompts with replies.
        dtype: matrix products are done in it; the residual stream is float32.
    """
    at, positions, tokens = _plan(sequences)
    x = trunk.embed_tokens(tokens).float()
    cos, sin = rotation(trunk, positions)
    for layer in trunk.layers:
        block, mlp = layer.self_attn, layer.mlp
        weights = block.q_proj.weight, block.k_proj.weight, block.v_proj.weight
        q, k, v = project_heads(x, _norm(layer.input_layernorm), *weights, cos, sin, dtype)
        x = x + F.linear(_attend(q, k, v, block.head_dim, at).to(dtype), block.o_proj.weight.to(dtype))
        x = mlp_block(x, _norm(layer.post_attention_layernorm), mlp.gate_proj.weight, mlp.up_proj.weight, mlp.down_proj.weight, dtype)
    prompts, replies = (_spread(y, g) for y, g in zip(rms_norm(x, _norm(trunk.norm)).to(dtype).split(at.counts), at.grids, strict=True))
    return Hidden(prompts[at.which, -1], replies)


def rotation(trunk: LlamaModel, positions: Tensor) -> tuple[Tensor, Tensor]:
    """[n, 1, D/2] float32 cosines and sines of rotary positions."""
    angles = positions[:, None].float() * trunk.rotary_emb.inv_freq
    return angles.cos()[:, None], angles.sin()[:, None]


class _Grid(NamedTuple):
    """Where the real tokens of a padded [rows, columns] lie."""

    rows: int
    columns: int
    where: Tensor | None
    """[n] flat positions; None where nothing is padded."""


class _Layout(NamedTuple):
    grids: tuple[_Grid, _Grid]
    """Distinct prompts, and replies; the flat batch holds their real tokens in this order."""
    counts: list[int]
    """Real tokens of each."""
    which: Tensor
    """[B] prompt of each row."""
    prompt_mask: Tensor
    """[N, 1, P, P] bool, what prompt tokens look at."""
    reply_mask: Tensor
    """[B, 1, T, P+T] bool, what reply tokens look at."""


def _norm(norm: Any) -> NormWeight:
    return NormWeight(norm.weight, norm.variance_epsilon)


def _plan(sequences: Sequences) -> tuple[_Layout, Tensor, Tensor]:
    """The layout of the flat batch, and its tokens' positions and ids."""
    width, steps, rows = sequences.prompt_width, sequences.mask.shape[1], len(sequences)
    keyed = torch.where(sequences.prompt_mask, sequences.tokens[:, :width], -1)
    found, which = torch.unique(keyed, dim=0, return_inverse=True)
    mask = found >= 0
    causal, own = (torch.ones(n, n, dtype=torch.bool, device=mask.device).tril() for n in (width, steps))
    diagonal = torch.eye(width, dtype=torch.bool, device=mask.device)  # padding looks at itself, or its softmax would be undefined
    first = mask.cumsum(1) - 1
    after = mask.sum(1)[which, None] + torch.arange(steps, device=mask.device)
    at = _Layout(
        grids=(_grid(mask), _grid(sequences.mask)),
        counts=[int(mask.sum()), int(sequences.mask.sum())],
        which=which,
        prompt_mask=((causal & mask[:, None]) | diagonal)[:, None],
        reply_mask=torch.cat([mask[which][:, None].expand(rows, steps, -1), own.expand(rows, -1, -1)], 2)[:, None],
    )
    return at, torch.cat([first[mask], after[sequences.mask]]), torch.cat([found[mask], sequences.replies[sequences.mask]])


def _grid(mask: Tensor) -> _Grid:
    rows, columns = mask.shape
    return _Grid(rows, columns, None if bool(mask.all()) else mask.flatten().nonzero().squeeze(1))


def _spread(flat: Tensor, grid: _Grid) -> Tensor:
    """[n, W] -> [rows, columns, W], 0 in padding."""
    if grid.where is not None:
        flat = flat.new_zeros(grid.rows * grid.columns, flat.shape[1]).index_copy(0, grid.where, flat)
    return flat.view(grid.rows, grid.columns, flat.shape[1])


def _gather(padded: Tensor, grid: _Grid) -> Tensor:
    """The inverse of `_spread`."""
    flat = padded.reshape(grid.rows * grid.columns, -1)
    return flat if grid.where is None else flat.index_select(0, grid.where)


def _attend(q: Tensor, k: Tensor, v: Tensor, size: int, at: _Layout) -> Tensor:
    """[n, H D], [n, G D] twice -> [n, H D]; in float32, because the bfloat16 backward kernel of CPUs is ten times slower."""
    grouped = q.shape[1] != k.shape[1]

    def parts(y: Tensor) -> list[Tensor]:
        return [_spread(z, g).unflatten(2, (-1, size)).transpose(1, 2) for z, g in zip(y.split(at.counts), at.grids, strict=True)]

    (q0, q1), (k0, k1), (v0, v1) = parts(q), parts(k), parts(v)
    first = F.scaled_dot_product_attention(q0, k0, v0, attn_mask=at.prompt_mask, enable_gqa=grouped)
    seen = [first]
    if at.counts[1]:
        keys, values = torch.cat([k0[at.which], k1], 2), torch.cat([v0[at.which], v1], 2)
        seen.append(F.scaled_dot_product_attention(q1, keys, values, attn_mask=at.reply_mask, enable_gqa=grouped))
    return torch.cat([_gather(y.transpose(1, 2), g) for y, g in zip(seen, at.grids, strict=False)])
