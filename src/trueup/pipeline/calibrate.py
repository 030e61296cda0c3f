"""Calibration of a run's reward models on the held-out pairs: a map kept with the model, and the chances it claims in the records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from trueup.core.rng import Key
from trueup.data.rows import Preference
from trueup.pipeline.context import Context
from trueup.rewards.calibrated import save_calibration
from trueup.rewards.learned import LearnedReward
from trueup.stats.bootstrap import Array
from trueup.stats.recalibration import LEAST_PAIRS, Method, fit_calibration
from trueup.store.records import read_records

STAGE = "calibration"


def calibrate(context: Context, name: str, reward: LearnedReward, pairs: Sequence[Preference]) -> None:
    """Fit the map to all held-out pairs and keep it in the model's folder; write the chances it claims beside the scores.

    A chance in the records comes from a map that was fitted to other prompts, so that it can be judged on the pair itself.

    Args:
        context: the run.
        name: id of the reward model in the records, which hold its scores already.
        reward: the reward model.
        pairs: held-out pairs, in the order of the records.
    """
    method, path = context.reward_stage.calibration, context.run.records_path("offline")
    if method is None or reward.folder is None or not path.exists() or not context.accelerator.is_main_process:
        return
    records = read_records(path)
    if all(name in r.win_probability for r in records):
        return
    if len(pairs) < LEAST_PAIRS:
        context.note(STAGE, f"{name}: {len(pairs)} held-out pairs are too few for a calibration, {LEAST_PAIRS} are needed")
        return
    key = context.key / STAGE
    delta = np.array([a.scores[name] - b.scores[name] for a, b in zip(records[::2], records[1::2], strict=True)])
    domains = [p.prompt.tags.get("domain", "") for p in pairs]
    found = fit_calibration(*shuffled(delta, key / "order"), method, domains if any(domains) else None)
    chances = claimed(delta, [p.prompt.id for p in pairs], domains, method, key)
    if found is None or chances is None:
        context.note(STAGE, f"{name}: no map fits best, since the order is always right or no better than chance")
        return
    save_calibration(reward.folder, found)
    both = np.column_stack([chances, 1 - chances]).ravel().tolist()
    context.run.write_records(
        "offline", [replace(r, win_probability={**r.win_probability, name: p}) for r, p in zip(records, both, strict=True)]
    )


def claimed(delta: Array, prompts: Sequence[str], domains: Sequence[str], method: Method, key: Key) -> Array | None:
    """[N] chance of each chosen reply under a map fitted to the other half of the prompts; None where a half allows no map.

    Args:
        delta: [N] score of the chosen reply minus that of the rejected one.
        prompts: [N] id of each pair's prompt; no prompt is in both halves.
        domains: [N] names, empty where none.
        method: kind of map.
        key: of the halves.
    """
    names = sorted(set(prompts))
    first = {names[int(i)] for i in (key / "halves").permutation(len(names))[: len(names) // 2]}
    half: NDArray[np.bool_] = np.array([p in first for p in prompts])
    found = np.empty(len(delta))
    for held in (half, ~half):
        known = [d for d, h in zip(domains, held, strict=True) if not h]
        map_ = fit_calibration(*shuffled(delta[~held], key / "order"), method, known if any(domains) else None) if not held.all() else None
        if map_ is None:
            return None
        found[held] = map_.probability(delta[held], [d for d, h in zip(domains, held, strict=True) if h])
    return found


def shuffled(delta: Array, key: Key) -> tuple[Array, Array]:
    """Differences with the chosen reply in a random place, and which place it took (1 the first): a map must not learn the place."""
    swap = key.generator().random(len(delta)) < 0.5
    return np.where(swap, -delta, delta), np.where(swap, 0.0, 1.0)
