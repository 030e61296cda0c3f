"""What to do: which checkpoint to keep, and whether to stop. Never decided by the proxy alone.

The checkpoint kept is the one that gained most among those that are shown to have gained over the first one. What so chosen checkpoints
are worth is told by prompts that did not choose: each half of them chooses for the other, and both are averaged. What counts as gain is
gold where it is known, else the evaluations whose better side is known, else labels that compare checkpoints with the first one; where
there is none of these, the first checkpoint is kept, since nothing but the proxy speaks for any other. Labels between other checkpoints
than the first are read by `keep_rule`, and comparisons of each checkpoint with the best one before it may stop a run by `stop_rule`.
What to do next is said by `actions`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field

from trueup.core.config import Config
from trueup.core.rng import Key
from trueup.mismatch.actions import Action, ActionSettings, advised
from trueup.mismatch.diagnosis import Diagnosis, shown
from trueup.mismatch.keep_rule import KeepRule, Kept, keep
from trueup.mismatch.pairs import labelled_pairs, wins_over_first
from trueup.mismatch.panel import METHOD, Cells, Panel, panel_of
from trueup.mismatch.policy_evaluation.tracking import Tracking
from trueup.mismatch.stop_rule import StopRule, watch
from trueup.stats.bootstrap import DRAWS, Array, cluster_weights, interval, make_estimate
from trueup.stats.estimate import Estimate

Basis = Literal["gold", "evaluations", "labels", "nothing but the proxy"]


class VerdictSettings(Config):
    """How the checkpoint to keep is chosen."""

    level: float = Field(default=0.9, gt=0, lt=1)
    """Coverage of the two-sided interval whose lower limit must be above 0 for a checkpoint to have gained."""
    min_prompts: int = Field(default=10, ge=4)
    """With fewer prompts no evidence is weighed."""
    draws: int = Field(default=DRAWS, ge=100)
    """Bootstrap resamples."""
    keep: KeepRule = KeepRule()
    """How labels between checkpoints are read; nothing is bought here."""
    stop: StopRule = StopRule()
    """When comparisons with the best checkpoint so far stop a run."""
    actions: ActionSettings = ActionSettings()
    """When something is advised."""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What to do with one arm's run."""

    keep_step: int | None
    """None only where the arm has no checkpoints."""
    stop: bool
    """Training on does harm: gold (or what stands for it) has fallen since the kept checkpoint, or over-optimisation was shown."""
    why: str
    basis: Basis
    evidence: tuple[Estimate, ...] = ()
    """``gain_of_kept`` over the first checkpoint and ``loss_after_kept`` down to the last one, from prompts that did not choose."""
    actions: tuple[Action, ...] = ()
    """What to do next, what mends most first."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for report.json."""
        return {
            "keep_step": self.keep_step,
            "stop": self.stop,
            "why": self.why,
            "basis": self.basis,
            "evidence": [e.to_dict() for e in self.evidence],
            "actions": [a.to_dict() for a in self.actions],
        }


def decide(
    records: pd.DataFrame, arm: str, diagnoses: Sequence[Diagnosis], settings: VerdictSettings, sides: Tracking, key: Key
) -> Decision:
    """Which checkpoint of an arm to keep, whether to stop, and what to do next.

    Args:
        records: flat frame of sample records.
        arm: name of the arm.
        diagnoses: of any arms; those of this one that raise alarms are named, over-optimisation stops, and actions rest on them.
        settings: how the checkpoint is chosen.
        sides: which side of an evaluation is better.
        key: random stream of the halves and the bootstrap.
    """
    panel = panel_of(records, arm)
    if panel is None:
        return Decision(keep_step=None, stop=False, why="The arm has no checkpoints.", basis="nothing but the proxy")
    alarms = [d for d in diagnoses if d.arm == arm and d.verdict == "alarm"]
    names = sorted({d.name for d in alarms})
    labels = keep(records, arm, settings.keep.model_copy(update={"budget": 0}), key / "labels")
    decision = _decided(panel, names, labels, settings, sides, key)
    watched = watch(records, arm, settings.stop)
    if watched is not None and watched.stop_step is not None:
        said = (
            f" Comparisons with the best checkpoint so far showed a worse one at step {watched.stop_step}, after {watched.stop_after} of "
            f"them (alpha {settings.stop.alpha:g}, at any look)."
        )
        decision = replace(decision, stop=True, why=decision.why + said)
    kl = panel.column_cells("kl_nats")
    levels = None if kl is None else dict(zip(panel.steps.tolist(), kl.mean().tolist(), strict=True))
    ends = [None if levels is None or not np.isfinite(levels[s]) else levels[s] for s in (decision.keep_step, int(panel.steps[-1]))]
    asked = None if decision.basis in ("gold", "evaluations") else labels
    return replace(decision, actions=advised(alarms, settings.actions, stop=decision.stop, kept_kl=ends[0], last_kl=ends[1], labels=asked))


