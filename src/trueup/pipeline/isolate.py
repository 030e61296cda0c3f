"""`trueup isolate`: runs the baseline and its alternatives, and says which part changes the outcome."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from trueup.core.errors import UserError, did_you_mean
from trueup.core.rng import Key
from trueup.data.rows import Reply
from trueup.mismatch.isolation import BASELINE, Cell, Ends, Isolation, Reading, ends_of, isolate
from trueup.mismatch.panel import numbers
from trueup.pipeline.config import RunConfig
from trueup.pipeline.events import Listener, nobody
from trueup.pipeline.isolate_config import MAIN, IsolateConfig, arm_name
from trueup.pipeline.run import execute
from trueup.sandbox.world import World
from trueup.store.records import frame


@dataclass(frozen=True, kw_only=True)
class Isolated:
    """Outcomes and attributions, and what was exchanged."""

    name: str
    seed: int
    found: Isolation
    readings: dict[str, Reading]
    """Evaluations by name."""
    scales: dict[str, float]
    """Evaluation -> standard deviation of its column over the baseline's replies before training."""
    told: dict[str, str]
    """Alternative -> what it changes, for readers."""
    prompts: int


def run_isolation(
    config: IsolateConfig, out: Path, *, resume: bool = False, base: Path | None = None, on_event: Listener = nobody
) -> Isolated:
    """Run everything that is compared, or go on with what was stopped, and attribute the change.

    Args:
        config: everything the result depends on.
        out: folder; runs go to ``run`` and, where a reward model is made otherwise, to ``run-<name>``.
        resume: go on with what is in the folder.
        base: folder that relative paths of the configuration are read from; the present one if None.
        on_event: told of every stage and step.

    Raises:
        UserError: anything the user can fix; what was done before stays and can be resumed.
    """
    base = base or Path.cwd()
    runs = config.runs()
    _check_worlds(runs, base)
    _check_readings(config, base)
    for folder, run in runs.items():
        execute(run, out / folder, resume=resume and (out / folder).exists(), base=base, on_event=on_event)
    records = {folder: frame(out / folder / "records") for folder in runs}
    trained = {cell: (records[config.folder(cell)], arm_name(cell)) for cell in config.cells()}
    start = _first_replies(records[MAIN], BASELINE)
    for rows, arm in trained.values():
        if not _first_replies(rows, arm).equals(start):
            raise UserError(
                "begins with other replies than the baseline, so more than one part differs. Alternatives may change how a reward model is "
                "made, not what the policy starts from.",
                where=f"arm {arm}",
            )
    prompts = sorted(start.index.unique())
    readings = config.readings()
    scales = {name: _scale(records[MAIN], reading) for name, reading in readings.items()}
    outcomes: dict[Cell, Ends] = {}
    for cell, (rows, arm) in trained.items():
        for name, reading in readings.items():
            if config.grid or not cell.exchanged() or name == BASELINE:
                outcomes[cell._replace(evaluation=name)] = ends_of(rows, arm, reading, prompts)
    return Isolated(
        name=config.run.name,
        seed=config.run.seed,
        found=isolate(outcomes, scales, Key(config.run.seed) / "isolate"),
        readings=readings,
        scales=scales,
        told=_told(config),
        prompts=len(prompts),
    )


def _check_worlds(runs: dict[str, RunConfig], base: Path) -> None:
    """Before anything is trained: a reward model made otherwise must leave prompts, demonstrations and gold alone."""
    worlds = {folder: run.world.build(run.seed, base) for folder, run in runs.items() if run.world is not None}
    for folder, world in worlds.items():
        if folder != MAIN and _seen(world) != _seen(worlds[MAIN]):
            raise UserError(
                "changes the world's test prompts, demonstrations or gold, and so more than the reward model. Change only what preference "
                "pairs are made of.",
                where=f"reward model {folder.removeprefix(MAIN + '-')}",
            )


def _check_readings(config: IsolateConfig, base: Path) -> None:
    """Before anything is trained: every evaluation must find prompts, and a column that the world gives."""
    assert config.run.world is not None
    world = config.run.world.build(config.run.seed, base)
    prompts = world.prompts("test")
    given = set(world.evaluations(prompts, [Reply(text="")] * len(prompts)))
    for name, reading in config.readings().items():
        where = f"evaluation {name}"
        if reading.prompts is not None and not any(re.search(reading.prompts, str(p.text)) for p in prompts):
            raise UserError(f"no test prompt matches '{reading.prompts}'. They look like '{prompts[0].text}'.", where=where)
        wanted = reading.column.removeprefix("evaluations.")
        if reading.column.startswith("evaluations.") and wanted not in given:
            known = ", ".join(sorted(given))
            raise UserError(f"the world gives no evaluation '{wanted}'.{did_you_mean(wanted, given)} Known: {known}.", where=where)


def _seen(world: World) -> Any:
    """All of a world that policy and evaluation can see."""
    demonstrations = list(world.demonstrations())
    gold = world.gold([d.prompt for d in demonstrations], [d.reply for d in demonstrations]) if demonstrations else None
    return ([(p.id, str(p.text)) for p in world.prompts("test")], [(str(d.prompt), d.reply.text) for d in demonstrations], gold)


def _first_replies(rows: pd.DataFrame, arm: str) -> pd.Series:
    here = rows[(rows["arm"] == arm) & (rows["split"] == "test")]
    here = here[here["variant"].isna()] if "variant" in here else here
    first = here[here["step"] == here["step"].min()].sort_values(["prompt_id", "sample_id"], kind="stable")
    return first.set_index("prompt_id")["response"]


def _scale(rows: pd.DataFrame, reading: Reading) -> float:
    here = rows[(rows["arm"] == BASELINE) & (rows["split"] == "test") & (rows["step"] == 0)]
    values = numbers(here[reading.column]) if reading.column in here else None
    spread = 0.0 if values is None else float(np.nanstd(values))
    if not spread > 0:
        known = sorted(str(c) for c in rows.columns if str(c) == "gold" or str(c).startswith("evaluations."))
        raise UserError(
            "is not recorded, or does not vary, over the replies before training, so no change has a unit. Columns: "
            + ", ".join(known)
            + ".",
            where=f"evaluation column {reading.column}",
        )
    return spread


def _told(config: IsolateConfig) -> dict[str, str]:
    """What each alternative changes, in a line."""
    found = {}
    for a in (*config.reward_models, *config.optimizers, *config.evaluations):
        values = a.model_dump(mode="json", exclude_unset=True)
        found[str(values.pop("name"))] = ", ".join(f"{k}: {v}" for k, v in values.items())
    return found
