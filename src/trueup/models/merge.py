"""Averages of weights: one model from several that share their beginning.

For reward models: WARM (Ramé et al. 2024, arXiv:2401.12187). For policies: rewarded soups (Ramé et al. 2023, arXiv:2306.04488), and
interpolation towards the SFT policy (`weights=[1 - a, a]`). Averages mean something only where models are linearly connected, which
`trueup.rewards.linear_mode` checks; models that do not share their beginning usually are not.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from trueup.core.errors import UserError

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


def _check(states: Sequence[Mapping[str, Tensor]]) -> None:
    first = states[0]
    for i, state in enumerate(states[1:], 2):
        odd = sorted(set(first) ^ set(state)) or [n for n in first if first[n].shape != state[n].shape]
        if odd:
            raise UserError(
                f"model {i} differs from the first in {len(odd)} tensors, such as '{odd[0]}'. Average models of one architecture only.",
                where="merge",
            )
