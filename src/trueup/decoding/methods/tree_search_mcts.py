"""Monte Carlo tree search over sentences with a value model: TS-LLM's MCTS-alpha (Feng et al. 2023, arXiv:2309.17179).

Branches of a prefix are sampled continuations, a segment each. A simulation walks down by ``Q + (log((N + base + 1) / base) + start) P
sqrt(N) / (1 + n)``, values the branch it ends at, and counts that value for all branches above it. After so many simulations the most
visited branch is written, its tree is kept, and the search goes on below it.

Deviations:
1. The prior of a branch is in proportion to the geometric mean of its tokens' probabilities; equal segments are one branch, with the
   sum of their shares.
2. Branches that were never looked at have the value of the prefix before them.
3. A reply that has ended is valued by the reward, where there is one.
4. No noise is added to the prior at the root: that is for the training of the paper's policies.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import Field

from trueup.decoding.protocol import Asked, Decoded, DecodingConfig, DecodingParts, Need, unknown
from trueup.decoding.puct import Floats, Node, back_up_means, descend, leaf_of, log_puct
from trueup.decoding.segments import Prefix, SegmentWriter, stop_tokens


class TreeSearchMctsConfig(DecodingConfig):
    """Lookahead by value over sampled segments."""

    needs: ClassVar[tuple[Need, ...]] = ("prefix",)
    kind: Literal["tree_search_mcts"] = "tree_search_mcts"
    """This file."""
    simulations: int = Field(default=20, ge=1)
    """Branches looked at before a segment is written."""
    width: int = Field(default=4, ge=1)
    """Continuations of a prefix; 1 is the policy."""
    segment_tokens: int = Field(default=16, ge=1)
    """Most tokens of a segment."""
    stops: tuple[str, ...] = ()
    """Tokens that end a segment early, such as '.'; each must be one token of the policy."""
    c_base: float = Field(default=19652.0, gt=0)
    """Visits after which exploration grows."""
    c_init: float = Field(default=1.25, ge=0)
    """Weight of exploration at first, in units of value; large, visits follow the prior."""
    best_seen: bool = False
    """Give back the best reply that the search has seen end, not the one that most visits lead to."""

    def decode(self, parts: DecodingParts, asked: Asked) -> Decoded:
        """See `DecodingConfig.decode`."""
        parts.check(self.needs, self.kind)
        return _Search(self, parts, asked).run()


@dataclass
class _At:
    """A prefix of the search, and the segments that may follow it."""

    prefix: Prefix
    segments: list[Prefix] = field(default_factory=list)


class _Search:
    """All rows at once: every simulation continues one prefix of each row."""

    def __init__(self, config: TreeSearchMctsConfig, parts: DecodingParts, asked: Asked) -> None:
        self.config = config
        self.writer = SegmentWriter(parts, asked, config.segment_tokens, stop_tokens(parts.tokenizer, config.stops))
        self.explore = log_puct(config.c_base, config.c_init)
        self.best: list[Prefix | None] = [None] * len(asked)

    def run(self) -> Decoded:
        """Write all rows."""
        writer = self.writer
        roots = [_node(start) for start in writer.starts]
        self._expand(list(enumerate(roots)))
        while any(not root.terminal for root in roots):
            for _ in range(self.config.simulations):
                self._simulate(roots)
            roots = [r if r.terminal else r.children[int(np.argmax(r.visits))] for r in roots]
        found = [self.best[i] if self.config.best_seen else root.state.prefix for i, root in enumerate(roots)]
        replies = [p for p in found if p is not None]
        for i, prefix in enumerate(replies):
            writer.replies.add(i, list(prefix.reply))
        rows = len(replies)
        return Decoded(
            sequences=writer.replies.sequences(), logp=unknown(rows), kl=unknown(rows), kl_bound=unknown(rows),
            logp_base=torch.tensor([p.total for p in replies], dtype=torch.float64),
            policy_tokens=writer.cost.policy, reward_tokens=writer.cost.reward,
        )  # fmt: skip

    def _simulate(self, roots: list[Node[_At]]) -> None:
        """One walk down the tree of each row that is not done, and the value at its end counted for all above."""
        reached: list[tuple[int, Node[_At]]] = []
        for i, root in enumerate(roots):
            if root.terminal:
                continue
            path = descend(root, self.explore)
            leaf = leaf_of(path, root)
            if leaf is None:
                node, branch = path[-1]
                leaf = node.children[branch] = _node(node.state.segments[branch])
                self._remember(i, leaf.state.prefix)
                reached.append((i, leaf))
            back_up_means(path, leaf.value)
        self._expand([(i, leaf) for i, leaf in reached if not leaf.terminal])

    def _expand(self, nodes: list[tuple[int, Node[_At]]]) -> None:
        """Branches for these nodes, at most one a row."""
        wanted: list[list[Prefix]] = [[] for _ in self.best]
        for i, node in nodes:
            wanted[i] = [node.state.prefix]
        made = self.writer.continued(wanted, self.config.width)
        for i, node in nodes:
            node.state.segments, prior = distinct(made[i][0])
            node.expand(prior)

    def _remember(self, row: int, prefix: Prefix) -> None:
        best = self.best[row]
        if prefix.ended and (best is None or prefix.value > best.value):
            self.best[row] = prefix


def _node(prefix: Prefix) -> Node[_At]:
    return Node(state=_At(prefix), value=prefix.value, terminal=prefix.ended)


def distinct(drawn: list[Prefix]) -> tuple[list[Prefix], Floats]:
    """Different continuations in the order in which they were drawn, and the prior of each.

    Args:
        drawn: continuations of one prefix.

    Returns:
        [k] continuations, [k] shares in proportion to exp(log-probability / tokens), summed over equal ones.
    """
    scores = np.array([p.logp / max(p.length, 1) for p in drawn])
    shares = np.exp(scores - scores.max())
    first: dict[tuple[int, ...], int] = {}
    for i, prefix in enumerate(drawn):
        first.setdefault(prefix.reply, i)
    kept = list(first.values())
    sums = dict.fromkeys(kept, 0.0)
    for prefix, share in zip(drawn, shares, strict=True):
        sums[first[prefix.reply]] += float(share)
    prior = np.array(list(sums.values()))
    return [drawn[i] for i in kept], prior / prior.sum()
