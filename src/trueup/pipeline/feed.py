"""What an optimizer is fed: prompts to answer, pairs to compare, demonstrations to imitate; each epoch in a new order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from trueup.core.errors import UserError
from trueup.core.rng import Key, epoch_rows
from trueup.data.rows import Preference, judged
from trueup.data.tokens import encode_prompts
from trueup.learn.table import Examples
from trueup.models.policy import Policy
from trueup.optimizers.experience import PromptBatch
from trueup.optimizers.protocol import OptimizerConfig
from trueup.pipeline.context import Context

Feed = Callable[[int], Any]
"""The global batch of a step: a `PromptBatch` or `Examples`."""


def feed(context: Context, optimizer: OptimizerConfig, policy: Policy, pool: Sequence[Preference], size: int, key: Key) -> Feed:
    """Batches of what the optimizer learns from, a pure function of the step.

    Args:
        context: the run.
        optimizer: of the arm.
        policy: whose tokenizer encodes prompts.
        pool: preference pairs.
        size: rows a step.
        key: of the orders.

    Raises:
        UserError: the world has no such data.
    """
    if optimizer.learns_from == "prompts":
        return _prompts(context, policy, size, key)
    pairs = optimizer.learns_from == "preferences"
    data: Sequence[Any] = [judged(p) for p in pool] if pairs else context.world.demonstrations()
    if not data:
        raise UserError(
            f"'{optimizer.kind}' learns from {optimizer.learns_from}, and the world has none. Add them to its files, or choose "
            "an optimizer that samples, such as rloo.",
            where="world",
        )
    return lambda step: Examples.of(data, epoch_rows(key, len(data), size, step))


def _prompts(context: Context, policy: Policy, size: int, key: Key) -> Feed:
    prompts = list(context.world.prompts("train"))
    if not prompts:
        raise UserError("the world has no training prompts for the policy.", where="world")
    ids = [tuple(row) for row in encode_prompts(policy.tokenizer, [p.text for p in prompts])]

    def batch_of(step: int) -> PromptBatch:
        picked = epoch_rows(key, len(prompts), size, step)
        return PromptBatch(
            row=torch.arange(len(picked)), prompt=tuple(prompts[int(i)].text for i in picked), ids=tuple(ids[int(i)] for i in picked)
        )

    return batch_of
