"""Closed forms over a finite space of replies: every expectation a sum, no sampling.

The regularised objective of one prompt is J(pi) = E_pi[r] - beta KL(pi || ref). Its maximiser is the tilted policy
pi* = ref exp(r / beta) / Z with J(pi*) = beta log Z, and for every policy J(pi*) - J(pi) = beta KL(pi || pi*) (Korbak et al. 2022,
arXiv 2205.11275; Rafailov et al. 2023, arXiv 2305.18290, eq. 4). All arrays are [P, R]: prompts by replies; log-probabilities in nats.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from trueup.core.errors import UserError
from trueup.data.rows import Reply

Floats = NDArray[np.float64]
MOST_REPLIES = 10_000


@dataclass(frozen=True)
class Space:
    """All replies that a policy with a limit on its tokens can write.

    Args:
        words: the words; token ``i`` is ``words[i]`` and token ``len(words)`` ends the reply.
        replies: [R] the replies: up to T - 1 words and an end, or exactly T words without one.
        tokens: [R, T] their tokens; 0 where ``mask`` is False.
        mask: [R, T] True on tokens of the reply, its end included.
    """

    words: tuple[str, ...]
    replies: tuple[Reply, ...]
    tokens: NDArray[np.int64]
    mask: NDArray[np.bool_]

    def index(self) -> dict[Reply, int]:
        """Where each reply stands."""
        return {reply: i for i, reply in enumerate(self.replies)}


def enumerate_replies(words: Sequence[str], max_tokens: int) -> Space:
    """Every reply of at most ``max_tokens`` tokens, the end counted: V^0 + ... + V^(T-1) finished ones and V^T unfinished ones.

    Raises:
        UserError: more than 10,000 replies.
    """
    end, count = len(words), sum(len(words) ** n for n in range(max_tokens + 1))
    if count > MOST_REPLIES:
        raise UserError(
            f"{len(words)} words and {max_tokens} tokens give {count} replies; at most {MOST_REPLIES} can be enumerated. Lower one of them."
        )
    rows = [(*body, end) if n < max_tokens else body for n in range(max_tokens + 1) for body in product(range(end), repeat=n)]
    tokens, mask = np.zeros((count, max_tokens), dtype=np.int64), np.zeros((count, max_tokens), dtype=np.bool_)
    for i, row in enumerate(rows):
        tokens[i, : len(row)], mask[i, : len(row)] = row, True
    replies = tuple(Reply(text=" ".join(words[t] for t in row if t != end), finished=row[-1:] == (end,)) for row in rows)
    return Space(words=tuple(words), replies=replies, tokens=tokens, mask=mask)


def markov_logprobs(space: Space, logits: Floats) -> Floats:
    """[P, R] log-probability of every reply under policies that look at the prompt and the previous word.

    Args:
        space: the replies, V words.
        logits: [P, V + 1, V + 1] of the next token (a word, or the end), given the previous word (row V: none yet).
    """
    logp = logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)
    start = np.full((len(space.tokens), 1), len(space.words))
    steps: Floats = logp[:, np.concatenate([start, space.tokens[:, :-1]], axis=1), space.tokens]
    return np.where(space.mask, steps, 0.0).sum(axis=-1)


def expectation(logp: Floats, values: Floats) -> Floats:
    """[P] E_pi[values]."""
    return np.sum(np.exp(logp) * values, axis=-1)


def kl(logp: Floats, logp_ref: Floats) -> Floats:
    """[P] KL(pi || ref), nats; the reference must give every reply some probability."""
    return np.sum(np.exp(logp) * (logp - logp_ref), axis=-1)


def objective(logp: Floats, logp_ref: Floats, reward: Floats, beta: float) -> Floats:
    """[P] J(pi) = E_pi[reward] - beta KL(pi || ref)."""
    return expectation(logp, reward) - beta * kl(logp, logp_ref)


def tilted(logp_ref: Floats, reward: Floats, beta: float) -> Floats:
    """[P, R] log pi*, the maximiser of `objective`: log ref + reward / beta - log Z."""
    unnormalised = logp_ref + reward / beta
    return unnormalised - np.logaddexp.reduce(unnormalised, axis=-1, keepdims=True)


def optimum(logp_ref: Floats, reward: Floats, beta: float) -> Floats:
    """[P] J(pi*) = beta log Z, the most that `objective` can reach."""
    return beta * np.logaddexp.reduce(logp_ref + reward / beta, axis=-1)


@dataclass(frozen=True)
class Curve:
    """What optimising a proxy does, from weak to strong: one entry for each beta, each a mean over prompts."""

    beta: Floats
    kl_nats: Floats
    proxy: Floats
    gold: Floats

    def drop(self) -> float:
        """How far gold ends below its own peak, as a share of its gain from the reference to the peak; 0 without a gain."""
        peak = float(self.gold.max())
        gain = peak - float(self.gold[0])
        return (peak - float(self.gold[-1])) / gain if gain > 0 else 0.0


def tilted_path(logp_ref: Floats, proxy: Floats, gold: Floats, betas: Sequence[float]) -> Curve:
    """The exact over-optimisation curve: the optimum for the proxy at each beta, judged by gold.

    It starts at the reference (beta infinite). Along it the proxy never falls, and gold moves by the covariance of the two:
    d E[gold] / d(1/beta) = Cov(gold, proxy), so that an honest proxy has no turn and one with an exploit may have one.

    Args:
        logp_ref: [P, R] the reference.
        proxy: [P, R] what is optimised.
        gold: [P, R] what is true.
        betas: coefficients of the KL term, from large to small.
    """
    policies = [logp_ref, *(tilted(logp_ref, proxy, beta) for beta in betas)]
    return Curve(
        beta=np.array([np.inf, *betas]),
        kl_nats=np.array([kl(p, logp_ref).mean() for p in policies]),
        proxy=np.array([expectation(p, proxy).mean() for p in policies]),
        gold=np.array([expectation(p, gold).mean() for p in policies]),
    )
