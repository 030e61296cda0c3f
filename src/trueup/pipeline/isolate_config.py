"""What `trueup isolate` is told: a run with one arm, and alternatives of its reward model, its optimizer and its evaluation."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import Field, ValidationError, model_validator

from trueup.core.config import Config
from trueup.loop.config import LoopConfig
from trueup.mismatch.isolation import BASELINE, Cell, Reading
from trueup.pipeline.arm_config import AnyOptimizer
from trueup.pipeline.config import RunConfig
from trueup.rewards.config import AnyReward

CHANGED = ("reward", "world", "sampled_preferences")
"""Parts of a run that a reward model is made of."""
MAIN = "run"
"""Folder of the run that shares the baseline's reward model."""
NAME = r"^[a-z0-9][a-z0-9_]*$"


class RewardAlternative(Config):
    """Another reward model than the baseline's."""

    name: str = Field(pattern=NAME)
    """Short name; part of file names."""
    reward: AnyReward | None = None
    """What the policy is optimised against, as an arm's ``reward``; it shares the baseline's run."""
    changes: dict[str, Any] = {}
    """Values of ``run.reward``, ``run.world`` or ``run.sampled_preferences`` to replace, such as {world: {bias_strength: 0.9}}: a run of
    its own, whose prompts, demonstrations and gold must stay the same."""

    @model_validator(mode="after")
    def _changes_a_reward_model(self) -> RewardAlternative:
        if self.reward is None and not self.changes:
            raise ValueError("needs 'reward' or 'changes'")
        if set(self.changes) - set(CHANGED):
            raise ValueError(f"'changes' may hold {', '.join(CHANGED)}, got {', '.join(sorted(self.changes))}")
        return self


class OptimizerAlternative(Config):
    """Another optimizer than the baseline's."""

    name: str = Field(pattern=NAME)
    """Short name; part of file names."""
    optimizer: AnyOptimizer | None = None
    """Kind and settings; the run's if left out."""
    loop: LoopConfig | None = None
    """How steps are taken; the run's if left out."""
    prompts_per_step: int | None = Field(default=None, ge=1)
    """Prompts, or pairs, a step; the run's if left out."""

    @model_validator(mode="after")
    def _changes_an_optimizer(self) -> OptimizerAlternative:
        if self.optimizer is None and self.loop is None and self.prompts_per_step is None:
            raise ValueError("needs 'optimizer', 'loop' or 'prompts_per_step'")
        return self


class EvaluationConfig(Config):
    """What is read of the records at the first and the last checkpoint."""

    column: str = "gold"
    """Column of the records: ``gold``, or ``evaluations.<name>``."""
    prompts: str | None = None
    """Regular expression that a prompt's text must contain a match of; all test prompts if left out."""
    variant: str | None = None
    """A variant that the probes measure, such as ``greedy``; plain samples if left out."""

    @model_validator(mode="after")
    def _possible(self) -> EvaluationConfig:
        try:
            re.compile(self.prompts or "")
        except re.error as error:
            raise ValueError(f"'prompts' is no regular expression: {error}") from error
        return self

    def reading(self) -> Reading:
        """For the pure part."""
        return Reading(column=self.column, prompts=self.prompts, variant=self.variant)


class EvaluationAlternative(EvaluationConfig):
    """Another evaluation than the baseline's."""

    name: str = Field(pattern=NAME)
    """Short name."""


