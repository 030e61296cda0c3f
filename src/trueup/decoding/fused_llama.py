"""One-token steps for Llama models over fused weights and a preallocated key/value cache.

Chosen where the architecture matches exactly (see `trueup.models.llama.lean_trunk`); the numbers are those of transformers up to rounding.
For one query a row, float32 attention is two batched matrix products and a softmax: faster on a CPU than the fused kernel.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import LlamaModel

from trueup.models.llama import rotation
from trueup.ops.fused import rotary


class Layer(NamedTuple):
    """Weights of one block, [in, out] in the precision to multiply in; norms in float32."""

    norm: Tensor
    qkv: Tensor
    """Queries already hold the factor 1/sqrt(D)."""
    out: Tensor
    norm_mlp: Tensor
    gate_up: Tensor
    down: Tensor


class FusedWeights(NamedTuple):
    """A Llama's weights as `FusedLlamaDecoder` reads them."""

    embedding: Tensor
    layers: tuple[Layer, ...]
    norm: Tensor
    head: Tensor
    cos: Tensor
    """[positions, 1, D/2] float32."""
    sin: Tensor
    heads: int
    groups: int
    """Key/value heads."""
    size: int
    """D, the width of a head."""
    epsilon: float


@torch.no_grad()
def fuse(trunk: LlamaModel, head: Tensor, dtype: torch.dtype) -> FusedWeights:
    """Copy a trunk's weights, query, key and value side by side, gate and up too.

    Args:
        trunk: from `lean_trunk`.
        head: [V, W] weight of the output layer.
        dtype: precision of matrix products; the residual stream and the norms stay float32.
    """
    config = trunk.config
    scale = trunk.layers[0].self_attn.head_dim ** -0.5
    layers = []
    for layer in trunk.layers:
        block, mlp = layer.self_attn, layer.mlp
        layers.append(
            Layer(
                norm=layer.input_layernorm.weight.float().clone(),
                qkv=_columns(dtype, block.q_proj.weight * scale, block.k_proj.weight, block.v_proj.weight),
                out=_columns(dtype, block.o_proj.weight),
                norm_mlp=layer.post_attention_layernorm.weight.float().clone(),
                gate_up=_columns(dtype, mlp.gate_proj.weight, mlp.up_proj.weight),
                down=_columns(dtype, mlp.down_proj.weight),
            )
        )
    cos, sin = rotation(trunk, torch.arange(config.max_position_embeddings, device=head.device))
    return FusedWeights(
        embedding=trunk.embed_tokens.weight.float().clone(),
        layers=tuple(layers),
        norm=trunk.norm.weight.float().clone(),
        head=_columns(dtype, head),
        cos=cos,
        sin=sin,
        heads=config.num_attention_heads,
        groups=config.num_key_value_heads,
        size=trunk.layers[0].self_attn.head_dim,
        epsilon=config.rms_norm_eps,
    )


def _columns(dtype: torch.dtype, *weights: Tensor) -> Tensor:
    """Weights side by side as [in, out]: products of a few rows run a tenth faster than with [out, in]."""
    return torch.cat(weights).to(dtype).t().clone(memory_format=torch.contiguous_format)


