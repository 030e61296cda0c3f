"""Reward models alone, judged by k-fold cross-validation on preference files: no policy, no truth, honest intervals."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from trueup.core.rng import Key
from trueup.data.preferences import load_preferences
from trueup.data.rendering import plain_text
from trueup.data.rows import Preference, Reply
from trueup.data.splits import folds, groups_of, rest_of
from trueup.models.embeddings import Embedder
from trueup.pipeline.config import CrossValidateConfig, PreferenceFileConfig, resolve_path
from trueup.pipeline.context import Context
from trueup.pipeline.events import Event
from trueup.pipeline.judged_fits import STAGE, Answers, Said, linear_answers, step_answers
from trueup.stats.estimate import Estimate
from trueup.stats.judged_margins import accuracy, calibration_of, difference, preference_for_length, share_of_ceiling
from trueup.store.atomic import write_text

AT_ONCE = 512
"""Replies embedded between two lines of progress."""
HELD = "held"
"""Name of the pairs that were held out, among those asked about."""
Sets = Mapping[str, Sequence[Preference]]


def cross_validate(context: Context, config: CrossValidateConfig) -> list[dict[str, Any]]:
    """Fit and judge every model on every set; write ``reward.json``, the table the report shows.

    Every model is fitted once more to each whole set, saved in ``checkpoints/SET/MODEL``, and asked about the other sets.

    Raises:
        UserError: a set that cannot be read, or is too small for its folds.
    """
    sets: dict[str, Sequence[Preference]] = {}
    for data in config.sets:
        reading = load_preferences(resolve_path(data.path, context.base), on_bad=data.on_bad)
        context.note(STAGE, f"{data.name}: {reading.statement()}")
        sets[data.name] = reading.rows
    _embed(context, config, sets)
    rows: list[dict[str, Any]] = []
    for data in config.sets:
        rows += _judge(context, config, data, sets)
        if context.accelerator.is_main_process:
            write_text(context.run.root / "reward.json", json.dumps(rows, indent=2) + "\n")
    return rows


def _judge(context: Context, config: CrossValidateConfig, data: PreferenceFileConfig, sets: Sets) -> list[dict[str, Any]]:
    """Every model on one set: margins of each pair under the model that did not see its opening turn, and of the other sets' pairs."""
    pairs, key = sets[data.name], context.key / STAGE / data.name
    held: dict[str, Said] = {}
    for said in (_folds(context, config, data.name, pairs, key, model) for model in (None, *range(len(config.models)))):
        for name, found in said.items():
            held[name] = found
            context.note(STAGE, f"{data.name}, {name}: accuracy {_shown(accuracy(found.raw, groups_of(pairs), key / name / 'accuracy'))}")
    rest, seen = {n: p for n, p in sets.items() if n != data.name}, set(groups_of(pairs))
    unseen = {n: [p for p, group in zip(ps, groups_of(ps), strict=True) if group not in seen] for n, ps in rest.items()}
    other: Answers = {}
    for model in (None, *range(len(config.models))):
        other |= _fit(context, config, model, pairs, unseen, key, f"{data.name}-{_named(config, model)}-whole", whole=data.name)
    return [_row(config, data, name, pairs, held, unseen, other[name], key / name) for name in held]


def _folds(
    context: Context, config: CrossValidateConfig, data: str, pairs: Sequence[Preference], key: Key, model: int | None
) -> dict[str, Said]:
    """Held-out answers of one model trained by steps, or, for None, of all linear ones together."""
    parts: dict[str, list[tuple[np.ndarray[Any, Any], Said]]] = {}
    for fold, rows in enumerate(folds(groups_of(pairs), config.folds, key / "folds")):
        training = [pairs[int(i)] for i in rest_of(rows, len(pairs))]
        asked = {HELD: [pairs[int(i)] for i in rows]}
        found = _fit(context, config, model, training, asked, key / fold, f"{data}-{_named(config, model)}-{fold}")
        for name, said in found.items():
            parts.setdefault(name, []).append((rows, said[HELD]))
    return {name: _together(found, len(pairs)) for name, found in parts.items()}


