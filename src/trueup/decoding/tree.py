"""A model read along a tree of tokens: what a node sees is its prompt and its ancestors, and every node costs one token, once.

Guided decoding looks at several continuations of one prefix. Here they are nodes that share the prefix's keys and values; a mask keeps
siblings apart, so that one forward pass reads many branches of many rows. Nodes are numbered in the order in which they grew, alike in
all rows; -1 is the prompt's end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from trueup.data.tokens import Ids, pad_rows
from trueup.models.policy import Policy, autocast, base_of
from trueup.models.reward import TrunkReward
from trueup.models.value import ValueModel

PROMPT = -1
"""The node that every tree begins with."""


class TreeModel(Protocol):
    """What guided decoding asks of a model: outputs at a prompt's end, and at new nodes."""

    device: torch.device

    def root(self, prompt_ids: Sequence[Ids], copies: int) -> Tensor:
        """Read N prompts and stand for ``copies`` rows of each: [N copies, H] outputs at their ends."""
        ...

    def grow(self, parents: Tensor, tokens: Tensor) -> Tensor:
        """Add k nodes to each of R rows.

        Args:
            parents: [R, k] node numbers of earlier calls, -1 for the prompt's end.
            tokens: [R, k] what they read.

        Returns:
            [R, k, H] outputs at the new nodes, which are numbered on from the last.
        """
        ...

    def keep(self, rows: Tensor, nodes: Tensor) -> None:
        """Drop all but [r] rows and, of them, [r, m] nodes, which are numbered from 0 in this order; ancestors come with a node."""
        ...


Run = Callable[[dict[str, Any], int], Tensor]
"""Inputs of a model of transformers, and of how many last columns the outputs are wanted: [R, columns, H]."""


class TreeReader:
    """Any causal model of transformers along a tree; see `TreeModel`.

    Args:
        run: the model's outputs.
        model: whose device and attention they have.
        pad_id: fills the prompts' padding.
        stops_before: a token that the model is not to read: its node repeats the outputs of its parent.
    """

    def __init__(self, run: Run, model: Any, pad_id: int, stops_before: int | None = None) -> None:
        self.run, self.pad_id, self.stops_before = run, pad_id, stops_before
        self.device: torch.device = next(model.parameters()).device
        # masks of numbers are added to attention scores by the plain implementation alone; the fused ones take truth values
        self._added = getattr(model.config, "_attn_implementation", None) == "eager"

    @torch.no_grad()
    def root(self, prompt_ids: Sequence[Ids], copies: int) -> Tensor:
        """Read the prompts; see `TreeModel`."""
        tokens, mask = (x.to(self.device) for x in pad_rows(prompt_ids, self.pad_id, "left"))
        attention, cache = mask.long(), DynamicCache()
        inputs = {"input_ids": tokens, "attention_mask": attention, "position_ids": (attention.cumsum(1) - 1).clamp(min=0)}
        out = self.run({**inputs, "past_key_values": cache, "use_cache": True}, 1)[:, -1]
        self.memory = Memory([(y.keys.repeat_interleave(copies, 0), y.values.repeat_interleave(copies, 0)) for y in cache.layers])
        self.prompt = mask.repeat_interleave(copies, 0)
        self.length = attention.sum(1).repeat_interleave(copies)
        self.above: list[list[int]] = [[] for _ in self.prompt]
        self.outputs = out.repeat_interleave(copies, 0)[:, None]
        return self.outputs[:, 0]

    @torch.no_grad()
    def grow(self, parents: Tensor, tokens: Tensor) -> Tensor:
        """Add nodes; see `TreeModel`."""
        rows, new = tokens.shape
        wanted = parents.tolist()
        nodes, look = (x.to(self.device) for x in _seen(self.above, wanted))
        for above, row in zip(self.above, wanted, strict=True):
            above += row
        itself = torch.eye(new, dtype=torch.bool, device=self.device).expand(rows, -1, -1)
        mask = torch.cat([self.prompt[:, None].expand(-1, new, -1), look, itself], 2)[:, None]
        if self._added:
            mask = torch.where(mask, 0.0, torch.finfo(torch.float32).min)
        inputs = {"input_ids": tokens.to(self.device), "attention_mask": mask, "position_ids": self.length[:, None] + look.sum(2)}
        cache = self.memory.of(nodes, self.prompt.shape[1])
        out = self.run({**inputs, "past_key_values": cache, "use_cache": True}, new)
        self.memory.append(cache, new)
        if self.stops_before is not None:
            last = self.outputs.gather(1, (parents.to(self.device) + 1)[..., None].expand(-1, -1, out.shape[2]))
            out = torch.where((tokens.to(self.device) == self.stops_before)[..., None], last, out)
            self.outputs = torch.cat([self.outputs, out], 1)
        return out

    def keep(self, rows: Tensor, nodes: Tensor) -> None:
        """Drop what is not named; see `TreeModel`."""
        rows, nodes = rows.to(self.device), nodes.to(self.device)
        self.memory.keep(rows, nodes, self.prompt.shape[1])
        self.prompt, self.length = self.prompt[rows], self.length[rows]
        kept = []
        for i, named in zip(rows.tolist(), nodes.tolist(), strict=True):
            renamed = {PROMPT: PROMPT, **{node: place for place, node in enumerate(named)}}
            kept.append([renamed[self.above[i][node]] for node in named])
        self.above = kept
        if self.stops_before is not None:
            places = F.pad(nodes + 1, (1, 0))
            self.outputs = self.outputs[rows].gather(1, places[..., None].expand(-1, -1, self.outputs.shape[2]))


