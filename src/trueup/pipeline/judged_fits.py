"""The fits of a cross-validation: margins of pairs that a fit did not see, before and after calibration; read back where it was done."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy import special

from trueup.core.errors import UserError
from trueup.core.rng import Key, epoch_rows
from trueup.data.rows import Judged, Preference, judged
from trueup.data.splits import folds, groups_of, rest_of
from trueup.learn.table import Examples
from trueup.models.reward import RewardModel
from trueup.pipeline.config import CrossValidateConfig, JudgedModelConfig
from trueup.pipeline.context import Context
from trueup.pipeline.refit import margins
from trueup.pipeline.reward_models import new_model
from trueup.pipeline.steps import run_steps
from trueup.rewards.calibrated import save_calibration
from trueup.rewards.fit import RewardLearner
from trueup.rewards.linear_fit import LinearFit, fit_linear, fit_stack
from trueup.stats.bootstrap import Array
from trueup.stats.recalibration import Calibration, fit_calibration
from trueup.store.atomic import atomic_folder

STAGE = "cross_validate"
SURE = 1e-9
"""A calibrated chance is kept this far from 0 and 1."""


@dataclass(frozen=True, kw_only=True)
class Said:
    """What one fitted model says of pairs: score of chosen minus rejected."""

    raw: Array
    """[N]"""
    calibrated: Array
    """[N] log-odds; equal to ``raw`` where no map could be fitted."""
    facts: dict[str, float] = field(default_factory=dict)
    """What the training pairs chose."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"raw": self.raw.tolist(), "calibrated": self.calibrated.tolist(), "facts": self.facts}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Said:
        """The inverse of `to_dict`."""
        return cls(raw=np.array(values["raw"]), calibrated=np.array(values["calibrated"]), facts=dict(values["facts"]))


Answers = dict[str, dict[str, Said]]
"""Model, then set of pairs."""


def linear_answers(
    context: Context,
    config: CrossValidateConfig,
    training: Sequence[Preference],
    asked: Mapping[str, Sequence[Preference]],
    key: Key,
    stage: str,
    keep: Path | None = None,
) -> Answers:
    """What every linear model and ensemble, fitted to the training pairs, says of the pairs asked about.

    Args:
        context: the run.
        config: the models.
        training: pairs.
        asked: pairs by set.
        key: of the inner folds.
        stage: name of the fit.
        keep: folder to save the models in, by name; none if None.
    """

    def make() -> Answers:
        fits: dict[str, LinearFit] = {}
        for model in config.linear:
            embedded = {"reply", "joined"} & set(model.blocks)
            fits[model.name] = fit_linear(
                training,
                model.blocks,
                key / "inner",
                strengths=model.strengths,
                inner_folds=config.inner_folds,
                embedder=context.embedder if embedded else None,
                source=context.config.embeddings,
            )
        for ensemble in config.ensembles:
            fits[ensemble.name] = fit_stack({name: fits[name] for name in ensemble.members}, ensemble.weighting)
        for name, fit in fits.items():
            _save(context, keep, name, fit.model, fit.calibration)
        return {n: {s: _said(f.model, f.calibration, pairs, f.facts) for s, pairs in asked.items()} for n, f in fits.items()}

    return _once(context, stage, make) if config.linear else {}


def step_answers(
    context: Context,
    config: CrossValidateConfig,
    model: JudgedModelConfig,
    training: Sequence[Preference],
    asked: Mapping[str, Sequence[Preference]],
    key: Key,
    stage: str,
    keep: Path | None = None,
) -> Answers:
    """The same of a model that is trained by steps; one inner part of the training pairs is kept from it, for its temperature."""

    def make() -> Answers:
        fresh = new_model(context, None, model, key / "model")
        kept = folds(groups_of(training), config.inner_folds, key / "inner")[0]
        learned = [judged(training[int(i)]) for i in rest_of(kept, len(training))]
        steps = math.ceil(len(learned) * model.epochs / model.batch_size)

        def batch_of(step: int) -> Examples[Judged]:
            return Examples.of(learned, epoch_rows(key / "data", len(learned), min(model.batch_size, len(learned)), step))

        run_steps(context, stage, RewardLearner(model.objective, fresh), batch_of, steps=steps, loop=model.loop, key=key / "steps")
        calibration = None
        if model.calibration is not None:
            seen = np.array(margins(fresh, [training[int(i)] for i in kept]))
            calibration = fit_calibration(seen, np.ones(len(seen)), model.calibration) if np.isfinite(seen).all() else None
        _save(context, keep, model.name, fresh, calibration)
        return {model.name: {s: _said(fresh, calibration, pairs, {}) for s, pairs in asked.items()}}

    return _once(context, stage, make)


def _once(context: Context, stage: str, make: Callable[[], Answers]) -> Answers:
    done = context.run.done(stage)
    if done is None:
        answers = make()
        done = {model: {data: said.to_dict() for data, said in by_set.items()} for model, by_set in answers.items()}
        if context.accelerator.is_main_process:
            context.run.mark_done(stage, done)
    return {model: {data: Said.from_dict(values) for data, values in by_set.items()} for model, by_set in done.items()}


def _said(model: RewardModel, calibration: Calibration | None, pairs: Sequence[Preference], facts: dict[str, float]) -> Said:
    raw = np.array(margins(model, pairs))
    if not np.isfinite(raw).all():
        raise UserError("a held-out score is not finite. Lower the learning rate.", where=STAGE)
    if calibration is None:
        return Said(raw=raw, calibrated=raw, facts=facts)
    chance = calibration.probability(raw)
    return Said(raw=raw, calibrated=special.logit(np.clip(chance, SURE, 1 - SURE)), facts=facts)


def _save(context: Context, keep: Path | None, name: str, model: RewardModel, calibration: Calibration | None) -> None:
    if keep is None or not context.accelerator.is_main_process:
        return
    with atomic_folder(keep / name) as new:
        model.save(new)
        if calibration is not None:
            save_calibration(new, calibration)