class FusedLlamaDecoder:
    """A Llama over `FusedWeights`; see `trueup.decoding.sample.Decoder`.

    Args:
        weights: from `fuse`.
    """

    def __init__(self, weights: FusedWeights) -> None:
        self.weights = weights
        self.device = weights.head.device

    def prefill(self, tokens: Tensor, mask: Tensor, copies: int, steps: int) -> Tensor:
        """Read left-padded prompts once, then stand for ``copies`` rows of each: [N, P], [N, P] -> [N, V] float32 logits."""
        w = self.weights
        count, width = tokens.shape
        room = width + steps
        self.at, self.position = width, mask.sum(1).repeat_interleave(copies)
        # prompts of one length need no mask at all
        self.bias = None if bool(mask.all()) else torch.where(mask, 0.0, -torch.inf).repeat_interleave(copies, 0)[:, None]
        causal = torch.ones(width, width, dtype=torch.bool, device=mask.device).tril()
        look = ((causal & mask[:, None]) | torch.eye(width, dtype=torch.bool, device=mask.device))[:, None]
        positions = (mask.cumsum(1) - 1).clamp(min=0).flatten()
        cos, sin = (table[positions].to(w.head.dtype) for table in (w.cos, w.sin))
        x = w.embedding[tokens.flatten()]
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []
        for layer in w.layers:
            q, k, v = self._qkv(x, layer, cos, sin)
            q, k, v = (y.view(count, width, -1, w.size).transpose(1, 2) for y in (q, k, v))
            for cache, new in ((self.keys, k), (self.values, v)):
                cache.append(new.new_empty(count * copies, w.groups, room, w.size))
                cache[-1][:, :, :width] = new.repeat_interleave(copies, 0)
            seen = F.scaled_dot_product_attention(q, k, v, attn_mask=look, scale=1.0, enable_gqa=w.heads != w.groups)
            x = self._finish(x, seen.transpose(1, 2).reshape(count * width, -1), layer)
        return self._logits(x.view(count, width, -1)[:, -1])

    def step(self, tokens: Tensor) -> Tensor:
        """Append one token a row: [R] -> [R, V] float32 next-token logits."""
        w = self.weights
        rows = len(tokens)
        cos, sin = (table[self.position].to(w.head.dtype) for table in (w.cos, w.sin))
        x = w.embedding[tokens]
        for layer, keys, values in zip(w.layers, self.keys, self.values, strict=True):
            q, k, v = self._qkv(x, layer, cos, sin)
            keys[:, :, self.at], values[:, :, self.at] = k, v
            seen = self._look(q, keys[:, :, : self.at + 1], values[:, :, : self.at + 1])
            x = self._finish(x, seen.reshape(rows, -1), layer)
        self.at += 1
        self.position = self.position + 1
        return self._logits(x)

    def keep(self, rows: Tensor) -> None:
        """Drop all rows but these positions."""
        self.keys = [y[rows] for y in self.keys]
        self.values = [y[rows] for y in self.values]
        self.position = self.position[rows]
        self.bias = None if self.bias is None else self.bias[rows]

    def _look(self, q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Attention of one query a row: [R, H, D], [R, G, S, D] twice -> [R, H, D]."""
        w, rows, seen = self.weights, len(q), keys.shape[2]
        if q.dtype != torch.float32:
            # batched products of bfloat16 would copy the cache's slices
            look = None if self.bias is None else F.pad(self.bias, (0, seen - self.bias.shape[2])).to(q.dtype)[:, None]
            return F.scaled_dot_product_attention(q[:, :, None], keys, values, attn_mask=look, scale=1.0, enable_gqa=w.heads != w.groups)
        scores = torch.bmm(q.reshape(rows * w.groups, -1, w.size), keys.flatten(0, 1).transpose(1, 2))
        if self.bias is not None:
            scores.view(rows, w.heads, seen)[:, :, : self.bias.shape[2]] += self.bias
        return torch.bmm(scores.softmax(-1), values.flatten(0, 1))

    def _qkv(self, x: Tensor, layer: Layer, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        w = self.weights
        inner = F.rms_norm(x, (x.shape[1],), layer.norm, w.epsilon).to(w.head.dtype)
        qkv = (inner @ layer.qkv).view(len(x), -1, w.size)
        turned = rotary(qkv[:, : w.heads + w.groups], cos, sin)
        return turned[:, : w.heads], turned[:, w.heads :], qkv[:, w.heads + w.groups :]

    def _finish(self, x: Tensor, seen: Tensor, layer: Layer) -> Tensor:
        """The rest of a block, from attention's output on."""
        x = x + seen @ layer.out
        inner = F.rms_norm(x, (x.shape[1],), layer.norm_mlp, self.weights.epsilon).to(seen.dtype)
        gate, up = (inner @ layer.gate_up).chunk(2, -1)
        return x.add_(F.silu(gate).mul_(up) @ layer.down)

    def _logits(self, x: Tensor) -> Tensor:
        w = self.weights
        return (F.rms_norm(x, (x.shape[1],), w.norm, w.epsilon).to(w.head.dtype) @ w.head).float()
