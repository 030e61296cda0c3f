"""Arms against arms: paired by prompt at the last checkpoint they share, and on average over all shared checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from trueup.core.rng import Key
from trueup.mismatch.panel import Panel, panel_of
from trueup.report.roles import Arm, Role
from trueup.stats.bootstrap import paired_difference
from trueup.stats.estimate import Estimate

_COLUMNS = (("gold", "score"), ("proxy_fixed", "score"), ("kl_nats", "nats"))


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """One arm minus another."""

    arm: Arm
    against: Arm
    last_step: int | None
    estimates: tuple[Estimate, ...]
    """``gold_last``, ``gold_mean``, ``proxy_fixed_last``, ``kl_nats_last``; absent columns have no estimate."""
    verdict: str
    """``higher``, ``lower``, ``no difference shown`` or ``not measured``: about gold at the last shared checkpoint."""
    rule: str

    def to_dict(self) -> dict[str, Any]:
        """Plain values for report.json."""
        return {
            "arm": self.arm.name,
            "against": self.against.name,
            "question": f"{self.arm.role} against {self.against.role}",
            "last_step": self.last_step,
            "verdict": self.verdict,
            "rule": self.rule,
            "estimates": [e.to_dict() for e in self.estimates],
        }


def contrasts(records: pd.DataFrame, arms: Sequence[Arm], key: Key) -> list[Contrast]:
    """What realignment did, against the random refit first, then against the static reward model; then the refit against the static one.

    Args:
        records: flat frame of sample records.
        arms: of the run, with their roles.
        key: random stream of the bootstrap.

    Returns:
        the contrasts whose two arms exist; several realigned arms are each compared.
    """
    def having(role: Role) -> list[Arm]:
        return [a for a in arms if a.role == role]

    static, refit = having("static")[:1], having("random refit")[:1]
    pairs = [(arm, other) for arm in having("realigned") for other in (*refit, *static)] + [(a, b) for a in refit for b in static]
    return [contrast(records, arm, other, key / arm.name / other.name) for arm, other in pairs]


def contrast(records: pd.DataFrame, arm: Arm, against: Arm, key: Key) -> Contrast:
    """``arm`` minus ``against`` on their common test prompts; the interval resamples prompts."""
    first, second = panel_of(records, arm.name), panel_of(records, against.name)
    steps = sorted({int(s) for s in first.steps} & {int(s) for s in second.steps}) if first and second else []
    if first is None or second is None or not steps:
        return Contrast(arm=arm, against=against, last_step=None, estimates=(), verdict="not measured", rule="the two arms share no checkpoint")
    estimates = []
    for column, unit in _COLUMNS:
        found = _difference(first, second, column, [steps[-1]], f"{column}_last", unit, key)
        if found is not None:
            estimates.append(found)
        if column == "gold" and found is not None and len(steps) > 1:
            mean = _difference(first, second, column, steps[1:], f"{column}_mean", unit, key)
            estimates += [mean] if mean is not None else []
    verdict, rule = _verdict(estimates[0] if estimates and estimates[0].name == "gold_last" else None)
    return Contrast(arm=arm, against=against, last_step=steps[-1], estimates=tuple(estimates), verdict=verdict, rule=rule)


def _difference(first: Panel, second: Panel, column: str, steps: Sequence[int], name: str, unit: str, key: Key) -> Estimate | None:
    sides = [_prompt_means(p, column, steps) for p in (first, second)]
    if sides[0] is None or sides[1] is None:
        return None
    return paired_difference(sides[0], sides[0].index, sides[1], sides[1].index, name, unit, key / name)


def _prompt_means(panel: Panel, column: str, steps: Sequence[int]) -> pd.Series | None:
    """Mean of each prompt over those steps, every step with the same weight."""
    values = panel.column(column)
    if values is None:
        return None
    cells = panel.cells(values)
    kept = np.isin(panel.steps, np.asarray(steps))
    counts = cells.counts[:, kept]
    means = np.divide(cells.sums[:, kept], counts, out=np.full(counts.shape, np.nan), where=counts > 0)
    return pd.Series(means.mean(axis=1), index=panel.prompts).dropna()


def _verdict(gold: Estimate | None) -> tuple[str, str]:
    if gold is None or gold.value is None:
        return "not measured", "gold is not known for both arms"
    if gold.low is None or gold.high is None:
        return "not measured", f"{gold.n} shared prompts are too few for an interval"
    rule = f"95 % interval of the paired difference in gold at the last shared checkpoint: [{gold.low:.4g}, {gold.high:.4g}]"
    if gold.excludes(0.0):
        return ("higher" if gold.value > 0 else "lower"), f"{rule} excludes 0"
    return "no difference shown", f"{rule} covers 0"
