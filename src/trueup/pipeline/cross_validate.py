"""Reward models alone, judged by k-fold cross-validation on preference files: no policy, no truth, honest intervals."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trueup.core.errors import UserError
from trueup.core.rng import Key, epoch_rows
from trueup.data.preferences import load_preferences
from trueup.data.rows import Judged, Preference, judged
from trueup.data.splits import folds, groups_of, rest_of
from trueup.data.tokens import plain_text
from trueup.learn.table import Examples
from trueup.models.reward import RewardModel
from trueup.pipeline.config import CrossValidateConfig, JudgedModelConfig, PreferenceFileConfig, resolve_path
from trueup.pipeline.context import Context
from trueup.pipeline.events import Event
from trueup.pipeline.refit import margins
from trueup.pipeline.reward import new_model
from trueup.pipeline.steps import run_steps
from trueup.rewards.fit import RewardLearner
from trueup.stats.bootstrap import mean_estimate
from trueup.stats.calibration import ece_under_calibration, nll_nats, reliability
from trueup.stats.estimate import Estimate
from trueup.store.atomic import write_text

STAGE = "cross_validate"
AT_ONCE = 512
"""Replies embedded between two lines of progress."""


def cross_validate(context: Context, config: CrossValidateConfig) -> list[dict[str, Any]]:
    """Fit and judge every model on every set; write ``reward.json``, the table the report shows.

    Raises:
        UserError: a set that cannot be read, or is too small for its folds.
    """
    rows = []
    for data in config.sets:
        reading = load_preferences(resolve_path(data.path, context.base), on_bad=data.on_bad)
        context.note(STAGE, f"{data.name}: {reading.statement()}")
        for model in config.models:
            rows.append(_judge(context, config, data, model, reading.rows))
            context.note(STAGE, f"{data.name}, {model.name}: accuracy {_shown(rows[-1]['accuracy'])}")
            if context.accelerator.is_main_process:
                write_text(context.run.root / "reward.json", json.dumps(rows, indent=2) + "\n")
    return rows


def _judge(
    context: Context, config: CrossValidateConfig, data: PreferenceFileConfig, model: JudgedModelConfig, pairs: Sequence[Preference]
) -> dict[str, Any]:
    """One model on one set: margins of every pair under the model that did not see its opening turn."""
    groups = groups_of(pairs)
    key = context.key / STAGE / data.name
    if model.model.trunk == "embeddings":
        _embed(context, new_model(context, None, model, key), pairs, f"{STAGE}/{data.name}-{model.name}-embeddings")
    found: NDArray[np.float64] = np.full(len(pairs), np.nan)
    for fold, rows in enumerate(folds(groups, config.folds, key / "folds")):
        training = [pairs[int(i)] for i in rest_of(rows, len(pairs))]
        found[rows] = _fold(
            context, model, training, [pairs[int(i)] for i in rows], key / model.name / fold, f"{data.name}-{model.name}-{fold}"
        )
    hits = (found > 0) + 0.5 * (found == 0)
    won = np.ones(len(found))
    ece = Estimate(name="ece", value=reliability(found, won).ece, low=None, high=None, n=len(set(groups)), unit="share")
    band = np.quantile(ece_under_calibration(found, key / "ece"), [0.025, 0.975])
    return {
        "name": model.name,
        "data": data.name,
        "folds": config.folds,
        "accuracy": mean_estimate(hits, groups, "accuracy", "share", key / "accuracy").to_dict(),
        "nll": mean_estimate(nll_nats(found, won), groups, "nll", "nats", key / "nll").to_dict(),
        "ece": ece.to_dict(),
        "ece_if_calibrated": band.tolist(),
    }


def _embed(context: Context, model: RewardModel, pairs: Sequence[Preference], stage: str) -> None:
    """Put every reply into the embedder's cache, like lengths together: a batch of few texts costs as much as a full one."""
    replies = [(p.prompt.text, r) for p in pairs for r in (p.chosen, p.rejected)]
    replies.sort(key=lambda row: len(plain_text(row[0], row[1].text)))
    context.tell(Event(kind="stage", stage=stage, step=0, total=len(replies)))
    for start in range(0, len(replies), AT_ONCE):
        part = replies[start : start + AT_ONCE]
        model.encode([p for p, _ in part], [r for _, r in part])
        context.tell(Event(kind="step", stage=stage, step=start + len(part), total=len(replies)))
    context.embedder.flush()


def _fold(
    context: Context, model: JudgedModelConfig, training: Sequence[Preference], held: Sequence[Preference], key: Key, name: str
) -> NDArray[np.float64]:
    """Margins of the held-out pairs; read back where the fold was done."""
    stage = f"{STAGE}/{name}"
    done = context.run.done(stage)
    if done is None:
        fresh = new_model(context, None, model, key / "model")
        learner = RewardLearner(model.objective, fresh)
        steps = math.ceil(len(training) * model.epochs / model.batch_size)
        groups = [judged(p) for p in training]

        def batch_of(step: int) -> Examples[Judged]:
            return Examples.of(groups, epoch_rows(key / "data", len(groups), min(model.batch_size, len(groups)), step))

        run_steps(context, stage, learner, batch_of, steps=steps, loop=model.loop, key=key / "steps")
        done = {"margins": _held_out(fresh, held)}
        if model.model.trunk == "embeddings":
            context.embedder.flush()
        if context.accelerator.is_main_process:
            context.run.mark_done(stage, done)
    return np.array(done["margins"], dtype=np.float64)


def _held_out(model: RewardModel, held: Sequence[Preference]) -> list[float]:
    found = margins(model, held)
    if not all(math.isfinite(m) for m in found):
        raise UserError("a held-out score is not finite. Lower the learning rate.", where=STAGE)
    return found


def _shown(estimate: dict[str, Any]) -> str:
    return f"{estimate['value']:.3f} [{estimate['low']:.3f}, {estimate['high']:.3f}], n {estimate['n']}"
