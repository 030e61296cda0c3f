"""A model read along a tree of tokens: what a node sees is its prompt and its ancestors, and every node costs one token, once.

Guided decoding looks at several continuations of one prefix. Here they are nodes that share the prefix's keys and values; a mask keeps
siblings apart, so that one forward pass reads many branches of many rows. Nodes are numbered in the order in which they grew, alike in
all rows; -1 is the prompt's end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import DynamicCache

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
        attention = mask.long()
        self.cache = DynamicCache()
        inputs = {"input_ids": tokens, "attention_mask": attention, "position_ids": (attention.cumsum(1) - 1).clamp(min=0)}
        out = self.run({**inputs, "past_key_values": self.cache, "use_cache": True}, 1)[:, -1]
        self.cache.batch_repeat_interleave(copies)
        self.prompt = mask.repeat_interleave(copies, 0)
        self.length = attention.sum(1).repeat_interleave(copies)
        self.seen = torch.zeros((len(self.prompt), 0, 0), dtype=torch.bool, device=self.device)
        self.outputs = out.repeat_interleave(copies, 0)[:, None]
        return self.outputs[:, 0]

    @torch.no_grad()
    def grow(self, parents: Tensor, tokens: Tensor) -> Tensor:
        """Add nodes; see `TreeModel`."""
        rows, old, new = len(tokens), self.seen.shape[1], tokens.shape[1]
        parents = parents.to(self.device)
        above = F.pad(self.seen, (0, 0, 1, 0)).gather(1, (parents + 1)[..., None].expand(-1, -1, old))
        look = torch.cat([above, torch.eye(new, dtype=torch.bool, device=self.device).expand(rows, -1, -1)], 2)
        mask = torch.cat([self.prompt[:, None].expand(-1, new, -1), look], 2)[:, None]
        if self._added:
            mask = torch.where(mask, 0.0, torch.finfo(torch.float32).min)
        inputs = {"input_ids": tokens.to(self.device), "attention_mask": mask, "position_ids": self.length[:, None] + look.sum(2) - 1}
        out = self.run({**inputs, "past_key_values": self.cache, "use_cache": True}, new)
        self.seen = torch.cat([F.pad(self.seen, (0, new)), look], 1)
        if self.stops_before is not None:
            before = self.outputs.gather(1, (parents + 1)[..., None].expand(-1, -1, out.shape[2]))
            out = torch.where((tokens.to(self.device) == self.stops_before)[..., None], before, out)
            self.outputs = torch.cat([self.outputs, out], 1)
        return out

    def keep(self, rows: Tensor, nodes: Tensor) -> None:
        """Drop what is not named; see `TreeModel`."""
        rows, nodes = rows.to(self.device), nodes.to(self.device)
        width = self.prompt.shape[1]
        columns = torch.cat([torch.arange(width, device=self.device).expand(len(rows), -1), width + nodes], 1)
        for layer in self.cache.layers:
            for name in ("keys", "values"):
                held = getattr(layer, name)[rows]
                setattr(layer, name, held.gather(2, columns[:, None, :, None].expand(-1, held.shape[1], -1, held.shape[3])))
        self.prompt, self.length = self.prompt[rows], self.length[rows]
        kept = self.seen[rows].gather(1, nodes[..., None].expand(-1, -1, self.seen.shape[2]))
        self.seen = kept.gather(2, nodes[:, None].expand(-1, nodes.shape[1], -1))
        if self.stops_before is not None:
            places = F.pad(nodes + 1, (1, 0))
            self.outputs = self.outputs[rows].gather(1, places[..., None].expand(-1, -1, self.outputs.shape[2]))


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
