"""Averages of weights: one model from several that share their beginning.

For reward models: WARM (Ramé et al. 2024, arXiv:2401.12187). For policies: rewarded soups (Ramé et al. 2023, arXiv:2306.04488) and
personalised soups (Jang et al. 2023, arXiv:2310.11564), a weight for each policy trained on a reward of its own, chosen when it is known
what is wanted; interpolation towards the start (WiSE-FT, Wortsman et al. 2022, arXiv:2109.01903; LITI, Ramé et al. 2024,
arXiv:2406.16768), the weights of start and end being ``1 - a`` and ``a``; ``a`` above 1 goes on beyond the end.

Averages mean something only where models are linearly connected, which `trueup.rewards.linear_mode` checks for reward models. Models
without a common beginning usually are not; `relatedness` tells them apart.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from trueup.core.errors import UserError
from trueup.data.tokens import same_tokenizer
from trueup.models.policy import Policy, merged
from trueup.models.reward import RewardModel

RELATED = 0.5
"""Cosine of weights below which two models hardly share a beginning: models drawn apart have one near 0, fine-tuned ones near 1."""
M = TypeVar("M", bound=nn.Module)


def average_states(states: Sequence[Mapping[str, Tensor]], weights: Sequence[float] | None = None) -> dict[str, Tensor]:
    """Weighted mean of each tensor, summed in float64 and returned in the first one's type; tensors of integers must be equal.

    Args:
        states: state dicts with the same names and shapes.
        weights: one a state, equal if left out; they are used as they are, so let them add up to 1.

    Raises:
        UserError: names or shapes differ.
    """
    if not states:
        raise ValueError("nothing to average")
    shares = list(weights) if weights is not None else [1 / len(states)] * len(states)
    if len(shares) != len(states):
        raise ValueError(f"{len(states)} models but {len(shares)} weights")
    _check(states)
    out = {}
    for name, first in states[0].items():
        if not first.is_floating_point():
            if any(not torch.equal(first, s[name]) for s in states[1:]):
                raise UserError(f"'{name}' holds integers that differ, which have no average.", where="merge")
            out[name] = first.clone()
            continue
        total = torch.zeros_like(first, dtype=torch.float64)
        for share, state in zip(shares, states, strict=True):
            total += share * state[name].double()
        out[name] = total.to(first.dtype)
    return out


def merged_module(modules: Sequence[M], weights: Sequence[float] | None = None) -> M:
    """A copy of the first module with the weighted mean of all weights; see `average_states`."""
    new = copy.deepcopy(modules[0])
    new.load_state_dict(average_states([m.state_dict() for m in modules], weights))
    return new


def merged_policy(policies: Sequence[Policy], weights: Sequence[float] | None = None) -> Policy:
    """A policy with the weighted mean of all weights, adapters merged into their bases first.

    Args:
        policies: of one architecture, with one tokenizer.
        weights: see `average_states`.

    Raises:
        UserError: they differ in either.
    """
    _check_tokenizers([p.tokenizer for p in policies])
    first = policies[0]
    return Policy(merged_module([merged(p.model) for p in policies], weights), first.tokenizer, first.precision)


def merged_reward(models: Sequence[RewardModel], weights: Sequence[float] | None = None) -> RewardModel:
    """A reward model with the weighted mean of all weights. It has no scale: scores are rescaled where it is used.

    Args:
        models: of one architecture, with one tokenizer.
        weights: see `average_states`.

    Raises:
        UserError: they differ in either.
    """
    if len({type(m) for m in models}) > 1:
        raise UserError(f"reward models of different make ({', '.join(type(m).__name__ for m in models)}) have no average.", where="merge")
    _check_tokenizers([m.tokenizer for m in models])
    new = copy.deepcopy(models[0])
    new.module.load_state_dict(average_states([m.module.state_dict() for m in models], weights))
    return new


def relatedness(first: nn.Module, second: nn.Module) -> float:
    """Cosine between the weights of two models of one architecture, matrices only: near 1 with a common beginning, near 0 without.

    Args:
        first: one.
        second: the other.

    Raises:
        UserError: names or shapes differ.
    """
    states = [m.state_dict() for m in (first, second)]
    _check(states)
    products = torch.zeros(3, dtype=torch.float64)
    for name, a in states[0].items():
        if a.is_floating_point() and a.dim() > 1:
            x, y = a.double().flatten().cpu(), states[1][name].double().flatten().cpu()
            products += torch.stack([x @ y, x @ x, y @ y])
    size = (products[1] * products[2]).sqrt()
    return float(products[0] / size) if size > 0 else 1.0


def _check_tokenizers(tokenizers: Sequence[PreTrainedTokenizerFast | None]) -> None:
    for i, tokenizer in enumerate(tokenizers[1:], 2):
        alike = tokenizer is tokenizers[0] or (
            tokenizer is not None and tokenizers[0] is not None and same_tokenizer(tokenizer, tokenizers[0])
        )
        if not alike:
            raise UserError(f"model {i} has another tokenizer than the first. Average models of one tokenizer only.", where="merge")


def _check(states: Sequence[Mapping[str, Tensor]]) -> None:
    first = states[0]
    for i, state in enumerate(states[1:], 2):
        odd = sorted(set(first) ^ set(state)) or [n for n in first if first[n].shape != state[n].shape]
        if odd:
            raise UserError(
                f"model {i} differs from the first in {len(odd)} tensors, such as '{odd[0]}'. Average models of one architecture only.",
                where="merge",
            )
