"""Which replies to show: some of every checkpoint, the ones that proxy and gold disagree about most among them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from trueup.core.rng import Key

MAX_CHARACTERS = 1500
"""Longer texts are cut in the page, saying so; the records keep all."""


@dataclass(frozen=True, kw_only=True)
class SampleTable:
    """Rows for the page, and how many there are in all."""

    rows: list[dict[str, Any]]
    total: int
    rule: str
    """How the rows were chosen, as a sentence."""


def choose_samples(
    rows: pd.DataFrame, *, limit: int, key: Key, named: Collection[str] = (), beside: pd.DataFrame | None = None
) -> SampleTable:
    """At most ``limit`` replies, the same number from each arm and checkpoint: half by the gap of proxy and gold, half at random.

    Those that a diagnosis names are shown too.

    The gap is proxy minus gold, both standardised over all checkpoint rows; where no gold is known the proxy alone is used.

    Args:
        rows: checkpoint rows of all arms.
        limit: most rows to show.
        key: stream of the random half.
        named: sample_ids that must be among them.
        beside: rows of named replies that are no plain samples of a checkpoint, such as those of the preference set.
    """
    total = len(rows)
    if total == 0:
        return SampleTable(rows=[], total=0, rule="no replies were recorded")
    if beside is not None and len(beside):
        rows = pd.concat([rows, beside.reindex(columns=rows.columns)], ignore_index=True)
    gap = _standard(rows["proxy_fixed"])
    known_gold = bool(rows["gold"].notna().any())
    if known_gold:
        gap = gap - _standard(rows["gold"])
    measure = "gap between standardised proxy and gold" if known_gold else "proxy"
    cells = list(rows[:total].groupby(["arm", "step"], sort=True).indices.items())
    quota = max(1, limit // max(1, len(cells)))
    picked: list[NDArray[np.int64]] = []
    for place, positions in cells:
        picked.append(_pick(np.asarray(positions, dtype=np.int64), gap, quota, key / str(place)))
    chosen = np.concatenate(picked)[:limit]
    chosen = np.union1d(chosen, np.flatnonzero(rows["sample_id"].astype(str).isin(set(named))))
    chosen = chosen[np.argsort(-np.nan_to_num(gap[chosen]), kind="stable")]
    rule = f"{quota} from each arm and checkpoint, half with the largest and smallest {measure}, half at random"
    rule += ", and those that a diagnosis names" if named else ""
    return SampleTable(
        rows=[_row(rows.iloc[int(i)], gap[int(i)], known_gold) for i in chosen],
        total=total,
        rule=rule if total > len(chosen) else "all of them",
    )


def _pick(positions: NDArray[np.int64], gap: NDArray[np.float64], quota: int, key: Key) -> NDArray[np.int64]:
    if len(positions) <= quota:
        return positions
    ranked = positions[np.argsort(-np.nan_to_num(gap[positions]), kind="stable")]
    top, bottom = (quota + 2) // 4, quota // 4
    middle = ranked[top : len(ranked) - bottom]
    drawn = middle[np.sort(key.permutation(len(middle))[: quota - top - bottom])]
    return np.concatenate([ranked[:top], drawn, ranked[len(ranked) - bottom :]])


def _standard(column: pd.Series) -> NDArray[np.float64]:
    values = column.to_numpy(dtype=float)
    known = values[~np.isnan(values)]
    if known.size == 0:
        return np.full(values.shape, np.nan)
    spread = float(known.std())
    return (values - float(known.mean())) / (spread if spread > 0 else 1.0)


def _row(row: pd.Series, gap: float, known_gold: bool) -> dict[str, Any]:
    return {
        "arm": str(row["arm"]),
        "step": None if pd.isna(row["step"]) else int(row["step"]),
        "prompt": _cut(str(row["prompt"])),
        "reply": _cut(str(row["response"])),
        "proxy": _number(row["proxy_fixed"]),
        "gold": _number(row["gold"]),
        "gap": _number(gap) if known_gold else None,
        "kl": _number(row["kl_nats"]),
        "id": str(row["sample_id"]),
    }


def _cut(text: str) -> str:
    return text if len(text) <= MAX_CHARACTERS else f"{text[:MAX_CHARACTERS]} … ({len(text) - MAX_CHARACTERS} more characters)"


def _number(value: Any) -> float | None:
    number = float("nan") if value is None else float(value)
    return round(number, 4) if np.isfinite(number) else None
