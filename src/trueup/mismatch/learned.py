"""What the policy learned to say: phrases whose share of replies grew most over training, and what they are worth.

Growth is measured as in `mismatch/phrases.py`. What a phrase is worth is a contrast within prompt and checkpoint, so that neither the
drift of training nor the choice of prompts can make it.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from trueup.core.rng import Key
from trueup.mismatch.phrases import distinct, grown_phrases, presence, thinned
from trueup.stats.estimate import Estimate

MOST_REPLIES = 60_000
"""Replies read at most, of whole prompts drawn at random."""
_Z95 = 1.959963984540054


@dataclass(frozen=True, kw_only=True)
class Phrase:
    """One phrase the policy took up."""

    text: str
    first: int
    """Replies of the first checkpoint that contain it, of ``first_n``."""
    first_n: int
    last: int
    last_n: int
    log_odds: float
    """Shrunk log-odds ratio, last against first; natural logarithm."""
    z: float
    """``log_odds`` over its standard error if replies were independent: an order, not a test."""
    proxy: Estimate
    """Mean `proxy_fixed` with the phrase minus without it, same prompt and checkpoint."""
    gold: Estimate
    """The same for gold."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def within_contrast(
    present: NDArray[np.bool_], value: pd.Series, group: NDArray[np.int64], cluster: NDArray[np.int64], name: str, unit: str
) -> Estimate:
    """Mean of ``value`` with the phrase minus without it, compared inside groups only.

    The slope of ``value`` on presence after both are centred in their group; interval from the sandwich variance clustered by
    prompt (Liang & Zeger 1986), normal quantiles.

    Args:
        present: [N], the reply contains the phrase.
        value: [N], NaN where unknown; such rows are left out and counted.
        group: [N], number of the group (prompt and checkpoint).
        cluster: [N], number of the prompt.
        name: of the estimate.
        unit: of ``value``.
    """
    known = value.notna().to_numpy()
    y, x, g, c = value.to_numpy(dtype=float)[known], present[known].astype(float), group[known], cluster[known]
    missing = int((~known).sum())
    if y.size == 0:
        return Estimate(name=name, value=None, low=None, high=None, n=0, unit=unit, n_missing=missing)
    size = np.maximum(np.bincount(g), 1)
    x = x - (np.bincount(g, x) / size)[g]
    y = y - (np.bincount(g, y) / size)[g]
    varied = np.bincount(c, x * x) > 1e-12
    n, total = int(varied.sum()), float((x * x).sum())
    if n == 0:
        return Estimate(name=name, value=None, low=None, high=None, n=0, unit=unit, n_missing=missing)
    slope = float((x * y).sum() / total)
    low = high = None
    if n > 1:
        scores = np.bincount(c, x * (y - slope * x))
        half = _Z95 * math.sqrt(float((scores**2).sum()) * n / (n - 1)) / total
        low, high = slope - half, slope + half
    return Estimate(
        name=name,
        value=slope,
        low=low,
        high=high,
        n=n,
        unit=unit,
        method="within prompt and checkpoint, clustered by prompt",
        n_missing=missing,
    )


def learned_phrases(rows: pd.DataFrame, *, top: int = 12) -> list[Phrase]:
    """The phrases that grew most from an arm's first to its last checkpoint, most certain growth first.

    Args:
        rows: checkpoint rows of one arm (columns ``step, prompt_id, response, proxy_fixed, gold``).
        top: how many.
    """
    rows = thinned(rows, MOST_REPLIES, Key(0) / "learned_phrases")
    steps = sorted(rows["step"].unique())
    if len(steps) < 2:
        return []
    before, after = (rows.loc[rows["step"] == s, "response"].tolist() for s in (steps[0], steps[-1]))
    chosen = distinct(grown_phrases(before, after), top)
    if not chosen:
        return []
    found = presence(rows["response"], [g.words for g in chosen])
    cluster = pd.factorize(rows["prompt_id"])[0].astype(np.int64)
    group = rows.groupby(["step", "prompt_id"], sort=True).ngroup().to_numpy(dtype=np.int64)
    out = []
    for grown, present in zip(chosen, found.T, strict=True):
        worth = {k: within_contrast(present, rows[c], group, cluster, k, "score") for k, c in (("proxy", "proxy_fixed"), ("gold", "gold"))}
        out.append(
            Phrase(
                text=" ".join(grown.words),
                first=grown.first,
                first_n=len(before),
                last=grown.last,
                last_n=len(after),
                log_odds=grown.log_odds,
                z=grown.z,
                proxy=worth["proxy"],
                gold=worth["gold"],
            )
        )
    return out
