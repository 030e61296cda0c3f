"""One score from the scores of several reward models, with or without pessimism where they disagree.

Sources: Coste et al. 2023 (arXiv:2310.02743, eqs. 3-5) for mean, worst case (WCO) and uncertainty-weighted (UWO); Eisenstein et al. 2023
(arXiv:2312.09244) for median and mean minus deviation.

Members must be on one scale first: a shift of one member changes every rule but the mean's order within a prompt, a gain changes all. UWO
is not scale-free even for all members alike: with c times the scores it is c times UWO of c times the coefficient.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

Aggregate = Literal["mean", "median", "min", "uwo", "mean_std", "soft_min"]


def aggregate(scores: Float[Tensor, "M B"], rule: Aggregate, coefficient: float = 0.5) -> Float[Tensor, " B"]:
    """One score a reply: [M, B] -> [B].

    Args:
        scores: of M members, on one scale.
        rule: ``mean``; ``median`` (the mean of the two middle ones); ``min`` (WCO); ``uwo``, mean - coefficient * variance; ``mean_std``,
            mean - coefficient * deviation; ``soft_min``, -log(mean exp(-coefficient * score)) / coefficient, between mean and min.
        coefficient: how much disagreement costs. Variance and deviation are those of the members, divided by M.
    """
    if rule == "mean":
        return scores.mean(0)
    if rule == "median":
        return scores.quantile(0.5, dim=0)
    if rule == "min":
        return scores.amin(0)
    if rule == "uwo":
        return scores.mean(0) - coefficient * scores.var(0, correction=0)
    if rule == "mean_std":
        return scores.mean(0) - coefficient * scores.std(0, correction=0)
    if coefficient == 0:
        return scores.mean(0)
    return -((-coefficient * scores).logsumexp(0) - math.log(len(scores))) / coefficient


def disagreement(scores: Float[Tensor, "M B"]) -> Float[Tensor, " B"]:
    """Standard deviation of the members of each reply, divided by M: [M, B] -> [B]; it must grow with KL if an ensemble is to help."""
    return scores.std(0, correction=0)


def member_correlation(scores: Float[Tensor, "M B"]) -> float:
    """Mean Pearson correlation of two members over replies; NaN with one member or constant scores."""
    if len(scores) < 2:
        return math.nan
    centred = scores.double() - scores.double().mean(1, keepdim=True)
    norm = centred.norm(dim=1)
    if bool((norm == 0).any()):
        return math.nan
    table = (centred @ centred.T) / (norm[:, None] * norm)
    off = ~torch.eye(len(scores), dtype=torch.bool, device=scores.device)
    return float(table[off].mean())