class IsolateConfig(Config):
    """One part is exchanged at a time, the other two held fixed."""

    run: RunConfig
    """World, SFT, reward model, optimizer, probes; its one arm is the baseline."""
    reward_models: tuple[RewardAlternative, ...] = ()
    """Alternatives of the reward model."""
    optimizers: tuple[OptimizerAlternative, ...] = ()
    """Alternatives of the optimizer."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """The baseline's evaluation."""
    evaluations: tuple[EvaluationAlternative, ...] = ()
    """Alternatives of the evaluation; they cost no training."""
    grid: bool = False
    """Train every reward model with every optimizer, so that interactions are shared among the parts (Shapley)."""

    @model_validator(mode="after")
    def _isolates(self) -> IsolateConfig:
        if self.run.world is None or self.run.policy is None:
            raise ValueError("'run' needs a world and a policy stage")
        if len(self.run.arms) != 1:
            raise ValueError(f"'run' needs one arm, the baseline; got {len(self.run.arms)}")
        names = [*(a.name for a in self.reward_models), *(a.name for a in self.optimizers), *(a.name for a in self.evaluations)]
        if not names:
            raise ValueError("needs alternatives: reward_models, optimizers or evaluations")
        if len(set(names)) < len(names) or {BASELINE, "offline"} & set(names):
            raise ValueError(f"alternatives need distinct names other than '{BASELINE}' and 'offline', got {', '.join(names)}")
        measured = {v.named() for v in self.run.probe.variants}
        for e in (self.evaluation, *self.evaluations):
            if e.variant is not None and e.variant not in measured:
                raise ValueError(
                    f"an evaluation reads variant '{e.variant}', but run.probe.variants measures {', '.join(sorted(measured)) or 'none'}"
                )
        self.runs()
        return self

    def cells(self) -> Iterator[Cell]:
        """What is trained: every pair of reward model and optimizer with the grid, else single exchanges."""
        for r in (BASELINE, *(a.name for a in self.reward_models)):
            for o in (BASELINE, *(a.name for a in self.optimizers)):
                if self.grid or BASELINE in (r, o):
                    yield Cell(reward_model=r, optimizer=o)

    def readings(self) -> dict[str, Reading]:
        """Evaluations by name."""
        return {BASELINE: self.evaluation.reading(), **{e.name: e.reading() for e in self.evaluations}}

    def folder(self, cell: Cell) -> str:
        """Which run trains a cell: that of the baseline, or that of a reward model made otherwise."""
        return f"{MAIN}-{cell.reward_model}" if self._changes(cell) else MAIN

    def runs(self) -> dict[str, RunConfig]:
        """Every run by its folder, an arm a cell.

        Raises:
            ValueError: an alternative makes no valid run.
        """
        found: dict[str, RunConfig] = {}
        for folder in dict.fromkeys(self.folder(c) for c in self.cells()):
            cells = [c for c in self.cells() if self.folder(c) == folder]
            values = self.run.model_dump(mode="json")
            _merge(values, self._changes(cells[0]))
            values["arms"] = [self._arm(c) for c in cells]
            try:
                found[folder] = RunConfig.model_validate(values)
            except ValidationError as error:
                told = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg'].removeprefix('Value error, ')}" for e in error.errors())
                raise ValueError(f"alternatives {', '.join(arm_name(c) for c in cells)}: {told}") from error
        return found

    def _reward(self, cell: Cell) -> RewardAlternative | None:
        return next((a for a in self.reward_models if a.name == cell.reward_model), None)

    def _changes(self, cell: Cell) -> dict[str, Any]:
        chosen = self._reward(cell)
        return chosen.changes if chosen else {}

    def _arm(self, cell: Cell) -> dict[str, Any]:
        values = self.run.arms[0].model_dump(mode="json") | {"name": arm_name(cell)}
        made = self._reward(cell)
        if made is not None and made.reward is not None:
            values["reward"] = made.reward.model_dump(mode="json")
        chosen = next((a for a in self.optimizers if a.name == cell.optimizer), None)
        if chosen is not None:
            values |= {k: v for k, v in chosen.model_dump(mode="json").items() if k != "name" and v is not None}
        return values


def arm_name(cell: Cell) -> str:
    """The arm that trains a cell: names of what is exchanged."""
    return "-".join(n for n in (cell.reward_model, cell.optimizer) if n != BASELINE) or BASELINE


def _merge(values: dict[str, Any], changes: Mapping[str, Any]) -> None:
    """Replace values group by group, in place; a group with another ``kind`` is replaced whole."""
    for name, new in changes.items():
        old = values.get(name)
        if isinstance(old, dict) and isinstance(new, Mapping) and new.get("kind", old.get("kind")) == old.get("kind"):
            _merge(old, new)
        else:
            values[name] = new
