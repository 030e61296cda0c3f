"""Realignment: is the policy better for having its reward model refitted, compared with another arm at the same prompts and steps?

The honest baseline of FRFT is a refit on as many random pairs (the same compute, no alignment), then the static reward model. All
differences are paired by prompt. An interval over prompts of one run says nothing about other seeds; the rule repeats this.

Series, one entry a checkpoint that both arms have: ``step``; ``gold_arm``, ``gold_baseline``, ``kl_arm``, ``kl_baseline``;
``difference`` with ``_low`` and ``_high``.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pandas as pd
from pydantic import Field

from trueup.core.config import Config
from trueup.core.rng import Key
from trueup.mismatch.diagnosis import Diagnosis, Verdict, not_enough, shown
from trueup.mismatch.panel import METHOD, Cells, Panel, curve_columns, panel_of, plain
from trueup.stats.bootstrap import DRAWS, Array, cluster_weights, make_estimate
from trueup.stats.estimate import Estimate

NAME = "realignment"

Deciding = Literal["gold_at_last", "gold_after_refit", "gold_at_equal_kl"]


class Realignment(Config):
    """How two arms are compared."""

    decides: Deciding = "gold_after_refit"
    """Which difference gives the verdict: at the last checkpoint, averaged over the checkpoints after the first refit, or at equal KL."""
    first_refit_step: int | None = Field(default=None, ge=0)
    """Step of the first refit; if left out, read from the records: where `proxy_current` first differs from `proxy_fixed`."""
    min_prompts: int = Field(default=10, ge=2)
    """Fewer common prompts are not enough data."""
    kl_points: int = Field(default=50, ge=2, le=1000)
    """Places in the common KL range at which the arms are compared by interpolation."""
    draws: int = Field(default=DRAWS, ge=100)
    """Bootstrap resamples."""


def compare(records: pd.DataFrame, arm: str, baseline: str, settings: Realignment, key: Key) -> Diagnosis:
    """Gold of an arm minus gold of a baseline; ``no difference shown`` where the interval covers 0, ``alarm`` where the arm is worse.

    Args:
        records: flat frame of sample records.
        arm: name of the arm, such as the FRFT one; the diagnosis is filed under it.
        baseline: name of the arm to compare with.
        settings: which difference decides.
        key: random stream.
    """
    question = f"Is {arm} better than {baseline} by gold?"
    panels = [panel_of(records, name) for name in (arm, baseline)]
    first, second = panels
    if first is None or second is None:
        return not_enough("reward_policy", NAME, question, arm, "one of the arms has no test rows")
    prompts, steps = np.intersect1d(first.prompts, second.prompts), np.intersect1d(first.steps, second.steps)
    golds = [_common(p, "gold", prompts, steps) for p in (first, second)]
    if golds[0] is None or golds[1] is None or not len(steps) or len(prompts) < settings.min_prompts:
        needed = f"gold at common checkpoints of at least {settings.min_prompts} common prompts is needed"
        what = f"{needed}; {len(prompts)} prompts and {len(steps)} steps are common"
        return not_enough("reward_policy", NAME, question, arm, what)
    weights = cluster_weights(len(prompts), settings.draws, key / "prompts")
    curves = [(g.mean(), g.resampled(weights)) for g in golds if g is not None]
    difference, draws = curves[0][0] - curves[1][0], curves[0][1] - curves[1][1]
    refit = settings.first_refit_step if settings.first_refit_step is not None else first_refit(first)
    after = steps > refit if refit is not None and (steps > refit).any() else steps > steps[0] if len(steps) > 1 else steps >= steps[0]
    n = len(prompts)
    estimates = [
        make_estimate("gold_at_last", float(difference[-1]), draws[:, -1], n, "score", method=f"paired {METHOD}"),
        make_estimate(
            "gold_after_refit", float(difference[after].mean()), draws[:, after].mean(axis=1), n, "score", method=f"paired {METHOD}"
        ),
    ]
    kls = [_common(p, "kl_nats", prompts, steps) for p in (first, second)]
    if kls[0] is not None and kls[1] is not None:
        estimates.append(_equal_kl([k for k in kls if k is not None], curves, weights, n, settings))
    decisive = next((e for e in estimates if e.name == settings.decides), estimates[1])
    verdict = _verdict(decisive)
    return Diagnosis(
        link="reward_policy",
        name=NAME,
        question=question,
        arm=arm,
        verdict=verdict,
        rule=_rule(decisive, verdict, baseline, refit, estimates),
        estimates=tuple(estimates),
        series={
            "step": steps.tolist(),
            "gold_arm": plain(curves[0][0]),
            "gold_baseline": plain(curves[1][0]),
            **{f"kl_{side}": plain(k.mean()) if k else [None] * len(steps) for side, k in zip(("arm", "baseline"), kls, strict=True)},
            **curve_columns("difference", difference, draws, n),
        },
    )


def first_refit(panel: Panel) -> int | None:
    """The first checkpoint at which another reward model than the first is in force; None where there is none or it cannot be told."""
    fixed, current = panel.column("proxy_fixed"), panel.column("proxy_current")
    if fixed is None or current is None:
        return None
    changed = np.abs(current - fixed) > 1e-6 * np.nanstd(fixed)
    return int(panel.steps[panel.step[changed].min()]) if changed.any() else None


def _common(panel: Panel, column: str, prompts: Any, steps: Any) -> Cells | None:
    """Cells of the common prompts and steps; None where the column is absent or a step has nothing."""
    cells = panel.column_cells(column)
    if cells is None:
        return None
    place = np.ix_(np.isin(panel.prompts, prompts), np.isin(panel.steps, steps))
    kept = Cells(sums=cells.sums[place], counts=cells.counts[place])
    return kept if (kept.prompts() > 0).all() else None


def _equal_kl(kls: list[Cells], golds: list[tuple[Array, Array]], weights: Array, n: int, settings: Realignment) -> Estimate:
    """Mean difference of gold over the KL range that both arms cover, gold read between checkpoints by linear interpolation."""

    def mean_difference(kl: tuple[Array, Array], gold: tuple[Array, Array]) -> float:
        low, high = max(k.min() for k in kl), min(k.max() for k in kl)
        if not high > low:
            return float("nan")
        grid = np.linspace(low, high, settings.kl_points)
        orders = [np.argsort(k, kind="stable") for k in kl]
        read = [np.interp(grid, k[o], g[o]) for k, g, o in zip(kl, gold, orders, strict=True)]
        return float((read[0] - read[1]).mean())

    means, resampled = [k.mean() for k in kls], [k.resampled(weights) for k in kls]
    value = mean_difference((means[0], means[1]), (golds[0][0], golds[1][0]))
    draws = [mean_difference((resampled[0][r], resampled[1][r]), (golds[0][1][r], golds[1][1][r])) for r in range(len(weights))]
    return make_estimate("gold_at_equal_kl", value, np.array(draws), n, "score", method=f"paired {METHOD}, linear in KL")


def _verdict(decisive: Estimate) -> Verdict:
    if decisive.low is None or decisive.high is None:
        return "not enough data"
    if decisive.high < 0:
        return "alarm"
    return "quiet" if decisive.low > 0 else "no difference shown"


def _rule(decisive: Estimate, verdict: Verdict, baseline: str, refit: int | None, estimates: list[Estimate]) -> str:
    told = {
        "alarm": "worse than",
        "quiet": "better than",
        "no difference shown": "not shown to differ from",
        "not enough data": "not comparable with",
    }
    since = f"first refit at step {refit}" if refit is not None else "no refit seen in this arm"
    numbers = ", ".join(f"{e.name} {shown(e)}" for e in estimates)
    return (
        f"{told[verdict].capitalize()} {baseline}: decided by {decisive.name}, whose interval must exclude 0 ({numbers}; {since}). "
        f"Paired by prompt within one run: variation between seeds is not in the interval."
    )
