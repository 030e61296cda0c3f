"""What an arm is: one treatment, and what its policy is optimised against."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import BeforeValidator, Field, SerializeAsAny, model_validator

from trueup.core.config import Config, resolve
from trueup.core.errors import UserError
from trueup.loop.config import LoopConfig
from trueup.optimizers.protocol import ChecksReward, OptimizerConfig
from trueup.realign.config import RealignConfig
from trueup.rewards.config import AnyReward, every
from trueup.rewards.kinds.learned import LearnedConfig

AnyOptimizer = Annotated[SerializeAsAny[OptimizerConfig], BeforeValidator(lambda v: resolve("trueup.optimizers", OptimizerConfig, v))]
TRAINED_HERE = ("clean", "ensemble", "shared_trunk", "average")


class EarlyStopConfig(Config):
    """Each probe's replies are compared with those of the best checkpoint so far; training stops when they are shown to be worse."""

    judge: str = "annotators"
    """Who compares: the world's annotators, or the name of an evaluation, of which the better side wins."""
    higher_is_better: bool = True
    """The better side of the evaluation."""
    comparisons: int = Field(default=40, ge=1)
    """To buy at each probe."""
    alpha: float = Field(default=0.05, gt=0, lt=1)
    """Chance of stopping, ever, although no checkpoint is worse than the best before it."""
    margin: float = Field(default=0.0, ge=0, lt=1)
    """A checkpoint may lose this much more often than it wins without counting as worse."""


class ArmConfig(Config):
    """One treatment; all arms start from the same SFT policy and first reward model, with the same seed and compute."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")
    """Short name; part of file names."""
    reward: AnyReward = LearnedConfig()
    """What the policy is optimised against: the run's reward model, an ensemble, a check, a sum or shaping of others (docs/rewards.md).
    Two are controls that need a world with a truth: ``clean``, a reward model fitted to the same pairs ordered by gold, and ``gold``.
    A policy that learns from pairs alone (``dpo``) is only measured by it."""
    realign: RealignConfig | None = None
    """Inverse alignment; a static reward model if left out."""
    optimizer: AnyOptimizer | None = None
    """Another optimizer than the run's."""
    loop: LoopConfig | None = None
    """Another way to take steps than the run's: what suits one optimizer's loss need not suit another's."""
    prompts_per_step: int | None = Field(default=None, ge=1)
    """Another number of prompts, or of pairs, a step than the run's."""
    early_stop: EarlyStopConfig | None = None
    """Stop when comparisons at the probes show harm; off if left out."""

    @model_validator(mode="after")
    def _refits_what_it_optimises(self) -> ArmConfig:
        found = {part.kind for part in every(self.reward)}
        if {"learned", "clean"} <= found:
            raise ValueError("an arm has one reward model: 'learned' or 'clean', not both")
        if self.realign is not None and not found & {"learned", "clean", "gold"}:
            raise ValueError("'realign' refits the reward model 'learned', which is no part of this arm's reward. Remove realign")
        return self

    def kinds(self) -> set[str]:
        """Kinds of its reward and of all that this is made of."""
        return {part.kind for part in every(self.reward)}

    def needs_pairs(self, default: OptimizerConfig) -> bool:
        """Whether it learns from preferences, beside the run's reward model; ``default`` is the run's optimizer."""
        optimizer = self.optimizer or default
        return self.realign is not None or optimizer.learns_from == "preferences" or bool(self.kinds() & {"clean", "last_layer"})


def check_arms(arms: Sequence[ArmConfig], default: OptimizerConfig, model: bool, trained: bool, adapter: bool) -> None:
    """Whether a run can give its arms what their rewards are made of.

    Args:
        arms: of the run.
        default: the run's optimizer.
        model: the run has a reward model.
        trained: it is trained in the run.
        adapter: by way of an adapter.

    Raises:
        ValueError: it cannot.
    """
    for arm in arms:
        optimizer = arm.optimizer or default
        if isinstance(optimizer, ChecksReward):
            try:
                optimizer.check_reward(arm.reward)
            except UserError as error:
                raise ValueError(f"arm '{arm.name}', {error}") from error
        if arm.realign is not None and not optimizer.uses_reward:
            raise ValueError(
                f"arm '{arm.name}': 'realign' refits a reward model, which '{optimizer.kind}' does not look at. Remove realign, or choose "
                "an optimizer that learns from rewards"
            )
        if not optimizer.uses_reward and arm.reward.kind == "learned":
            continue  # without a reward model there is one measurement less
        for part in every(arm.reward):
            if not model and (part.kind in ("learned", *TRAINED_HERE) or arm.realign is not None):
                raise ValueError(f"arm '{arm.name}' needs a reward model ({part.kind}), but 'reward' is null")
            if model and not trained and part.kind in TRAINED_HERE:
                raise ValueError(f"arm '{arm.name}': {part.kind} trains reward models, but reward.train is false")
            if getattr(part, "differ", None) == "adapter" and not adapter:
                raise ValueError(f"arm '{arm.name}': members that differ by adapter need reward.model.lora")