def _fit(
    context: Context,
    config: CrossValidateConfig,
    model: int | None,
    training: Sequence[Preference],
    asked: Sets,
    key: Key,
    name: str,
    whole: str | None = None,
) -> Answers:
    keep = None if whole is None else context.run.checkpoint(whole)
    if model is None:
        return linear_answers(context, config, training, asked, key, f"{STAGE}/{name}", keep)
    chosen = config.models[model]
    return step_answers(context, config, chosen, training, asked, key / chosen.name, f"{STAGE}/{name}", keep)


def _named(config: CrossValidateConfig, model: int | None) -> str:
    return "linear" if model is None else config.models[model].name


def _together(parts: Sequence[tuple[np.ndarray[Any, Any], Said]], n: int) -> Said:
    """The folds' answers in the order of the pairs; facts as means over folds."""
    raw, calibrated = np.full(n, np.nan), np.full(n, np.nan)
    for rows, said in parts:
        raw[rows], calibrated[rows] = said.raw, said.calibrated
    names = parts[0][1].facts
    return Said(raw=raw, calibrated=calibrated, facts={k: float(np.mean([s.facts[k] for _, s in parts])) for k in names})


def _row(
    config: CrossValidateConfig,
    data: PreferenceFileConfig,
    name: str,
    pairs: Sequence[Preference],
    held: Mapping[str, Said],
    unseen: Sets,
    other: Mapping[str, Said],
    key: Key,
) -> dict[str, Any]:
    """One line of ``reward.json``."""
    groups, said = groups_of(pairs), held[name]
    longer = np.array([float(len(p.chosen.text) - len(p.rejected.text)) for p in pairs])
    reached = accuracy(said.raw, groups, key / "accuracy")
    before = calibration_of(said.raw, groups, key / "before")
    row: dict[str, Any] = {"name": name, "data": data.name, "folds": config.folds, "accuracy": reached.to_dict()}
    row |= calibration_of(said.calibrated, groups, key)
    row |= {f"{k}_before": v for k, v in before.items()}
    row |= preference_for_length(said.raw, longer, groups, key)
    row["difference"] = {
        o: difference(said.raw, held[o].raw, groups, key / "difference" / o).to_dict() for o in config.compare_with if o != name
    }
    row["transfer"] = {o: accuracy(s.raw, groups_of(unseen[o]), key / "transfer" / o).to_dict() for o, s in other.items()}
    if data.agreement is not None:
        row |= share_of_ceiling(reached, data.agreement)
    return row | {"chosen_inside": said.facts}


def _embed(context: Context, config: CrossValidateConfig, sets: Sets) -> None:
    """Put every text into the embedder's cache, like lengths together: a batch of few texts costs as much as a full one."""
    wanted: set[str] = {b for m in config.linear for b in m.blocks if b in ("reply", "joined")}
    for model in config.models:
        if model.model.trunk == "embeddings":
            wanted |= {"reply", "joined"} if model.model.features == "both" else {model.model.features}
    replies: list[tuple[Preference, Reply]] = [(p, r) for pairs in sets.values() for p in pairs for r in (p.chosen, p.rejected)]
    texts = [r.text for _, r in replies] if "reply" in wanted else []
    texts += [plain_text(p.prompt.text, r.text) for p, r in replies] if "joined" in wanted else []
    texts = sorted(dict.fromkeys(texts), key=len)
    stage = f"{STAGE}/embeddings"
    if not texts:
        return
    embedder: Embedder = context.embedder
    context.tell(Event(kind="stage", stage=stage, step=0, total=len(texts)))
    for start in range(0, len(texts), AT_ONCE):
        embedder.embed(texts[start : start + AT_ONCE])
        context.tell(Event(kind="step", stage=stage, step=min(start + AT_ONCE, len(texts)), total=len(texts)))
    context.embedder.flush()


def _shown(estimate: Estimate) -> str:
    return f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}], n {estimate.n}"
