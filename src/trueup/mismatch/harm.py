"""Has the policy become worse? What a finding needs beside itself before it is an alarm.

A policy that learns leaves the data, narrows, and makes its reward model less sure, whether it gets better or worse. Such findings are
shown always, and alarm only together with a loss of what is believed true: gold where all checkpoints have it, else labels that compare
checkpoints with the first one. All diagnoses that ask do so by the same test, so that together they raise hardly more false alarms
than one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from trueup.core.rng import Key
from trueup.mismatch.diagnosis import shown
from trueup.mismatch.pairs import wins_over_first
from trueup.mismatch.panel import METHOD, Cells, Panel
from trueup.stats.bootstrap import DRAWS
from trueup.stats.estimate import Estimate
from trueup.stats.falls import fall_to_last

MIN_SHARE = 0.05
"""A fall smaller than this share of the gain before it hurts nobody."""
ROUNDING = 1e-9
"""Of the largest mean; differences within it are no fall."""


@dataclass(frozen=True, kw_only=True)
class Harm:
    """Whether the last checkpoint is worse than an earlier one."""

    basis: Literal["gold", "labels", "nothing"]
    """What was looked at; ``labels``: the win rate against the first checkpoint."""
    fall: Estimate | None
    """From the checkpoint that the last one is most surely below, simultaneous over checkpoints."""
    since: int | None
    """Step of that checkpoint."""
    shown: bool
    """The fall's interval lies above 0, and it is no small share of the gain."""

    @property
    def refuted(self) -> bool:
        """Something that would tell was recorded, and shows no harm."""
        return self.basis != "nothing" and not self.shown

    def said(self) -> str:
        """A sentence for a rule."""
        if self.fall is None:
            return "Harm: nothing recorded at all checkpoints (gold, labels against the first one) says whether it does any."
        told = "shown" if self.shown else "not shown"
        return f"Harm: {told}; {self.basis} fell by {shown(self.fall)} from step {self.since} to the last."


def harm_of(panel: Panel, key: Key, *, min_share: float = MIN_SHARE, draws: int = DRAWS) -> Harm:
    """Whether an arm's last checkpoint is shown to be worse than an earlier one.

    Args:
        panel: the arm's test rows.
        key: random stream.
        min_share: falls below this share of the gain from the first checkpoint are no harm.
        draws: resamples.
    """
    basis, cells = _truth(panel)
    if cells is None or len(panel.steps) < 2:
        return Harm(basis="nothing", fall=None, since=None, shown=False)
    values, units = cells.mean(), int(cells.prompts().min())
    found = fall_to_last(
        values, cells.resampled(panel.weights(key / "harm", draws)), units, least=ROUNDING * float(np.nanmax(np.abs(values)))
    )
    if found is None:
        return Harm(basis="nothing", fall=None, since=None, shown=False)
    gain = float(values[found.position] - values[0])
    unit = "score" if basis == "gold" else "win rate"
    fall = Estimate(
        name="harm", value=found.size, low=found.low, high=found.high, n=units, unit=unit, method=f"{METHOD}, max-t over checkpoints"
    )
    since = int(panel.steps[found.position])
    return Harm(basis=basis, fall=fall, since=since, shown=found.shown and found.size >= min_share * gain)


def _truth(panel: Panel) -> tuple[Literal["gold", "labels", "nothing"], Cells | None]:
    gold = panel.column_cells("gold")
    if gold is not None and (gold.prompts() > 0).all():
        return "gold", gold
    wins = wins_over_first(panel)
    cells = panel.cells(wins) if wins is not None else None
    if cells is not None and bool(np.all(cells.prompts() > 0)):
        return "labels", cells
    return "nothing", None
