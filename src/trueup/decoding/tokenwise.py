"""Decoding token by token from a changed next-token distribution, whose KL from the policy is known exactly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from trueup.data.tokens import Sequences, pad_rows
from trueup.decoding.protocol import Asked, Cost, Decoded, DecodingParts, unknown
from trueup.decoding.sample import inverse_cdf
from trueup.ops.tilt import divergence, spread


@dataclass(frozen=True, kw_only=True)
class Rule:
    """How the next-token distribution is changed."""

    scores: Callable[[Tensor, Tensor], Tensor]
    """Unnormalised log-scores [R, k] of the candidates, from their log-probabilities under the policy ([R, k] nats, over the whole
    vocabulary) and the scores of the prefixes that end with them ([R, k]; zeros where nothing is guided)."""
    candidates: int | None = None
    """How many of the most probable tokens may be taken; all if left out."""
    guided: bool = False
    """Whether candidates are scored by the scorer of prefixes."""


class Replies:
    """Tokens of rows as they are written.

    Args:
        parts: whose tokenizer ends and pads replies.
        asked: the rows.
    """

    def __init__(self, parts: DecodingParts, asked: Asked) -> None:
        self.pad, self.eos = parts.tokenizer.pad_token_id, parts.tokenizer.eos_token_id
        self.prompts = [list(ids) for ids in asked.ids for _ in range(asked.num_samples)]
        self.tokens: list[list[int]] = [[] for _ in self.prompts]

    def add(self, row: int, tokens: list[int]) -> None:
        """Write tokens, up to the first end of sequence."""
        end = tokens.index(self.eos) + 1 if self.eos in tokens else len(tokens)
        self.tokens[row] += tokens[:end]

    def sequences(self) -> Sequences:
        """The rows: prompts flush right, replies flush left."""
        prompts, prompt_mask = pad_rows(self.prompts, self.pad, "left")
        replies, mask = pad_rows(self.tokens, self.pad, "right")
        return Sequences(tokens=torch.cat([prompts, replies], 1), prompt_mask=prompt_mask, mask=mask)


@torch.no_grad()
def decode_tokens(parts: DecodingParts, asked: Asked, rule: Rule) -> Decoded:
    """Draw each token from the rule's distribution.

    Args:
        parts: the policy, and the scorer of prefixes where the rule is guided.
        asked: the rows; column t of their uniform numbers draws the t-th token.
        rule: how the policy's distribution is changed.

    Raises:
        UserError: a prompt leaves no room, or the scorer is missing.
    """
    parts.room(asked.prompt_ids)
    policy, rows = parts.policy(), len(asked)
    prefix = parts.prefix() if rule.guided and parts.prefix is not None else None
    uniforms = torch.from_numpy(asked.key.uniforms(asked.rows, parts.max_tokens)).to(policy.device)
    logits = policy.root(asked.prompt_ids, asked.num_samples)
    if prefix is not None:
        prefix.root(asked.prompt_ids, asked.num_samples)
    replies, cost = Replies(parts, asked), Cost(rows)
    sums = torch.zeros((3, rows), dtype=torch.float64)
    held = torch.arange(rows)
    for t in range(parts.max_tokens):
        base = (logits / parts.temperature).log_softmax(1)
        candidates = _candidates(base, rule.candidates)
        here = base.gather(1, candidates)
        values = torch.zeros_like(here)
        if prefix is not None:
            values = prefix.grow(torch.full_like(candidates, t - 1), candidates)[..., 0].to(here)
            cost.reward[held] += candidates.shape[1]
        logp = spread(rule.scores(here, values), candidates, base)
        tokens = inverse_cdf(logp.exp(), uniforms[held.to(uniforms.device), t])
        cost.policy[held] += 1
        sums[:, held] += _sums(logp, base, tokens)
        for row, token in zip(held.tolist(), tokens.tolist(), strict=True):
            replies.add(row, [token])
        alive = (tokens != replies.eos).nonzero().squeeze(1)
        if len(alive) == 0 or t == parts.max_tokens - 1:
            break
        path = torch.arange(t, device=alive.device).expand(len(alive), -1)
        if prefix is not None:
            chosen = (candidates == tokens[:, None]).long().argmax(1)[alive] + t
            prefix.keep(alive, torch.cat([path, chosen[:, None]], 1))
        if len(alive) < len(held):
            policy.keep(alive, path)
        held, tokens = held[alive.cpu()], tokens[alive]
        logits = policy.grow(torch.full((len(held), 1), t - 1, device=tokens.device), tokens[:, None])[:, 0]
    return Decoded(
        sequences=replies.sequences(), logp=sums[0], logp_base=sums[1], kl=sums[2], kl_bound=unknown(rows),
        policy_tokens=cost.policy, reward_tokens=cost.reward,
    )  # fmt: skip


def _candidates(logp: Tensor, count: int | None) -> Tensor:
    """[R, k] token ids: all in order, or the most probable first."""
    if count is None or count >= logp.shape[1]:
        return torch.arange(logp.shape[1], device=logp.device).expand(len(logp), -1)
    return logp.topk(count, dim=1).indices


def _sums(logp: Tensor, base: Tensor, tokens: Tensor) -> Tensor:
    """[3, R] what one step adds: log-probabilities of the token taken, under the rule and under the policy, and the step's KL."""
    taken = [x.gather(1, tokens[:, None]).squeeze(1).double() for x in (logp, base)]
    return torch.stack([*taken, divergence(logp, base).double()]).cpu()
