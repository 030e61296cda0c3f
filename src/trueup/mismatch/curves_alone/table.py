"""Curves as the questions read them: values at logged steps, changes between the ends, and how sure one can be of a change.

A point of a curve is the mean of one batch; its prompts and replies are gone. What can be resampled are the points: blocks of neighbours
(Kuensch 1989), within the first and the last part of a curve. Such an interval says whether this curve moved by more than its own jitter.
It says nothing of other prompts, nor of other seeds.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field

from trueup.core.config import Config
from trueup.core.rng import Key
from trueup.mismatch.panel import plain
from trueup.stats import rank
from trueup.stats.bootstrap import DRAWS, Array, block_indices, make_estimate
from trueup.stats.estimate import Estimate

METHOD = "moving-block bootstrap over logged points"
KL = ("kl_reply_nats", "kl_token_nats")


class CurvesAlone(Config):
    """Thresholds of what is asked of curves."""

    min_points: int = Field(default=20, ge=10)
    """Fewer logged points of a curve are not enough data."""
    min_evaluations: int = Field(default=10, ge=6)
    """Fewer logged points of an evaluation are not enough data."""
    jitter_correlation: float = Field(default=0.5, ge=0, lt=1)
    """Correlation between neighbouring points of an evaluation's jitter that is allowed for."""
    end_share: float = Field(default=0.2, gt=0, le=0.5)
    """Share of the points at either end whose means are compared."""
    level: float = Field(default=0.99, gt=0.5, lt=1)
    """Coverage of the intervals; wide, since several questions are asked of one log."""
    min_length_growth: float = Field(default=0.2, ge=0)
    """Growth of the replies below this share raises no alarm, however certain."""
    min_clipped: float = Field(default=0.2, ge=0, lt=1)
    """A share of cut replies below this raises no alarm."""
    min_clipped_growth: float = Field(default=0.05, ge=0, lt=1)
    """Nor does one that grew by less."""
    max_spread_left: float = Field(default=0.25, gt=0, lt=1)
    """Alarm when the spread of the score is certainly below this share of what it was."""
    max_zero_spread: float = Field(default=0.5, gt=0, lt=1)
    """Alarm when certainly more than this share of the prompts has replies that all score alike."""
    spike_deviations: float = Field(default=8.0, ge=4)
    """A spike of KL is this many robust standard deviations above its neighbours, on a logarithmic scale."""
    spike_ratio: float = Field(default=2.0, ge=1)
    """And at least so many times their median."""
    error: float = Field(default=0.05, gt=0, lt=0.5)
    """Chance of a false alarm over all evaluations of a log."""
    higher_is_better: tuple[str, ...] = ("acc", "accuracy", "correct", "exact_match", "f1", "gold", "pass", "win_rate", "score")
    """Evaluations that should not fall: those that hold one of these words, parted by / _ @ . or a dash."""
    lower_is_better: tuple[str, ...] = ("error", "hallucination", "over_refusal", "perplexity", "repetition", "toxicity")
    """Evaluations that should not rise, likewise. One in neither list is shown, and never raises an alarm."""
    draws: int = Field(default=DRAWS, ge=200)
    """Bootstrap resamples."""


def points(curves: pd.DataFrame, name: str) -> tuple[NDArray[np.int64], Array]:
    """[n] Steps and [n] values of a curve where it was logged; empty where it is absent."""
    if name not in curves:
        return np.empty(0, dtype=np.int64), np.empty(0)
    known = curves[name].dropna()
    return known.index.to_numpy(dtype=np.int64), known.to_numpy(dtype=float)


def together(curves: pd.DataFrame, *names: str) -> tuple[NDArray[np.int64], list[Array]]:
    """[n] Steps at which all of the curves were logged, and their values there."""
    if any(name not in curves for name in names):
        return np.empty(0, dtype=np.int64), [np.empty(0) for _ in names]
    known = curves[list(names)].dropna()
    return known.index.to_numpy(dtype=np.int64), [known[name].to_numpy(dtype=float) for name in names]


def kl_of(curves: pd.DataFrame) -> str | None:
    """The curve of KL from the reference that there is."""
    return next((name for name in KL if name in curves), None)


def block_of(length: int) -> int:
    """Neighbours a block: the cube root of the length, rounded up."""
    return max(1, int(np.ceil(length ** (1 / 3) - 1e-9)))


def ends(values: Array, settings: CurvesAlone, key: Key) -> tuple[Array, Array, int]:
    """Means of the first and the last part.

    Args:
        values: [n].
        settings: which part, and how many resamples.
        key: random stream.

    Returns:
        [2] means, [R, 2] resampled, and the blocks in a part, which are what is independent.
    """
    size = max(2, round(settings.end_share * len(values)))
    block = block_of(size)
    parts = [values[:size], values[-size:]]
    draws = [part[block_indices(size, block, settings.draws, key / i)].mean(axis=1) for i, part in enumerate(parts)]
    return np.array([p.mean() for p in parts]), np.stack(draws, axis=1), max(2, -(-size // block))


def change(name: str, values: Array, unit: str, settings: CurvesAlone, key: Key) -> Estimate:
    """Mean of the last part less that of the first."""
    means, draws, blocks = ends(values, settings, key)
    return make_estimate(name, means[1] - means[0], draws[:, 1] - draws[:, 0], blocks, unit, method=METHOD, level=settings.level)


def ratio(name: str, values: Array, settings: CurvesAlone, key: Key) -> Estimate:
    """Mean of the last part as a share of that of the first; absent where the first is not above 0."""
    means, draws, blocks = ends(values, settings, key)
    shares = np.divide(draws[:, 1], draws[:, 0], out=np.full(len(draws), np.nan), where=draws[:, 0] > 0)
    value = means[1] / means[0] if means[0] > 0 else np.nan
    return make_estimate(name, value, shares, blocks, "share", method=METHOD, level=settings.level)


def last_mean(name: str, values: Array, unit: str, settings: CurvesAlone, key: Key) -> Estimate:
    """Mean of the last part."""
    means, draws, blocks = ends(values, settings, key)
    return make_estimate(name, means[1], draws[:, 1], blocks, unit, method=METHOD, level=settings.level)


def moves_together(name: str, first: Array, second: Array, settings: CurvesAlone, key: Key) -> Estimate:
    """Spearman correlation of first differences: do both move at the same steps? Trends alone do not make it."""
    a, b = np.diff(first), np.diff(second)
    places = block_indices(len(a), block_of(len(a)), settings.draws, key)
    blocks = max(2, -(-len(a) // block_of(len(a))))
    draws = rank.spearman(a[places], b[places])
    return make_estimate(name, float(rank.spearman(a, b)), draws, blocks, "", method=METHOD, level=settings.level)


def above(estimate: Estimate, bound: float) -> bool:
    """Whether the whole interval lies above ``bound``."""
    return estimate.low is not None and estimate.low > bound


def columns(steps: NDArray[np.int64], **values: Array) -> dict[str, list[int] | list[float | None]]:
    """A diagnosis' series."""
    return {"step": steps.tolist(), **{name: plain(v) for name, v in values.items()}}


def needed(settings: CurvesAlone, *names: str) -> str:
    """What a question lacks, for its answer."""
    return f"{' and '.join(names)} at {settings.min_points} logged steps {'are' if len(names) > 1 else 'is'} needed"
