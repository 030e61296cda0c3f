"""Settings of cross-validated models that are fitted to their optimum: linear ones, and ensembles of them."""

from __future__ import annotations

import math

from pydantic import Field, field_validator, model_validator

from trueup.core.config import Config
from trueup.models.feature_reward import Block
from trueup.rewards.linear_fit import Weighting
from trueup.stats.ridge import STRENGTHS


class LinearModelConfig(Config):
    """A reward model linear in features, with a quadratic penalty chosen by folds inside the training pairs."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    """Short name for tables."""
    blocks: tuple[Block, ...] = Field(min_length=1)
    """Features side by side: ``words`` (single and in twos), ``style``, ``length`` (characters), embeddings of the ``reply`` or of
    prompt and reply ``joined``."""
    strengths: tuple[float, ...] = Field(default=STRENGTHS, min_length=1)
    """Penalties to choose from; 1 is a standard normal prior on every weight."""

    @field_validator("blocks")
    @classmethod
    def _distinct(cls, value: tuple[Block, ...]) -> tuple[Block, ...]:
        if len(set(value)) < len(value):
            raise ValueError("a block is named twice")
        return value

    @field_validator("strengths")
    @classmethod
    def _positive(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if not all(s > 0 and math.isfinite(s) for s in value):
            raise ValueError("penalties must be numbers above 0")
        return value


class EnsembleModelConfig(Config):
    """Several linear models as one: a weighted sum of their scores, weights from folds inside the training pairs."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    """Short name for tables."""
    members: tuple[str, ...] = Field(min_length=2)
    """Names of linear models."""
    weighting: Weighting = "fitted"
    """``fitted`` chooses weights of 0 or more, ``equal`` gives each calibrated member the same."""


class LinearModels(Config):
    """The part of a cross-validation that is fitted to its optimum."""

    linear: tuple[LinearModelConfig, ...] = ()
    """Linear reward models, each fitted on each set."""
    ensembles: tuple[EnsembleModelConfig, ...] = ()
    """Ensembles of them."""
    inner_folds: int = Field(default=5, ge=2)
    """Parts of the training pairs, by opening turn, for what is chosen there: penalties, weights, temperatures. A model that is trained by
    steps keeps one part for its temperature and learns from the others."""
    compare_with: tuple[str, ...] = ()
    """Models that every other one's accuracy is compared with, pair by pair."""

    @model_validator(mode="after")
    def _members_exist(self) -> LinearModels:
        known = [m.name for m in self.linear]
        for ensemble in self.ensembles:
            unknown = sorted(set(ensemble.members) - set(known))
            if unknown:
                raise ValueError(f"ensemble '{ensemble.name}' has members {unknown}, but linear models are {known}")
            if len(set(ensemble.members)) < len(ensemble.members):
                raise ValueError(f"ensemble '{ensemble.name}' names a member twice")
        return self
