"""Signal: do the policy's replies still differ in score, more than the reward model doubts itself?

Three looks, at each checkpoint:

1. spread: deviation of the score within a prompt. A policy gradient is made of such differences; where they vanish nothing is learned,
   however accurate the score (Razin et al. 2025). A prompt is flat where its replies differ by less than a tenth of the first
   checkpoint's spread.
2. doubt: disagreement of an ensemble's members (or a posterior's deviation) over the spread. Above 1, what the score tells replies apart
   by is less than what its members differ by.
3. outliers: replies on which several reward models, recorded for all checkpoints, part further than on 99 % of the first checkpoint's:
   Mahalanobis distance of their scores, without the direction of largest extent, in which they agree.

Deviations:
1. InfoRM (Miao et al. 2024, 2025) looks for outliers among latent vectors, which records do not hold; scores of several reward models
   stand for them here.

Series, one entry a checkpoint: ``step``; ``spread`` (score), ``flat_share``, ``doubt``, ``outlier_share``, each with ``_low`` and
``_high``; None where it cannot be known.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from pydantic import Field

from trueup.core.config import Config
from trueup.core.rng import Key
from trueup.mismatch.diagnosis import Diagnosis, not_enough, shown
from trueup.mismatch.harm import ROUNDING, harm_of
from trueup.mismatch.panel import METHOD, Panel, absent_columns, curve_columns, panel_of
from trueup.stats.bootstrap import DRAWS, Array, make_estimate
from trueup.stats.estimate import Estimate

NAME = "signal"
QUESTION = "Do the policy's replies still differ in score, more than the reward model doubts itself?"
FLAT = 0.1
"""Of the first checkpoint's spread; replies of a flat prompt differ by less."""

Curve = tuple[Array, Array]
"""[S] values and [R, S] resamples."""


class Signal(Config):
    """Thresholds of the signal diagnosis."""

    min_prompts: int = Field(default=10, ge=4)
    """Fewer prompts with two replies at the first checkpoint are not enough data."""
    max_flat: float = Field(default=0.5, ge=0, le=1)
    """Share of flat prompts at the first checkpoint above which nothing much can be learned."""
    max_doubt: float = Field(default=1.0, gt=0)
    """Disagreement over spread."""
    max_outliers: float = Field(default=0.05, ge=0, le=1)
    """Share of replies that may lie outside; 1 % do at the first checkpoint."""
    outlier_quantile: float = Field(default=0.99, gt=0.5, lt=1)
    """Of the first checkpoint's distances, beyond which a reply is an outlier."""
    draws: int = Field(default=DRAWS, ge=100)
    """Bootstrap resamples."""


def diagnose(records: pd.DataFrame, arm: str, settings: Signal, key: Key) -> Diagnosis:
    """Spread, doubt and outliers; alarm where nothing can be learned, or where the score stopped telling and the policy became worse.

    Args:
        records: flat frame of sample records.
        arm: name of the arm.
        settings: thresholds.
        key: random stream.
    """
    panel = panel_of(records, arm)
    score = next((c for n in ("proxy_current", "proxy_fixed") if (c := panel.column(n)) is not None), None) if panel else None
    if panel is None or score is None:
        return not_enough("reward_policy", NAME, QUESTION, arm, "the arm has no test rows" if panel is None else "no proxy was recorded")
    variance = _variances(panel, score)
    prompts = int(np.isfinite(variance[:, 0]).sum())
    least = ROUNDING * float(np.nanmax(np.abs(score)))
    if prompts < settings.min_prompts or not np.nanmean(variance[:, 0]) > least**2:
        why = f"{prompts} prompts have two scored replies at the first checkpoint, {settings.min_prompts} are needed"
        return not_enough("reward_policy", NAME, QUESTION, arm, why if prompts < settings.min_prompts else "the score never differs")
    weights = panel.weights(key / "prompts", settings.draws)
    curves = _curves(panel, score, variance, weights, settings)
    series: dict[str, list[Any]] = {"step": panel.steps.tolist()}
    for name in ("spread", "flat_share", "doubt", "outlier_share"):
        series |= curve_columns(name, *curves[name], prompts) if name in curves else absent_columns(name, len(panel.steps))
    last = {n: make_estimate(f"{n}_last", float(c[0][-1]), c[1][:, -1], prompts, _UNITS[n], method=METHOD) for n, c in curves.items()}
    flat = curves["flat_share"]
    flat_first = make_estimate("flat_share_first", float(flat[0][0]), flat[1][:, 0], prompts, "share", method=METHOD)
    left = make_estimate("spread_left", *_left(curves["spread"]), prompts, "share of the first", method=METHOD)
    deaf = _above(flat_first, settings.max_flat) and not _rose(panel, weights)
    limits = {"doubt": settings.max_doubt, "outlier_share": settings.max_outliers}
    beyond = [n for n, limit in limits.items() if n in last and _above(last[n], limit)]
    harm = harm_of(panel, key, draws=settings.draws)
    told = "; ".join(f"{n.replace('_', ' ')} {shown(last[n]) if n in last else 'not recorded'}, {v:g} allowed" for n, v in limits.items())
    rule = (
        f"Alarm when more than {settings.max_flat:.0%} of the prompts are flat at the first checkpoint and the proxy does not rise "
        f"({shown(flat_first)} flat), or when at the last one doubt or outliers are beyond their limits ({told}), unless nothing "
        f"recorded as true has fallen. Spread "
        f"left: {shown(left)}. {harm.said()}"
    )
    return Diagnosis(
        link="reward_policy",
        name=NAME,
        question=QUESTION,
        arm=arm,
        verdict="alarm" if deaf or (beyond and not harm.refuted) else "quiet",
        rule=rule,
        estimates=(flat_first, left, *last.values()),
        series=series,
        samples=_doubtful(panel),
    )


