"""Evaluations against the score: did an evaluation get worse while the score did not?

An evaluation's curve has no interval of its own: the prompts behind a point are gone. What is asked is whether its falls are its jitter.
The statistic is the largest fall of its moving average. Its law is simulated of a curve that stays where it is, under jitter whose
neighbours correlate by ``jitter_correlation``; the size of the jitter comes from second differences, which no smooth trend enters, and a
chi-square factor carries how little is known of it. A level curve falls most easily of all that never fall, and jitter that correlates
less than is assumed is taken for larger than it is: both make alarms rarer. One p-value an evaluation, Bonferroni over all of them. With
twenty evaluations, falls from about eight standard deviations of the jitter on are seen more often than not.

Series: ``step``; ``proxy``, the mean since the evaluation before; ``evaluations.<name>``.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from trueup.core.rng import Key
from trueup.mismatch.curves_alone import table
from trueup.mismatch.curves_alone.table import METHOD, CurvesAlone
from trueup.mismatch.diagnosis import Diagnosis, not_enough, shown
from trueup.mismatch.panel import plain
from trueup.stats import rank
from trueup.stats.bootstrap import Array, block_indices, make_estimate
from trueup.stats.estimate import Estimate

NAME = "evaluation_falls"
QUESTION = "Did an evaluation get worse while the score did not?"


class Fall(NamedTuple):
    """The largest fall of a curve's moving average."""

    size: float
    first: int
    """Position of the last point of the window it falls from."""
    second: int
    """Position of the first point of the window it falls to."""
    p_value: float
    """Chance of so large a fall of a curve that stays where it is."""


def diagnose(curves: pd.DataFrame, arm: str, settings: CurvesAlone, key: Key) -> Diagnosis:
    """Alarm when an evaluation fell beyond its own jitter between two places between which the score did not fall likewise.

    Args:
        curves: a row a step, under our names.
        arm: name of the log.
        settings: thresholds, and which side of an evaluation is better.
        key: random stream.
    """
    names = [str(c) for c in curves if str(c).startswith("evaluations.") and curves[c].notna().sum() >= settings.min_evaluations]
    names = [n for n in names if len(np.unique(curves[n].dropna())) > 1]
    if not names or "proxy" not in curves:
        what = f"proxy, and an evaluation at {settings.min_evaluations} logged steps that varies, are needed"
        return not_enough("policy_evaluation", NAME, QUESTION, arm, what)
    judged = [n for n in names if side(n, settings)]
    seen, estimates, alarms = list[str](), list[Estimate](), list[str]()
    for name in names:
        steps, values = table.points(curves, name)
        near = since_last(curves["proxy"].dropna(), steps)
        estimates += _correlations(name, near, values, settings, key / name)
        if name not in judged:
            continue
        fall = largest_fall(side(name, settings) * values, settings, key / name / "fall")
        rise = _rise(curves["proxy"].dropna(), int(steps[fall.first]), int(steps[fall.second]), name, settings, key / name / "rise")
        certain = fall.p_value <= settings.error / len(judged)
        if certain and not (rise.high is not None and rise.high < 0):
            alarms.append(name)
        estimates.append(rise)
        seen.append(
            f"{name} by {fall.size:.3g} from step {steps[fall.first]} to {steps[fall.second]} (p {fall.p_value:.2g}), score {shown(rise)}"
        )
    rest = ", ".join(n for n in names if n not in judged) or "none"
    rule = (
        f"Alarm when an evaluation got worse (largest fall of its moving average, p at most {settings.error:g} over {len(judged)} of them) "
        f"while the score did not fall likewise: {'; '.join(seen) or 'none is judged'}. "
        f"Only shown, as nobody said which side is better: {rest}."
    )
    return Diagnosis(
        link="policy_evaluation",
        name=NAME,
        question=QUESTION,
        arm=arm,
        verdict="alarm" if alarms else "quiet" if judged else "not enough data",
        rule=rule,
        estimates=tuple(estimates),
        series=_series(curves, names),
    )


def side(name: str, settings: CurvesAlone) -> int:
    """+1 where higher is better, -1 where lower is, 0 where nobody said; a whole name goes before a word in it."""
    bare = name.removeprefix("evaluations.")
    for sign, known in ((1, settings.higher_is_better), (-1, settings.lower_is_better)):
        if bare in known:
            return sign
    words = f"_{re.sub(r'[/@. -]', '_', bare.lower())}_"
    for sign, known in ((-1, settings.lower_is_better), (1, settings.higher_is_better)):
        if any(f"_{word}_" in words for word in known):
            return sign
    return 0


