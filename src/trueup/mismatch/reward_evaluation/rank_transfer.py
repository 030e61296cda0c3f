"""Rank transfer: which measure of a reward model, taken before its policy was optimised, orders reward models as their policies turn out?

One row is a run, or an arm with a reward model of its own. Its measures come from the offline pairs and from the replies of the first
checkpoint (`MEASURES`); its outcome is gold at the last checkpoint less gold at the first. Kendall's tau-b between a measure and the
outcome is over rows, and its interval resamples rows: prompts of one run say nothing about other reward models. With n rows the
interval of a tau near 0 is about 1.4 / sqrt(n) to either side, so fewer than 20 rows seldom tell two measures apart.

Held-out accuracy is what reward models are chosen by; an alarm says that choosing by it would have been worse than by lot.

Series, one entry a row: ``run``, ``outcome`` and each measure, None where absent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from pydantic import Field

from trueup.core.config import Config
from trueup.core.rng import Key
from trueup.mismatch.diagnosis import Diagnosis, Verdict, not_enough, shown
from trueup.mismatch.pairs import Pairs, correct, offline_pairs, policy_pairs, scorer_of
from trueup.mismatch.panel import Panel, panel_of
from trueup.stats import rank
from trueup.stats.bootstrap import DRAWS, Array, make_estimate

NAME = "rank_transfer"
QUESTION = "Which measure of a reward model orders reward models as their policies turn out?"

MEASURES = {
    "offline_accuracy": "share of held-out pairs ordered as their labels (without labels, gold) say",
    "own_accuracy": "share of pairs of the first checkpoint's replies ordered as gold says",
    "own_tau": "Kendall's tau of proxy and gold within prompts, first checkpoint",
    "spread": "standard deviation of the proxy within prompts over that among all replies, first checkpoint",
    "disagreement": "mean disagreement over the proxy's standard deviation, first checkpoint",
}
"""What is measured of a reward model; a measure that a row lacks is absent."""


class RankTransfer(Config):
    """Thresholds of the rank transfer."""

    min_runs: int = Field(default=5, ge=4)
    """Fewer runs (or arms) with an outcome are not enough data."""
    decides: str = "offline_accuracy"
    """The measure that is judged."""
    draws: int = Field(default=DRAWS, ge=100)
    """Bootstrap resamples of runs."""


@dataclass(frozen=True, kw_only=True)
class Transferred:
    """One reward model: what was measured of it, and how its policy turned out."""

    name: str
    """Run and arm."""
    measures: Mapping[str, float]
    outcome: float
    """Gold at the last checkpoint less gold at the first."""


def transferred(records: pd.DataFrame, arm: str, name: str) -> Transferred | None:
    """The row of one arm; None without gold at its first and last checkpoint, or without a proxy.

    Args:
        records: flat frame of sample records of one run, offline rows included.
        arm: name of the arm.
        name: what to call the row.
    """
    panel = panel_of(records, arm)
    gold = panel.column("gold") if panel else None
    proxy = panel.column("proxy_fixed") if panel else None
    if panel is None or gold is None or proxy is None or len(panel.steps) < 2:
        return None
    curve = panel.cells(gold).mean()
    if not np.isfinite(curve[[0, -1]]).all():
        return None
    found = {"offline_accuracy": _offline(records, panel), **_own(panel, proxy, gold)}
    return Transferred(name=name, measures={k: v for k, v in found.items() if np.isfinite(v)}, outcome=float(curve[-1] - curve[0]))


def compare(rows: Sequence[Transferred], settings: RankTransfer, key: Key, arm: str = "") -> Diagnosis:
    """Rank correlation of every measure with the outcome; ``alarm`` where that of the one that decides is below 0.

    Args:
        rows: one a reward model, from `transferred`.
        settings: which measure decides.
        key: random stream.
        arm: which arm the diagnosis is filed under.

    Returns:
        ``quiet`` where the tau of the measure that decides is shown to be above 0, ``no difference shown`` where its interval has 0.
    """
    usable = [r for r in rows if settings.decides in r.measures]
    if len(usable) < settings.min_runs:
        why = f"{len(usable)} runs or arms with '{settings.decides}' and gold at both ends; {settings.min_runs} are needed"
        return not_enough("reward_evaluation", NAME, QUESTION, arm, why)
    if len({round(r.measures[settings.decides], 12) for r in usable}) < 2:
        why = f"all {len(usable)} runs or arms have the same '{settings.decides}': they share one reward model"
        return not_enough("reward_evaluation", NAME, QUESTION, arm, why)
    estimates = []
    for name in MEASURES:
        known = [r for r in rows if name in r.measures]
        if len(known) < settings.min_runs:
            continue
        x, y = np.array([r.measures[name] for r in known]), np.array([r.outcome for r in known])
        places = (key / name).generator().integers(0, len(known), size=(settings.draws, len(known)))
        draws = rank.kendall(x[places], y[places])
        estimates.append(make_estimate(f"tau_{name}", float(rank.kendall(x, y)), draws, len(known), "tau", method="bootstrap over runs"))
    decisive = next(e for e in estimates if e.name == f"tau_{settings.decides}")
    verdict: Verdict = "no difference shown"
    if decisive.low is not None and decisive.high is not None:
        verdict = "alarm" if decisive.high < 0 else "quiet" if decisive.low > 0 else verdict
    order = sorted(estimates, key=lambda e: -(e.value if e.value is not None else -2.0))
    seen = "; ".join(f"{e.name.removeprefix('tau_')} {shown(e)} (n {e.n})" for e in order)
    return Diagnosis(
        link="reward_evaluation",
        name=NAME,
        question=QUESTION,
        arm=arm,
        verdict=verdict,
        rule=(
            f"Alarm when Kendall's tau of {settings.decides} and the gain in gold, over {len(usable)} runs or arms, has an interval below "
            f"0; quiet when above 0. Best first: {seen}."
        ),
        estimates=tuple(estimates),
        series=_series(rows),
    )


def across_arms(records: pd.DataFrame, arms: Sequence[str], settings: RankTransfer, key: Key) -> Diagnosis:
    """`compare` of the arms of one run; arms that began with one reward model have equal measures, which are ties.

    Args:
        records: flat frame of sample records of one run.
        arms: names, the baseline first; the diagnosis is filed under it.
        settings: which measure decides.
        key: random stream.
    """
    rows = [r for arm in arms if (r := transferred(records, arm, arm)) is not None]
    return compare(rows, settings, key, arms[0] if arms else "")


def _offline(records: pd.DataFrame, panel: Panel) -> float:
    """Accuracy of the reward model that the arm began with on the held-out pairs."""
    pairs = offline_pairs(records)
    if pairs is None:
        return float("nan")
    scorer = scorer_of(panel, "proxy_fixed", 0, pairs)
    score = pairs.column(scorer.column) if scorer is not None else pairs.column("proxy_fixed")
    if score is None:
        return float("nan")
    labels = bool(np.isfinite(pairs.outcome("labels")).any())
    return _mean(correct(pairs.difference(score), pairs.outcome("labels" if labels else "gold")))


def _own(panel: Panel, proxy: Array, gold: Array) -> dict[str, float]:
    """Measures on the replies of the first checkpoint."""
    here = panel.step == 0
    pairs = policy_pairs(panel)
    found = {"own_accuracy": float("nan"), "own_tau": float("nan")}
    if pairs is not None:
        pairs = pairs.take(here[pairs.first])
        found["own_accuracy"] = _mean(correct(pairs.difference(proxy), pairs.outcome("gold")))
        found["own_tau"] = _tau(pairs, proxy)
    cells = panel.cells(proxy)
    means = np.divide(cells.sums, cells.counts, out=np.zeros_like(cells.sums), where=cells.counts > 0)
    total = float(np.nanstd(proxy[here]))
    several = here & (cells.counts[panel.prompt, panel.step] > 1)
    away = (proxy - means[panel.prompt, panel.step])[several]
    found["spread"] = float(np.sqrt(np.nanmean(away**2))) / total if several.any() and total > 0 else float("nan")
    unsure = panel.column("disagreement")
    found["disagreement"] = _mean(unsure[here]) / total if unsure is not None and total > 0 else float("nan")
    return found


def _tau(pairs: Pairs, proxy: Array) -> float:
    """Mean over prompts of concordant less discordant pairs, over those that gold does not tie."""
    hit = correct(pairs.difference(proxy), pairs.outcome("gold"))
    by_prompt = pd.Series(2 * hit - 1).groupby(pairs.prompts()).mean()
    return _mean(by_prompt.to_numpy(dtype=float))


def _series(rows: Sequence[Transferred]) -> dict[str, list[Any]]:
    out: dict[str, list[Any]] = {"run": [r.name for r in rows], "outcome": [r.outcome for r in rows]}
    return out | {name: [r.measures.get(name) for r in rows] for name in MEASURES}


def _mean(values: Array) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")