_UNITS = {"spread": "score", "flat_share": "share", "doubt": "disagreement / spread", "outlier_share": "share"}


def _variances(panel: Panel, score: Array) -> Array:
    """[P, S] Variance of the score within each prompt and checkpoint, without bias; NaN for fewer than two replies."""
    cells = panel.cells(score)
    mean = np.divide(cells.sums, cells.counts, out=np.full(cells.sums.shape, np.nan), where=cells.counts > 1)
    squares = panel.cells((score - mean[panel.prompt, panel.step]) ** 2).sums
    return np.where(cells.counts > 1, squares / np.maximum(cells.counts - 1, 1), np.nan)


def _curves(panel: Panel, score: Array, variance: Array, weights: Array, settings: Signal) -> dict[str, Curve]:
    """What is known of spread, flat share, doubt and outlier share."""
    first = float(np.sqrt(np.nanmean(variance[:, 0])))
    known = np.isfinite(variance)
    mean, flat = _means(variance, known, weights), _means((variance < (FLAT * first) ** 2).astype(float), known, weights)
    found = {"spread": (np.sqrt(mean[0]), np.sqrt(mean[1])), "flat_share": flat}
    disagreement = panel.column("disagreement")
    if disagreement is not None:
        cells = panel.cells(np.where(np.isfinite(score), disagreement**2, np.nan))
        square = _divided(cells.sums.sum(axis=0), cells.counts.sum(axis=0)), _divided(weights @ cells.sums, weights @ cells.counts)
        found["doubt"] = tuple(np.sqrt(_divided(s, m)) for s, m in zip(square, mean, strict=True))  # type: ignore[assignment]
    outside = _outside(panel, settings)
    if outside is not None:
        cells = panel.cells(outside)
        found["outlier_share"] = cells.mean(), cells.resampled(weights)
    return found


def _outside(panel: Panel, settings: Signal) -> Array | None:
    """[N] 1 for replies beyond the quantile of the first checkpoint's distances; None with fewer than two different scores."""
    names = sorted(str(c) for c in panel.rows.columns if str(c).startswith("scores."))
    given = [c for n in names if (c := panel.column(n)) is not None]
    columns = [c for c in given if len(set(panel.step[np.isfinite(c)])) == len(panel.steps)]
    if len(columns) < 2:
        return None
    scores = np.stack(columns, axis=1)
    known = np.isfinite(scores).all(axis=1)
    first = known & (panel.step == 0)
    if first.sum() < 10 * len(columns):
        return None
    mean, spread = scores[first].mean(axis=0), scores[first].std(axis=0)
    scaled = (scores[:, spread > 0] - mean[spread > 0]) / spread[spread > 0]
    sizes, turned = np.linalg.eigh(np.atleast_2d(np.cov(scaled[first].T)))
    # two names for one score leave a direction without extent; along the longest a policy is meant to move
    kept = (sizes > 1e-6 * sizes.max()) & (np.arange(len(sizes)) < len(sizes) - 1)
    if not kept.any():
        return None
    distance = ((scaled @ turned[:, kept]) ** 2 / sizes[kept]).sum(axis=1)
    return np.where(known, (distance > np.quantile(distance[first], settings.outlier_quantile)).astype(float), np.nan)


def _means(values: Array, known: Array, weights: Array) -> Curve:
    """Means over the prompts that have a value, [P, S] -> [S] and [R, S]."""
    count = known.astype(float)
    total = np.where(known, values, 0.0)
    return _divided(total.sum(axis=0), count.sum(axis=0)), _divided(weights @ total, weights @ count)


def _divided(above: Array, below: Array) -> Array:
    return np.divide(above, below, out=np.full(np.shape(below), np.nan), where=below > 0)


def _left(spread: Curve) -> tuple[float, Array]:
    return float(spread[0][-1] / spread[0][0]), _divided(spread[1][:, -1], spread[1][:, 0])


def _above(estimate: Estimate, limit: float) -> bool:
    return estimate.low is not None and estimate.low > limit


def _rose(panel: Panel, weights: Array) -> bool:
    """Whether the first proxy is shown to rise from the first checkpoint to the last."""
    cells = panel.column_cells("proxy_fixed") or panel.column_cells("proxy_current")
    if cells is None:
        return False
    values, draws = cells.mean(), cells.resampled(weights)
    rise = make_estimate("rise", float(values[-1] - values[0]), draws[:, -1] - draws[:, 0], len(panel.prompts), "score", method=METHOD)
    return _above(rise, 0.0)


def _doubtful(panel: Panel, count: int = 5) -> tuple[str, ...]:
    """Replies of the last checkpoint on which the members disagree most."""
    doubt = panel.column("disagreement")
    if doubt is None:
        return ()
    here = np.flatnonzero((panel.step == len(panel.steps) - 1) & np.isfinite(doubt))
    ids = panel.rows["sample_id"].to_numpy()
    return tuple(str(ids[i]) for i in here[np.argsort(-doubt[here], kind="stable")[:count]])
