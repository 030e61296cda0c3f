"""Search trees with visit counts: which branch to look at next, and what a leaf's value means for the branches above it.

Two rules of choice (`puct`, `log_puct`) and three of backing up (`back_up_values`, `back_up_best`, `back_up_means`) serve the searches in
`methods/`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
S = TypeVar("S")


@dataclass
class Node(Generic[S]):
    """A state of the search: a prefix, its value, and its branches."""

    state: S
    """What the search knows of the prefix."""
    value: float
    """Present estimate; of a terminal state its reward."""
    terminal: bool = False
    prior: Floats = field(default_factory=lambda: np.zeros(0))
    """[k] probability of each branch; empty while the node is not expanded."""
    cost: Floats = field(default_factory=lambda: np.zeros(0))
    """[k] what taking each branch costs at once."""
    q: Floats = field(default_factory=lambda: np.zeros(0))
    """[k] value of taking each branch."""
    visits: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    """[k]"""
    count: int = 1
    """Visits of the node itself."""
    children: dict[int, Node[S]] = field(default_factory=dict)
    """Branches that were looked at."""

    @property
    def expanded(self) -> bool:
        """Whether its branches are known."""
        return len(self.prior) > 0

    def expand(self, prior: Floats, cost: Floats | None = None) -> None:
        """Give it branches, whose values start as its own.

        Args:
            prior: [k] probabilities.
            cost: [k]; none if left out.
        """
        self.prior, self.visits = prior, np.zeros(len(prior), dtype=np.int64)
        self.cost = np.zeros(len(prior)) if cost is None else cost
        self.q = np.full(len(prior), self.value)


Path = list[tuple[Node[S], int]]
"""Nodes and the branches taken, from the root on."""
Explore = Callable[[Node[Any]], Floats]
"""[k] what is added to the values of a node's branches when one is chosen."""
Backup = Callable[[Path[Any], float], None]


def puct(strength: float) -> Explore:
    """``c P sqrt(N) / (1 + n)`` (Liu et al. 2023, arXiv:2309.15028, section 3.2; N counts the node's visits, n the branch's)."""
    return lambda node: strength * node.prior * math.sqrt(node.count) / (1 + node.visits)


def log_puct(base: float, start: float) -> Explore:
    """``(log((N + base + 1) / base) + start) P sqrt(N) / (1 + n)`` (Silver et al. 2018, as Feng et al. 2023, arXiv:2309.17179, use it)."""

    def explore(node: Node[Any]) -> Floats:
        strength = math.log((node.count + base + 1) / base) + start
        return strength * node.prior * math.sqrt(node.count) / (1 + node.visits)

    return explore


def descend(root: Node[S], explore: Explore) -> Path[S]:
    """The path to a branch that was never looked at, to a node without branches, or to a terminal one. Ties go to the first branch."""
    path: Path[S] = []
    node = root
    while node.expanded and not node.terminal:
        branch = int(np.argmax(node.q + explore(node)))
        path.append((node, branch))
        if branch not in node.children:
            break
        node = node.children[branch]
    return path


def back_up_values(discount: float) -> Backup:
    """After a leaf was valued: Q = discount V(child) - cost, and V of a node is the mean of its Q, weighted by visits (Liu et al. 2023)."""

    def back_up(path: Path[Any], value: float) -> None:
        for node, branch in reversed(path):
            node.visits[branch] += 1
            node.count += 1
            node.q[branch] = discount * value - node.cost[branch]
            value = node.value = float(node.visits @ node.q / node.visits.sum())

    return back_up


def back_up_best(discount: float) -> Backup:
    """After a leaf was valued: Q = discount V(child) - cost, and V of a node is its highest Q.

    Branches never looked at count with the node's own estimate.
    Means of few visits hide a good branch behind bad siblings; where values are exact the highest is the truth (Coulom 2006, section 3).
    """

    def back_up(path: Path[Any], value: float) -> None:
        for node, branch in reversed(path):
            node.visits[branch] += 1
            node.count += 1
            node.q[branch] = discount * value - node.cost[branch]
            value = node.value = float(node.q.max())

    return back_up


def back_up_means(path: Path[Any], value: float) -> None:
    """After a leaf was valued: Q of each branch on the path is the mean of the leaf values seen through it (Silver et al. 2018)."""
    for node, branch in path:
        node.visits[branch] += 1
        node.count += 1
        node.q[branch] += (value - node.q[branch]) / node.visits[branch]


def visit_logp(visits: NDArray[np.int64], temperature: float) -> Floats:
    """[k] log-probabilities in proportion to ``visits ** (1 / temperature)``; at 0 the most visited branch, the first of equals."""
    with np.errstate(divide="ignore"):
        scores = np.log(visits.astype(np.float64))
    if temperature == 0:
        best = np.full(len(visits), -np.inf)
        best[int(np.argmax(scores))] = 0.0
        return best
    scaled = (scores - scores.max()) / temperature
    return np.asarray(scaled - np.log(np.exp(scaled).sum()))


def leaf_of(path: Path[S], root: Node[S]) -> Node[S] | None:
    """The node that a path leads to; None where it was never looked at."""
    if not path:
        return root
    node, branch = path[-1]
    return node.children.get(branch)
