"""PPO-MCTS: tree search over tokens with the policy's own value model (Liu et al. 2023, arXiv:2309.15028).

Each token is chosen after so many simulations from the present prefix. A simulation walks down by ``Q + c P sqrt(N) / (1 + n)``, adds one
node, takes its value from the value model, or from the reward where the reply ends there, and backs it up: Q = discount V - beta log(p /
p_ref), V the mean of Q weighted by visits. Then a token is drawn in proportion to ``n^(1 / temperature)``, the temperature falling from its
first value to 0 at the last token.

Deviations:
1. The KL term is the log ratio of the paper's formula; the authors' code has a difference of probabilities.
2. Every token starts a new tree, whose root counts one visit, so that the visits of its branches add up to the simulations.
3. Without a reward the value model's word on the finished reply stands in for it, as in the authors' code.
4. A node's value may be that of its best branch (``backup: max``): with exact values few simulations then find the best reply.
5. The KL from the policy is exact: given the prefix, the search draws nothing, so the visits are the next-token distribution.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from trueup.core.errors import UserError
from trueup.data.tokens import decode_replies, pad_rows
from trueup.decoding.protocol import Asked, Cost, Decoded, DecodingConfig, DecodingParts, Need, unknown
from trueup.decoding.puct import Floats, Node, back_up_best, back_up_values, descend, leaf_of, puct, visit_logp
from trueup.decoding.tokenwise import Replies
from trueup.decoding.tree import PROMPT, TreeModel

_BACKUPS = {"mean": back_up_values, "max": back_up_best}


class MctsConfig(DecodingConfig):
    """Lookahead by the value model, one token at a time."""

    needs: ClassVar[tuple[Need, ...]] = ("value",)
    kind: Literal["mcts"] = "mcts"
    """This file."""
    simulations: int = Field(default=10, ge=1)
    """Nodes added, or ends seen again, for each token."""
    top_k: int = Field(default=10, ge=1)
    """Branches of a node."""
    c_puct: float = Field(default=8.0, ge=0)
    """Weight of exploration, in units of value; large, visits follow the prior."""
    prior_temperature: float = Field(default=1.0, gt=0)
    """Divides the log-probabilities of the prior once more."""
    beta: float = Field(default=0.0, ge=0)
    """What a nat of log(p / p_ref) costs; above 0 the reference policy is needed."""
    discount: float = Field(default=1.0, gt=0, le=1)
    """Of the value one token further."""
    backup: Literal["mean", "max"] = "mean"
    """A node's value is the mean over its visits, as in the paper, or that of its best visited branch."""
    temperature: float = Field(default=1.0, ge=0)
    """Of the choice by visits at the first token; 0 takes the most visited branch always."""

    def decode(self, parts: DecodingParts, asked: Asked) -> Decoded:
        """See `DecodingConfig.decode`."""
        parts.check(self.needs, self.kind)
        if self.beta > 0 and parts.reference is None:
            raise UserError("a beta above 0 needs the reference policy. Give it, or set beta to 0.", where="decoding 'mcts'")
        parts.room(asked.prompt_ids)
        return _Search(self, parts, asked).run()


@dataclass(frozen=True)
class _At:
    """What the models say after a prefix."""

    reply: tuple[int, ...]
    """The tokens up to here."""
    place: int
    """Number of its node in the models' trees."""
    estimate: float
    """The value model's, or the reward where the reply ends here."""
    tokens: tuple[int, ...] = ()
    """Of the branches, most probable first; none where the reply ends."""
    logp: Floats = field(default_factory=lambda: np.zeros(0))
    """[k] their log-probabilities over the whole vocabulary."""
    cost: Floats = field(default_factory=lambda: np.zeros(0))
    """[k] of the branches."""


