"""What `trueup decode` is told: a policy, models that guide it, prompts, and ways of decoding side by side."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, SerializeAsAny, model_validator

from trueup.core.config import Config, resolve
from trueup.decoding.protocol import DecodingConfig
from trueup.pipeline.config import AnyWorld, FitConfig
from trueup.rewards.dense.protocol import DenseObjectiveConfig

PACKAGE = "trueup.decoding.methods"
AnyDecoding = Annotated[SerializeAsAny[DecodingConfig], BeforeValidator(lambda v: resolve(PACKAGE, DecodingConfig, v))]
AnyDense = Annotated[
    SerializeAsAny[DenseObjectiveConfig], BeforeValidator(lambda v: resolve("trueup.rewards.dense", DenseObjectiveConfig, v))
]


class DecodingArmConfig(Config):
    """One way of decoding; all arms answer the same prompts with the same policy and the same random numbers."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")
    """Short name; part of file names."""
    decoding: AnyDecoding
    """The method and its settings."""


class PrefixFitConfig(FitConfig):
    """Training a scorer of prefixes on replies of the policy, scored by the first reward model."""

    objective: AnyDense
    """What it learns: ``fudge``, ``cd_q``, ``soft_values``, ``cumulative``, or another dense objective."""
    samples_per_prompt: int = Field(default=8, ge=1)
    """Replies of the policy to each training prompt."""
    prompts: str | None = None
    """File of training prompts; the world's training prompts if left out, or the prompts to answer where there is no world."""
    squash: bool = False
    """Learn the score's place between the lowest and the highest of the replies, which `rad` wants, instead of the score."""

    @model_validator(mode="after")
    def _targets(self) -> PrefixFitConfig:
        if self.objective.classifies and not self.squash:
            raise ValueError(f"'{self.objective.kind}' learns numbers between 0 and 1: set squash: true, or use fudge, cd_q or soft_values")
        return self


class DecodeConfig(Config):
    """Answering prompts with a policy that is guided while it writes."""

    name: str = "decode"
    """Name of the run in its records."""
    seed: int = Field(default=0, ge=0)
    """Every random number comes from it."""
    policy: str
    """Hugging Face folder (relative to this file) or hub name."""
    reward_models: tuple[str, ...] = ()
    """Folders or hub names. The first one guides; all score what was written, as ``rm-0``, ``rm-1``, ..."""
    prefix: str | None = None
    """Scorer of prefixes: a causal reward model with the policy's tokenizer. The first reward model if left out and nothing is fitted."""
    fit_prefix: PrefixFitConfig | None = None
    """Train a scorer of prefixes first; it is saved as ``checkpoints/prefix``."""
    value: str | None = None
    """The policy's value model, for ``mcts``: the state of a PPO arm (``states/ARM/policy`` of its run), or a causal reward model."""
    reference: str | None = None
    """Policy before its optimisation: KL is measured from it, and ``mcts`` may hold on to it. The policy itself if left out."""
    pad_token: str | None = None
    """Existing token to pad with, where the policy's tokenizer has none."""
    prompts: str | None = None
    """File of prompts, relative to this file, or a hub data set; or give a world."""
    on_bad: Literal["error", "skip"] = "error"
    """What to do with rows of files of prompts that cannot be used, such as repeated ones: stop, or leave them out."""
    world: AnyWorld | None = None
    """Where prompts and, in a sandbox, the truth about replies come from."""
    split: Literal["train", "validation", "test"] = "test"
    """Which prompts of the world."""
    max_prompts: int | None = Field(default=None, ge=1)
    """The first so many prompts; all if left out."""
    samples_per_prompt: int = Field(default=1, ge=1)
    """Replies to each."""
    max_completion_length: int = Field(default=48, ge=1)
    """Longest reply, tokens."""
    temperature: float = Field(default=1.0, gt=0)
    """Divides the policy's logits: the policy at this temperature is what is guided, and what KL is measured from."""
    prompts_at_once: int = Field(default=16, ge=1)
    """Prompts answered together, then written; what a killed run repeats at most. Changes memory, not results."""
    threads: int | None = Field(default=None, ge=1)
    """torch threads; torch's own choice if left out."""
    arms: tuple[DecodingArmConfig, ...] = Field(min_length=1)
    """Ways of decoding, side by side."""

    @model_validator(mode="after")
    def _something_to_answer(self) -> DecodeConfig:
        if (self.prompts is None) == (self.world is None):
            raise ValueError("give either 'prompts', a file, or 'world'")
        if self.prefix is not None and self.fit_prefix is not None:
            raise ValueError("give 'prefix', a trained scorer, or 'fit_prefix', not both")
        names = [a.name for a in self.arms]
        if len(set(names)) != len(names) or "offline" in names:
            raise ValueError(f"arms need distinct names other than 'offline', got {names}")
        return self

    @model_validator(mode="after")
    def _models_that_are_needed(self) -> DecodeConfig:
        for arm in self.arms:
            needs = arm.decoding.needs
            if "reward" in needs and not self.reward_models:
                raise ValueError(f"arm '{arm.name}' ({arm.decoding.kind}) needs a reward model: give 'reward_models'")
            if "prefix" in needs and not (self.prefix or self.fit_prefix or self.reward_models):
                raise ValueError(f"arm '{arm.name}' ({arm.decoding.kind}) needs a scorer of prefixes: give 'prefix' or 'reward_models'")
            if "value" in needs and self.value is None:
                raise ValueError(f"arm '{arm.name}' ({arm.decoding.kind}) needs the policy's value model: give 'value'")
        if self.fit_prefix is not None and not self.reward_models:
            raise ValueError("'fit_prefix' learns from scores: give 'reward_models'")
        return self
