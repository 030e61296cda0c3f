"""Next-token distributions, changed: by a temperature and a nucleus, by values, to the best token alone; and what a change costs."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from trueup.ops.masking import keep


def only_best(scores: Float[Tensor, "R k"]) -> Float[Tensor, "R k"]:
    """0 at the first of the highest scores of each row, -inf elsewhere: log-probabilities of who always takes it."""
    best = torch.zeros_like(scores, dtype=torch.bool).scatter(1, scores.argmax(1, keepdim=True), True)
    return torch.where(best, 0.0, -torch.inf).to(scores)


def spread(scores: Float[Tensor, "R k"], candidates: Int[Tensor, "R k"], like: Float[Tensor, "R V"]) -> Float[Tensor, "R V"]:
    """Log-probabilities over the vocabulary from unnormalised log-scores of candidates; -inf for all other tokens.

    Args:
        scores: of each candidate; -inf leaves it out, but not all of a row.
        candidates: distinct token ids of each row.
        like: of the wanted shape.
    """
    return torch.full_like(like, -torch.inf).scatter(1, candidates, scores.log_softmax(1).to(like))


def divergence(logp: Float[Tensor, "R V"], logp_base: Float[Tensor, "R V"]) -> Float[Tensor, " R"]:
    """KL(p || base) of each row, nats; tokens that p never takes count nothing."""
    taken = logp > -torch.inf
    gap = keep(logp, taken) - keep(logp_base, taken)
    # never negative but for rounding
    return (logp.exp() * gap).sum(1).clamp(min=0)


def soft_value(logp: Float[Tensor, " n"], reward: Float[Tensor, " n"], strength: float) -> Float[Tensor, ""]:
    """(1 / strength) log E[exp(strength * reward)] over continuations with these log-probabilities; their mean at strength 0.

    Tilting each next token by exp(strength * soft value) draws whole replies in proportion to p exp(strength * reward): the soft values
    of a path telescope (Mudgal et al. 2024, arXiv:2310.17022, section 2).
    """
    logp = logp - logp.logsumexp(0)
    return (logp.exp() * reward).sum() if strength == 0 else (logp + strength * reward).logsumexp(0) / strength