class _Search:
    """All rows at once: every simulation adds one node to each row's tree in one forward pass."""

    def __init__(self, config: MctsConfig, parts: DecodingParts, asked: Asked) -> None:
        assert parts.value is not None
        self.config, self.parts, self.asked, self.prompts = config, parts, asked, asked.repeated()
        self.policy, self.value = parts.policy(), parts.value()
        self.reference = parts.reference() if config.beta > 0 and parts.reference is not None else None
        self.models: list[TreeModel] = [m for m in (self.policy, self.value, self.reference) if m is not None]
        self.replies, self.cost, self.grown = Replies(parts, asked), Cost(len(asked)), 0
        self.explore, self.back_up = puct(config.c_puct), _BACKUPS[config.backup](config.discount)
        self.sums = torch.zeros((3, len(asked)), dtype=torch.float64)

    def run(self) -> Decoded:
        """Write all rows."""
        uniforms = self.asked.key.uniforms(self.asked.rows, self.parts.max_tokens)
        held = list(range(len(self.asked)))
        outputs = [m.root(self.asked.prompt_ids, self.asked.num_samples) for m in self.models]
        states = self._read(held, [()] * len(held), PROMPT, outputs)
        for t in range(self.parts.max_tokens):
            roots = [self._node(state) for state in states]
            for _ in range(self.config.simulations):
                self._simulate(held, roots)
            chosen = [self._choose(row, root, float(uniforms[row, t]), t) for row, root in zip(held, roots, strict=True)]
            alive = [i for i, state in enumerate(chosen) if state.tokens]
            if not alive:
                break
            path = torch.tensor([[*range(t), chosen[i].place] for i in alive])
            for model in self.models:
                model.keep(torch.tensor(alive), path)
            self.grown = t + 1
            held, states = [held[i] for i in alive], [replace(chosen[i], place=t) for i in alive]
        return Decoded(
            sequences=self.replies.sequences(), logp=self.sums[0], logp_base=self.sums[1], kl=self.sums[2],
            kl_bound=unknown(len(self.asked)), policy_tokens=self.cost.policy, reward_tokens=self.cost.reward,
        )  # fmt: skip

    def _node(self, state: _At) -> Node[_At]:
        """A node that was seen once, with its branches."""
        node = Node(state=state, value=state.estimate, terminal=not state.tokens)
        if state.tokens:
            scaled = state.logp / self.config.prior_temperature
            node.expand(np.exp(scaled), state.cost)
        return node

    def _simulate(self, held: list[int], roots: list[Node[_At]]) -> None:
        """One walk down each row's tree, and what is found at its end backed up."""
        paths = [descend(root, self.explore) for root in roots]
        leaves = [leaf_of(path, root) for path, root in zip(paths, roots, strict=True)]
        new = [i for i, leaf in enumerate(leaves) if leaf is None]
        if new:
            steps = {i: (paths[i][-1][0].state, paths[i][-1][1]) for i in new}
            parents = torch.tensor([[steps[i][0].place if i in steps else PROMPT] for i in range(len(held))])
            tokens = torch.tensor([[steps[i][0].tokens[steps[i][1]] if i in steps else self.replies.pad] for i in range(len(held))])
            outputs = [m.grow(parents, tokens)[:, 0] for m in self.models]
            self.grown += 1
            replies = [(*steps[i][0].reply, int(tokens[i])) for i in new]
            found = self._read([held[i] for i in new], replies, self.grown - 1, [x[new] for x in outputs])
            for i, state in zip(new, found, strict=True):
                node, branch = paths[i][-1]
                leaves[i] = node.children[branch] = self._node(state)
        for path, leaf in zip(paths, leaves, strict=True):
            assert leaf is not None
            self.back_up(path, leaf.state.estimate)

    def _read(self, held: list[int], replies: Sequence[tuple[int, ...]], place: int, outputs: list[Tensor]) -> list[_At]:
        """What is known after these prefixes, one a row."""
        logp = (outputs[0].double() / self.parts.temperature).log_softmax(1)
        top, ids = logp.topk(min(self.config.top_k, logp.shape[1]), dim=1)
        values = outputs[1][:, 0].tolist()
        cost = torch.zeros_like(top)
        if self.reference is not None:
            cost = self.config.beta * (top - (outputs[2].double() / self.parts.temperature).log_softmax(1).gather(1, ids))
        ended = [bool(r) and (r[-1] == self.replies.eos or len(r) == self.parts.max_tokens) for r in replies]
        rewards = self._rewards([(row, r) for row, r, end in zip(held, replies, ended, strict=True) if end])
        found = []
        for i, (row, reply) in enumerate(zip(held, replies, strict=True)):
            if ended[i]:
                self.cost.reward[row] += 1 if rewards is None else len(reply)
                found.append(_At(reply, place, values[i] if rewards is None else next(rewards)))
                continue
            self.cost.policy[row] += 1 if self.reference is None else 2
            self.cost.reward[row] += bool(reply)
            found.append(_At(reply, place, values[i], tuple(ids[i].tolist()), top[i].cpu().numpy(), cost[i].cpu().numpy()))
        return found

    def _rewards(self, ended: list[tuple[int, tuple[int, ...]]]) -> Iterator[float] | None:
        """Rewards of finished replies, in order; None without a reward."""
        if self.parts.reward is None or not ended:
            return None if self.parts.reward is None else iter(())
        texts = decode_replies(self.parts.tokenizer, *pad_rows([list(r) for _, r in ended], self.replies.pad, "right"))
        return iter(self.parts.reward.score([self.prompts[row] for row, _ in ended], texts).tolist())

    def _choose(self, row: int, root: Node[_At], uniform: float, t: int) -> _At:
        """Write one token, drawn by visits."""
        logp = visit_logp(root.visits, self.config.temperature * (1 - t / self.parts.max_tokens))
        taken = np.flatnonzero(np.isfinite(logp))
        cumulative = np.exp(logp[taken]).cumsum()
        branch = int(taken[min(np.searchsorted(cumulative, uniform * cumulative[-1], side="right"), len(taken) - 1)])
        base = root.state.logp
        kl = float((np.exp(logp[taken]) * (logp[taken] - base[taken])).sum())
        self.sums[:, row] += torch.tensor([logp[branch], base[branch], kl], dtype=torch.float64)
        self.replies.add(row, [root.state.tokens[branch]])
        return root.children[branch].state
