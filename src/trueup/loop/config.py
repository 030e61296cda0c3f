"""Settings of the loop that every learner shares. Names follow TRL where the thing is the same."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field

from trueup.core.config import Config


class LoopConfig(Config):
    """How steps are taken."""

    learning_rate: float = Field(default=1e-3, gt=0)
    """Peak learning rate of AdamW."""
    lr_scheduler_type: Literal["constant", "linear", "cosine"] = "constant"
    """Shape of the learning rate after warm-up; linear and cosine end at 0."""
    warmup_steps: int = Field(default=0, ge=0)
    """Optimizer steps over which the learning rate rises linearly."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled weight decay."""
    adam_beta1: float = Field(default=0.9, ge=0, lt=1)
    """Decay of the first moment."""
    adam_beta2: float = Field(default=0.999, ge=0, lt=1)
    """Decay of the second moment."""
    adam_epsilon: float = Field(default=1e-8, gt=0)
    """Added to the root of the second moment."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Gradients are scaled down to this norm."""
    num_iterations: int = Field(default=1, ge=1)
    """Passes over each batch of experience (PPO's epochs)."""
    minibatch_rows: int | None = Field(default=None, ge=1)
    """Rows of experience an optimizer step sees, over all processes; all of them if left out."""
    micro_rows: int | None = Field(default=None, ge=1)
    """Rows a backward pass sees in one process, of like lengths; changes memory, never results; all of them if left out."""
    shard: bool = False
    """Split weights, gradients and optimizer slots over processes while they are updated; changes memory, never results."""


def learning_rate_at(config: LoopConfig, step: int, steps: int) -> float:
    """Learning rate of a step (counted from 0) in a run of ``steps``: a pure function, so that resuming needs no scheduler state."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    if config.lr_scheduler_type == "constant":
        return config.learning_rate
    share = (step - config.warmup_steps) / max(steps - config.warmup_steps, 1)
    if config.lr_scheduler_type == "linear":
        return config.learning_rate * (1 - share)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * share))