def largest_fall(values: Array, settings: CurvesAlone, key: Key) -> Fall:
    """Where a curve falls furthest, and how surprising that is of one that stays where it is.

    Args:
        values: [n], higher is better.
        settings: how many resamples.
        key: random stream.
    """
    count, rho = len(values), settings.jitter_correlation
    width = max(1, count // 6)
    size, first, second = falls(values, width)
    bends = values[1:-1] - (values[:-2] + values[2:]) / 2
    # of jitter with variance 1 and correlations rho, rho^2 between neighbours, a bend has this variance
    scale = np.sqrt(np.mean(bends**2) / (1.5 - 2 * rho + rho**2 / 2))
    freedom = max(2.0, (count - 2) / 2)  # bends overlap: about every other one is new
    generator = key.generator()
    jitter = generator.normal(size=(settings.draws, count))
    for i in range(1, count):
        jitter[:, i] = rho * jitter[:, i - 1] + np.sqrt(1 - rho**2) * jitter[:, i]
    sizes = scale * np.sqrt(freedom / generator.chisquare(freedom, size=(settings.draws, 1)))
    reached = (falls(sizes * jitter, width)[0] >= size).sum()
    return Fall(size=float(size), first=int(first), second=int(second), p_value=float((1 + reached) / (1 + settings.draws)))


def falls(values: Array, width: int) -> tuple[Array, NDArray[np.int64], NDArray[np.int64]]:
    """Largest fall of the moving average between windows that do not overlap, over the last axis.

    Args:
        values: [..., n].
        width: points a window; at most n/2.

    Returns:
        [...] the fall, the last point of the window before, the first point of the window after.
    """
    sums = np.cumsum(np.concatenate([np.zeros((*values.shape[:-1], 1)), values], axis=-1), axis=-1)
    means = (sums[..., width:] - sums[..., :-width]) / width
    later = means[..., width:]
    best = np.maximum.accumulate(means, axis=-1)[..., : later.shape[-1]]
    drop = best - later
    at = drop.argmax(axis=-1)
    size = np.take_along_axis(drop, at[..., None], axis=-1)[..., 0]
    # the first window that reaches the best mean before that place
    reached = np.take_along_axis(best, at[..., None], axis=-1) <= means[..., : later.shape[-1]]
    return size, reached.argmax(axis=-1) + width - 1, at + width


def since_last(proxy: pd.Series, steps: NDArray[np.int64]) -> Array:
    """[n] Mean of the score over the steps since the evaluation before, up to each evaluation; NaN where none was logged.

    Args:
        proxy: by step, without gaps.
        steps: [n] of the evaluations, ascending.
    """
    at, values = proxy.index.to_numpy(dtype=np.int64), proxy.to_numpy(dtype=float)
    starts = np.concatenate([[-1], steps[:-1]])
    found = [values[(at > start) & (at <= end)] for start, end in zip(starts, steps, strict=True)]
    return np.array([part.mean() if len(part) else np.nan for part in found])


def _rise(proxy: pd.Series, first: int, second: int, name: str, settings: CurvesAlone, key: Key) -> Estimate:
    """Score around the later place less that around the earlier one: as many points each as the ends of a curve have."""
    at, values = proxy.index.to_numpy(dtype=np.int64), proxy.to_numpy(dtype=float)
    middle = (first + second) / 2
    wide = max(2, round(settings.end_share * len(values)))
    parts, draws = [], []
    for here, place in ((at <= middle, first), (at > middle, second)):
        nearest = np.argsort(np.abs(at[here] - place), kind="stable")[:wide]
        parts.append(values[here][np.sort(nearest)])
    if min(len(p) for p in parts) < 2:
        return Estimate(name=f"score_rise_{name}", value=None, low=None, high=None, n=0, unit="score", level=settings.level, method=METHOD)
    for i, part in enumerate(parts):
        draws.append(part[block_indices(len(part), table.block_of(len(part)), settings.draws, key / i)].mean(axis=1))
    blocks = max(2, min(-(-len(p) // table.block_of(len(p))) for p in parts))
    value = float(parts[1].mean() - parts[0].mean())
    return make_estimate(f"score_rise_{name}", value, draws[1] - draws[0], blocks, "score", method=METHOD, level=settings.level)


def _correlations(name: str, proxy: Array, values: Array, settings: CurvesAlone, key: Key) -> list[Estimate]:
    known = np.isfinite(proxy)
    x, y = proxy[known], values[known]
    if len(x) < settings.min_evaluations:
        return []
    places = block_indices(len(x), table.block_of(len(x)), settings.draws, key / "levels")
    blocks = max(2, -(-len(x) // table.block_of(len(x))))
    levels = make_estimate(
        f"spearman_levels_{name}",
        float(rank.spearman(x, y)),
        rank.spearman(x[places], y[places]),
        blocks,
        "",
        method=METHOD,
        level=settings.level,
    )
    return [levels, table.moves_together(f"spearman_differences_{name}", x, y, settings, key / "differences")]


def _series(curves: pd.DataFrame, names: list[str]) -> dict[str, list[int] | list[float | None]]:
    rows = curves[names].dropna(how="all")
    steps = rows.index.to_numpy(dtype=np.int64)
    proxy = since_last(curves["proxy"].dropna(), steps)
    return {"step": steps.tolist(), "proxy": plain(proxy), **{n: plain(rows[n].to_numpy(dtype=float, na_value=np.nan)) for n in names}}