def _decided(panel: Panel, alarms: Sequence[str], labels: Kept | None, settings: VerdictSettings, sides: Tracking, key: Key) -> Decision:
    """Keep and stop from gold, else evaluations, else labels."""
    basis, parts = _evidence(panel, sides)
    first, last = int(panel.steps[0]), int(panel.steps[-1])
    if basis not in ("gold", "evaluations") and labels is not None and _compared(panel):
        return _by_labels(labels, last, alarms)
    if not parts or len(panel.prompts) < settings.min_prompts:
        missing = (
            "neither gold, nor evaluations whose better side is known, nor labels between checkpoints" if not parts else "too few prompts"
        )
        why = f"Keep step {first}: {missing}, and the proxy alone never decides.{_named(alarms)}"
        return Decision(keep_step=first, stop="over_optimisation" in alarms, why=why, basis="nothing but the proxy")
    kept = _choose(parts, np.ones(len(panel.prompts), dtype=bool), settings, key / "choose")
    gain, loss = _worth(parts, panel.halves(key / "halves"), settings, key / "report", "score" if basis == "gold" else basis)
    fallen = loss.low is not None and loss.low > 0
    keep_step = int(panel.steps[kept])
    chosen = (
        f"it gained most in {basis} of those whose {settings.level:.0%} interval of the gain over step {first} lies above 0; on prompts "
        f"that did not choose, so chosen checkpoints gained {shown(gain)}"
        if kept
        else f"no later checkpoint is shown to gain in {basis}"
    )
    why = f"Keep step {keep_step} of {last}: {chosen}, and lay {shown(loss)} above the last one.{_named(alarms)}"
    return Decision(keep_step=keep_step, stop=fallen or "over_optimisation" in alarms, why=why, basis=basis, evidence=(gain, loss))


def _compared(panel: Panel) -> bool:
    """Whether any label is between two checkpoints after the first."""
    pairs = labelled_pairs(panel)
    if pairs is None:
        return False
    one, other = panel.step[pairs.first], panel.step[pairs.second]
    return bool(((one != other) & (np.minimum(one, other) > 0)).any())


def _by_labels(labels: Kept, last: int, alarms: Sequence[str]) -> Decision:
    """The checkpoint of the highest expected utility, given the labels and the law that utility follows in KL."""
    fallen = labels.loss.low is not None and labels.loss.low > 0
    why = (
        f"Keep step {labels.step} of {last}: the highest utility as {labels.n_labels} labels and a law of utility in KL tell it, the best "
        f"with a chance of {labels.chance:.0%}; {shown(labels.gain)} over step {labels.steps[0]}, {shown(labels.loss)} over {last}."
        f"{_named(alarms)}"
    )
    stop = fallen or "over_optimisation" in alarms
    return Decision(keep_step=labels.step, stop=stop, why=why, basis="labels", evidence=(labels.gain, labels.loss))


@dataclass(frozen=True, kw_only=True)
class _Part:
    """One series of the evidence: gain = scale * (level - level at the first checkpoint)."""

    cells: Cells
    scale: float


def _evidence(panel: Panel, sides: Tracking) -> tuple[Basis, list[_Part]]:
    gold = panel.column_cells("gold")
    if gold is not None and (gold.prompts() > 0).all():
        return "gold", [_Part(cells=gold, scale=1.0)]
    parts = []
    for name in panel.evaluations():
        side, values = sides.side(name), panel.column(f"evaluations.{name}")
        if side == 0 or values is None:
            continue
        cells, spread = panel.cells(values), float(np.nanstd(values))
        if spread > 0 and (cells.prompts() > 0).all():
            parts.append(_Part(cells=cells, scale=side / spread))
    if parts:
        return "evaluations", parts
    wins = wins_over_first(panel)
    if wins is not None:
        cells = panel.cells(wins)
        if (cells.prompts() > 0).all():
            return "labels", [_Part(cells=cells, scale=1.0)]
    return "nothing but the proxy", []


def _gains(parts: Sequence[_Part], half: NDArray[np.bool_], weights: Array) -> tuple[Array, Array]:
    """Mean gain over the parts since the first checkpoint: [S], and resampled [R, S]; weights [R, P] are 0 outside the half."""
    values = [p.scale * (p.cells.mean(half) - p.cells.mean(half)[0]) for p in parts]
    draws = []
    for p in parts:
        level = p.cells.resampled(weights)
        draws.append(p.scale * (level - level[:, :1]))
    return np.mean(values, axis=0), np.mean(draws, axis=0)


def _half_weights(half: NDArray[np.bool_], draws: int, key: Key) -> Array:
    weights = np.zeros((draws, len(half)))
    weights[:, half] = cluster_weights(int(half.sum()), draws, key)
    return weights


def _choose(parts: Sequence[_Part], half: NDArray[np.bool_], settings: VerdictSettings, key: Key) -> int:
    """Position of the checkpoint that gained most of those shown to have gained; the first one where there are none."""
    values, draws = _gains(parts, half, _half_weights(half, settings.draws, key))
    low, _ = interval(draws, int(half.sum()), settings.level)
    gained = np.where(low > 0, values, -np.inf)
    gained[0] = 0.0
    return int(np.argmax(gained))


def _worth(
    parts: Sequence[_Part], halves: Sequence[NDArray[np.bool_]], settings: VerdictSettings, key: Key, unit: str
) -> tuple[Estimate, Estimate]:
    """Gain over the first checkpoint and height above the last one, of what each half chose, measured on the other; averaged."""
    values, draws = [], []
    for i, (choosing, judging) in enumerate((halves, halves[::-1])):
        kept = _choose(parts, choosing, settings, key / "choose" / i)
        level, resampled = _gains(parts, judging, _half_weights(judging, settings.draws, key / "judge" / i))
        values.append((level[kept], level[kept] - level[-1]))
        draws.append((resampled[:, kept], resampled[:, kept] - resampled[:, -1]))
    n = sum(int(half.sum()) for half in halves)
    method = f"{METHOD}, on prompts that did not choose"
    (gain, loss), (gains, losses) = np.mean(values, axis=0), np.mean(draws, axis=0)
    return (
        make_estimate("gain_of_kept", float(gain), gains, n, unit, method=method),
        make_estimate("loss_after_kept", float(loss), losses, n, unit, method=method),
    )


def _named(alarms: Sequence[str]) -> str:
    return f" Alarms: {', '.join(alarms)}." if alarms else " No alarms."