class Memory:
    """Keys and values of prompts and nodes, with room to grow: what was read is never copied to add to it, and only what is seen is read.

    Args:
        layers: keys and values [R, G, P, D] of the prompts.
    """

    def __init__(self, layers: list[tuple[Tensor, Tensor]]) -> None:
        self.layers, self.used = layers, layers[0][0].shape[2]

    def of(self, nodes: Tensor, prompt: int) -> DynamicCache:
        """A cache that holds the prompts of ``prompt`` columns and these nodes [R, u] in order."""
        cache, count = DynamicCache(), nodes.shape[1]
        whole = prompt + count == self.used and bool((nodes == torch.arange(count, device=nodes.device)).all())
        for keys, values in self.layers:
            layer = DynamicLayer()
            held = (y[:, :, : self.used] if whole else _columns(y, nodes, prompt) for y in (keys, values))
            first, second = held
            layer.lazy_initialization(first, second)
            layer.keys, layer.values = first, second
            cache.layers.append(layer)
        return cache

    def append(self, cache: DynamicCache, new: int) -> None:
        """Take over the last ``new`` columns of a cache."""
        if self.used + new > self.layers[0][0].shape[2]:
            room = self.used + new
            self.layers = [
                (F.pad(k[:, :, : self.used], (0, 0, 0, room)), F.pad(v[:, :, : self.used], (0, 0, 0, room))) for k, v in self.layers
            ]
        for (keys, values), layer in zip(self.layers, cache.layers, strict=True):
            keys[:, :, self.used : self.used + new] = layer.keys[:, :, -new:]
            values[:, :, self.used : self.used + new] = layer.values[:, :, -new:]
        self.used += new

    def keep(self, rows: Tensor, nodes: Tensor, prompt: int) -> None:
        """Drop all but these rows and, of them, these nodes [r, m]."""
        self.layers = [(_columns(k[rows], nodes, prompt), _columns(v[rows], nodes, prompt)) for k, v in self.layers]
        self.used = prompt + nodes.shape[1]


def _columns(held: Tensor, nodes: Tensor, prompt: int) -> Tensor:
    """[R, G, P + u, D] of the prompts and of these nodes [R, u]."""
    picked = held.gather(2, prompt + nodes[:, None, :, None].expand(-1, held.shape[1], -1, held.shape[3]))
    return torch.cat([held[:, :, :prompt], picked], 2)


def _seen(above: list[list[int]], wanted: list[list[int]]) -> tuple[Tensor, Tensor]:
    """What new nodes look at.

    Args:
        above: for each of R rows the parents of its nodes.
        wanted: for each row the parents of k new nodes.

    Returns:
        [R, u] nodes that any of a row's new ones looks at, 0 in padding; [R, k, u] True where one does.
    """
    paths = [{parent: _path(row, parent) for parent in set(new)} for row, new in zip(above, wanted, strict=True)]
    unions = [sorted({n for path in row.values() for n in path}) for row in paths]
    width = max(map(len, unions))
    nodes, look = np.zeros((len(paths), width), dtype=np.int64), np.zeros((len(paths), len(wanted[0]), width), dtype=np.bool_)
    for i, (union, row, new) in enumerate(zip(unions, paths, wanted, strict=True)):
        nodes[i, : len(union)] = union
        if len(row) == 1:
            look[i, :, : len(union)] = True
            continue
        place = {node: column for column, node in enumerate(union)}
        for j, parent in enumerate(new):
            look[i, j, [place[n] for n in row[parent]]] = True
    return torch.from_numpy(nodes), torch.from_numpy(look)


def _path(above: list[int], node: int) -> list[int]:
    """A node and its ancestors, from below; nothing for the prompt's end."""
    found = []
    while node != PROMPT:
        found.append(node)
        node = above[node]
    return found


def policy_tree(policy: Policy) -> TreeReader:
    """A policy along a tree: outputs are float32 logits [.., V]."""

    def run(inputs: dict[str, Any], columns: int) -> Tensor:
        with autocast(inputs["input_ids"].device, policy.precision):
            out = policy.model(**inputs, logits_to_keep=columns).logits[:, -columns:]
        return out if out.dtype == torch.float64 else out.float()

    return TreeReader(run, policy.model, policy.tokenizer.pad_token_id)


def reward_tree(model: TrunkReward, gain: float = 1.0, shift: float = 0.0) -> TreeReader:
    """A unidirectional reward model along a tree: outputs are [.., 1] scores ``gain * raw + shift`` of the prefixes that end there."""

    def run(inputs: dict[str, Any], columns: int) -> Tensor:
        with autocast(inputs["input_ids"].device, model.precision):
            hidden = base_of(model.model).base_model(**inputs).last_hidden_state[:, -columns:]
        head = model.head
        return gain * F.linear(hidden.to(head.weight.dtype), head.weight, head.bias)[..., :1].float() + shift

    tokenizer = model.tokenizer
    return TreeReader(run, model.model, tokenizer.pad_token_id, None if model.reads_eos else tokenizer.eos_token_id)


def value_tree(model: ValueModel, pad_id: int, gain: float = 1.0, shift: float = 0.0) -> TreeReader:
    """A policy's critic along a tree: outputs are [.., 1] values ``gain * raw + shift`` of the states after the prefix."""

    def run(inputs: dict[str, Any], columns: int) -> Tensor:
        hidden = model.trunk(**inputs).last_hidden_state[:, -columns:]
        return gain * model.head(hidden).float() + shift

    return TreeReader(run, model.trunk, pad_id)
