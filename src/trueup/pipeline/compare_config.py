"""What `trueup compare` is told: a run whose arms are optimizers, decoders beside them, and the budgets at which all are compared."""

from __future__ import annotations

from pydantic import Field, model_validator

from trueup.core.config import Config
from trueup.pipeline.config import RunConfig
from trueup.pipeline.decode_config import AnyDecoding, PrefixFitConfig


class DecoderPathConfig(Config):
    """One way of decoding the SFT policy, at settings of rising strength: a path of KL and cost, like an optimizer's checkpoints."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")
    """Short name; part of file names."""
    settings: tuple[AnyDecoding, ...] = Field(min_length=1)
    """Kinds with their settings, the weakest first."""


class CompareConfig(Config):
    """Optimizers and decoders under the same reward, data and budget."""

    run: RunConfig
    """World, SFT, reward model and optimizers, one an arm; all are compared with the first, unless ``against`` says otherwise."""
    decoders: tuple[DecoderPathConfig, ...] = ()
    """Decoders of the SFT policy under the run's reward model, on the test prompts."""
    fit_prefix: PrefixFitConfig | None = None
    """Train a scorer of prefixes for decoders that ask for one; the reward model itself if left out."""
    kl_nats: tuple[float, ...] = (2.0, 5.0, 10.0, 20.0)
    """KL from the SFT policy at which gold and evaluations are read."""
    core_hours: tuple[float, ...] = ()
    """Cost at which they are read; a quarter, half and all of what the cheapest optimizer took if left out."""
    against: str | None = None
    """Arm or decoder that differences are taken from."""

    @model_validator(mode="after")
    def _comparable(self) -> CompareConfig:
        if self.run.world is None or self.run.policy is None:
            raise ValueError("'run' needs a world and a policy stage")
        if self.decoders and (self.run.reward is None or (not self.run.needs_pairs() and self.run.reward.train)):
            raise ValueError("decoders are guided by the run's reward model, but 'run.reward' is null")
        names = self.names()
        if len(set(names)) < len(names):
            raise ValueError(f"arms and decoders need distinct names, got {names}")
        if len(names) < 2:
            raise ValueError("a comparison needs two or more arms or decoders")
        if self.against is not None and self.against not in names:
            raise ValueError(f"'against' names '{self.against}', but there are {', '.join(names)}")
        if any(b <= 0 for b in (*self.kl_nats, *self.core_hours)) or not self.kl_nats:
            raise ValueError("budgets must be above 0, and 'kl_nats' needs at least one")
        return self

    def names(self) -> list[str]:
        """Arms, then decoders."""
        return [*(a.name for a in self.run.arms), *(d.name for d in self.decoders)]
