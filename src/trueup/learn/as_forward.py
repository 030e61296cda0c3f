"""Calls that read a module's weights beside its `forward`: a loop that splits weights over processes must know of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from torch import nn

T = TypeVar("T")
DOOR = "_trueup_as_forward"
"""Attribute that a loop sets on a module whose weights are split; it makes the call, with weights there while it lasts."""


def as_forward(module: nn.Module, call: Callable[[], T]) -> T:
    """What ``call`` returns, made as if it were the module's `forward`: split weights are gathered for it.

    Args:
        module: one of a learner's `modules`; with whole weights the call is made as it is.
        call: reads the module's own weights, and calls the layers inside as modules. It returns a tensor, or several in a tuple.
    """
    door: Callable[[Callable[[], T]], T] | None = vars(module).get(DOOR)
    return call() if door is None else door(call)
