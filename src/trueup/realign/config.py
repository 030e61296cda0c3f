"""Settings of inverse alignment (FRFT): when to pause, what to keep, how to refit. Each is a choice the paper leaves open."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, SerializeAsAny

from trueup.core.config import Config, resolve
from trueup.loop.config import LoopConfig
from trueup.realign.select.protocol import SelectConfig
from trueup.realign.select.similar import SimilarConfig

AnySelect = Annotated[SerializeAsAny[SelectConfig], BeforeValidator(lambda v: resolve("trueup.realign.select", SelectConfig, v))]


class RealignConfig(Config):
    """One refit is FRFT; repeated refits are FRFT-alpha."""

    every: int = Field(default=40, ge=1)
    """Policy steps between pauses."""
    first: int | None = Field(default=None, ge=1)
    """Policy steps before the first pause; ``every`` if left out."""
    max_refits: int | None = Field(default=None, ge=1)
    """Most refits: 1 is FRFT, unlimited (left out) is FRFT-alpha."""
    min_kl_nats: float = Field(default=0.0, ge=0)
    """A trigger: a pause refits only if KL(policy‖reference) has grown by this much since the last refit; 0 refits at every pause."""
    select: AnySelect = SimilarConfig()
    """Which part of the offline set is kept."""
    prompts: int = Field(default=64, ge=1)
    """Training prompts that the frozen policy answers at a pause."""
    samples_per_prompt: int = Field(default=2, ge=1)
    """Replies to each."""
    drop: tuple[Literal["unfinished", "repetitive"], ...] = ("unfinished",)
    """Samples left out before comparing: the paper's pre-filter of undesirable replies, as far as no label is needed."""
    start_from: Literal["current", "first"] = "current"
    """Which reward model is fine-tuned: the one in force, or the run's first."""
    replay_share: float = Field(default=0.2, ge=0, lt=1)
    """Part of the refit's pairs drawn from the rest of the offline set, against forgetting."""
    epochs: float = Field(default=2.0, gt=0)
    """Passes over the selected pairs."""
    batch_size: int = Field(default=32, ge=1)
    """Pairs a step."""
    loop: LoopConfig = LoopConfig(learning_rate=2e-4)
    """How refit steps are taken; a smaller learning rate than the first fit's."""
