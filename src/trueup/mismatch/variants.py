"""Rows of a variant beside the plain samples of the same prompts and checkpoints; what there is, docs/records.md says.

A row that was made from a plain sample (a part of it, its paraphrase) is called after it, with ``~`` and the variant behind.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from trueup.mismatch.panel import Panel
from trueup.stats.bootstrap import Array


def variant_names(records: pd.DataFrame, arm: str) -> list[str]:
    """Variants of which an arm has rows, sorted."""
    if "variant" not in records:
        return []
    return sorted(str(v) for v in records.loc[(records["arm"] == arm) & records["step"].notna(), "variant"].dropna().unique())


def variant_panel(plain: Panel, records: pd.DataFrame, variant: str) -> Panel | None:
    """The rows of a variant on the prompts and steps of the plain samples, so that both may be resampled together.

    Rows of other prompts or steps are left out; None where nothing is left.
    """
    here = (records["arm"] == plain.arm) & (records["split"] == "test") & records["step"].notna() & (records["variant"] == variant)
    rows = records[here]
    prompt = pd.Index(plain.prompts).get_indexer(pd.Index(rows["prompt_id"].astype(object)))
    step = pd.Index(plain.steps).get_indexer(pd.Index(rows["step"].astype(np.int64)))
    kept = (prompt >= 0) & (step >= 0)
    if not kept.any():
        return None
    rows = rows[kept].assign(_prompt=prompt[kept], _step=step[kept])
    rows = rows.sort_values(["_step", "_prompt", "sample_id"], kind="stable", ignore_index=True)
    return Panel(
        arm=plain.arm,
        rows=rows.drop(columns=["_prompt", "_step"]),
        prompts=plain.prompts,
        steps=plain.steps,
        prompt=rows["_prompt"].to_numpy(dtype=np.int64),
        step=rows["_step"].to_numpy(dtype=np.int64),
    )


def recorded_steps(panel: Panel) -> NDArray[np.int64]:
    """Positions of the steps at which there are rows, ascending."""
    return np.unique(panel.step)


@dataclass(frozen=True, kw_only=True)
class Twins:
    """Rows of a variant, and the plain samples they were made from: N of each, in the same order."""

    plain: Panel
    other: Panel
    of_plain: NDArray[np.int64]
    """[N] Positions among the plain rows."""
    of_other: NDArray[np.int64]

    def values(self, column: str) -> tuple[Array, Array] | None:
        """[N], [N] a column of plain and of changed rows; None where either has none."""
        first, second = self.plain.column(column), self.other.column(column)
        return None if first is None or second is None else (first[self.of_plain], second[self.of_other])

    def panel(self) -> Panel:
        """The N pairs as rows of a panel, for `Panel.cells`."""
        return Panel(
            arm=self.plain.arm,
            rows=self.plain.rows.iloc[self.of_plain].reset_index(drop=True),
            prompts=self.plain.prompts,
            steps=self.plain.steps,
            prompt=self.plain.prompt[self.of_plain],
            step=self.plain.step[self.of_plain],
        )


def twins(plain: Panel, other: Panel) -> Twins | None:
    """Matches changed rows with the samples whose names they bear; None where none match."""
    names = pd.Index(other.rows["sample_id"].astype(str).str.rsplit("~", n=1).str[0])
    place = pd.Index(plain.rows["sample_id"].astype(str)).get_indexer(names)
    found = np.flatnonzero(place >= 0)
    return Twins(plain=plain, other=other, of_plain=place[found].astype(np.int64), of_other=found) if len(found) else None
