"""Distribution shift: does the reward model order the current policy's replies as well as its own held-out pairs?

Two samples of one checkpoint for one prompt make a pair. Late in training they often differ less than offline pairs do, and closer
pairs are harder for any reward model; where gold is known for both, the offline accuracy is therefore also taken at the policy's own
distribution of gold gaps (post-stratification), and that drop decides. Accuracy falls in nearly every run as the easy gains are made; it
alarms unless the policy is known to have become no worse.

Series, one entry a checkpoint: ``step``; ``accuracy_fixed`` and ``accuracy_current`` on the policy's pairs, each with ``_low`` and
``_high``; ``offline_fixed`` and ``offline_current``: accuracy of the same reward model on the offline pairs; ``pairs``: pairs with a
known truth.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from pydantic import Field

from trueup.core.config import Config
from trueup.core.rng import Key
from trueup.mismatch.diagnosis import Diagnosis, not_enough, shown
from trueup.mismatch.harm import harm_of
from trueup.mismatch.pairs import Pairs, Truth, TruthSetting, common_truth, correct, offline_pairs, policy_pairs, scorer_of
from trueup.mismatch.panel import METHOD, Panel, absent_columns, curve_columns, panel_of, plain
from trueup.stats.bootstrap import DRAWS, Array, make_estimate, mean_estimate, ratio, resample_totals
from trueup.stats.estimate import Estimate

NAME = "distribution_shift"
QUESTION = "Does the reward model order the current policy's replies as well as its own held-out pairs?"

Series = Literal["fixed", "current"]


class DistributionShift(Config):
    """Thresholds of the distribution-shift diagnosis."""

    truth: TruthSetting = "auto"
    """What says which reply is better: ``labels``, ``gold``, or ``auto``: labels where both kinds of pair have them, else gold."""
    min_pairs: int = Field(default=20, ge=2)
    """Fewer pairs of either kind with a known truth are not enough data."""
    min_drop: float = Field(default=0.02, ge=0, lt=0.5)
    """A smaller drop in accuracy raises no alarm, however certain it is."""
    strata: int = Field(default=10, ge=1, le=50)
    """Bins of the absolute gold gap within which offline and policy pairs are compared; 1 compares them as they are."""
    pairs_per_stratum: int = Field(default=15, ge=1)
    """Neighbouring bins are joined until each holds this many offline pairs."""
    draws: int = Field(default=DRAWS, ge=100)
    """Bootstrap resamples."""


@dataclass(frozen=True, kw_only=True)
class _Side:
    """Judged pairs of one kind, ties and unknown ones left out."""

    prompt: Any
    correct: Array
    gap: Array


def diagnose(records: pd.DataFrame, arm: str, settings: DistributionShift, key: Key) -> Diagnosis:
    """Accuracy offline and on the policy's pairs; alarm when the drop of the reward model in force is shown and harm is not refuted.

    Args:
        records: flat frame of sample records, offline rows included.
        arm: name of the arm.
        settings: thresholds.
        key: random stream.
    """
    panel, offline = panel_of(records, arm), offline_pairs(records)
    policy = policy_pairs(panel) if panel else None
    truth = common_truth(offline, policy, settings.truth) if offline and policy else None
    if panel is None or offline is None or policy is None or truth is None:
        return not_enough("reward_policy", NAME, QUESTION, arm, _missing(panel, offline, policy))
    estimates: list[Estimate] = []
    series: dict[str, list[Any]] = {"step": panel.steps.tolist()}
    decisive: Estimate | None = None
    which: Series = "fixed"
    kinds: tuple[Series, ...] = ("fixed", "current")
    for kind in kinds:
        found, columns, drop = _compare(panel, offline, policy, kind, truth, settings, key / kind)
        estimates += found
        series |= columns
        if drop is not None:
            decisive, which = drop, kind
    step = panel.step[policy.first]
    judged = np.isfinite(policy.outcome(truth))
    series["pairs"] = np.bincount(step[judged], minlength=len(panel.steps)).tolist()
    if decisive is None:
        why = f"no reward model has scores on at least {settings.min_pairs} judged pairs of both kinds"
        return not_enough("reward_policy", NAME, QUESTION, arm, why)
    dropped = decisive.low is not None and decisive.low > 0 and (decisive.value or 0) >= settings.min_drop
    harm = harm_of(panel, key, draws=settings.draws)
    rule = (
        f"Alarm when {decisive.name} at the last checkpoint (step {panel.steps[-1]}) has an interval above 0 and is at least "
        f"{settings.min_drop:g}, unless nothing recorded as true has fallen: {shown(decisive)}. Reward model: proxy_{which}; truth: "
        f"{truth}; ties of the score count half, ties of the truth are left out. {harm.said()}"
    )
    return Diagnosis(
        link="reward_policy",
        name=NAME,
        question=QUESTION,
        arm=arm,
        verdict="alarm" if dropped and not harm.refuted else "quiet",
        rule=rule,
        estimates=tuple(estimates),
        series=series,
        samples=_misjudged(panel, policy, which, truth),
    )


def _missing(panel: Panel | None, offline: Pairs | None, policy: Pairs | None) -> str:
    if panel is None:
        return "the arm has no test rows"
    if offline is None:
        return "there are no held-out offline pairs to compare with"
    if policy is None:
        return "there is one sample a prompt and checkpoint, so the policy's replies make no pairs"
    return "no labels on both kinds of pair and no gold on both; accuracies against different truths do not compare"


def _compare(
    panel: Panel, offline: Pairs, policy: Pairs, kind: Series, truth: Truth, settings: DistributionShift, key: Key
) -> tuple[list[Estimate], dict[str, list[Any]], Estimate | None]:
    """Estimates, figure columns and the decisive drop of one proxy; the drop is None without enough judged pairs."""
    proxy, count, last = f"proxy_{kind}", len(panel.steps), len(panel.steps) - 1
    columns: dict[str, list[Any]] = {**absent_columns(f"accuracy_{kind}", count), f"offline_{kind}": [None] * count}
    scores = panel.column(proxy)
    if scores is None:
        return [], columns, None
    outcome = policy.outcome(truth)
    hit = correct(policy.difference(scores), outcome)
    cells = Panel(
        arm=panel.arm,
        rows=panel.rows,
        prompts=panel.prompts,
        steps=panel.steps,
        prompt=panel.prompt[policy.first],
        step=panel.step[policy.first],
    )
    table = cells.cells(hit)
    columns |= curve_columns(
        f"accuracy_{kind}", table.mean(), table.resampled(panel.weights(key / "curve", settings.draws)), len(panel.prompts)
    )
    sides = [_offline_side(panel, offline, proxy, s, truth) for s in range(count)]
    columns[f"offline_{kind}"] = plain(np.array([np.nan if s is None else s.correct.mean() for s in sides]))
    here = (cells.step == last) & np.isfinite(hit)
    now, own = _Side(prompt=policy.prompts()[here], correct=hit[here], gap=_gaps(policy)[here]), sides[last]
    if own is None or min(len(own.correct), len(now.correct)) < settings.min_pairs:
        return [], columns, None
    found = [
        mean_estimate(side.correct, side.prompt, f"accuracy_{name}_{kind}", "share", key / name, draws=settings.draws)
        for name, side in (("offline", own), ("policy", now))
    ]
    drops = _drops(own, now, kind, settings, key / "drop")
    return [*found, *drops], columns, drops[-1] if drops[-1].low is not None else drops[0]


def _offline_side(panel: Panel, offline: Pairs, proxy: str, step: int, truth: Truth) -> _Side | None:
    """The offline pairs as judged by the reward model behind a proxy at a checkpoint."""
    scorer = scorer_of(panel, proxy, step, offline)
    scores = offline.column(scorer.column) if scorer else offline.column(proxy) if proxy == "proxy_fixed" else None
    if scores is None:
        return None
    hit = correct(offline.difference(scores), offline.outcome(truth))
    kept = np.isfinite(hit)
    return _Side(prompt=offline.prompts()[kept], correct=hit[kept], gap=_gaps(offline)[kept]) if kept.any() else None


def _gaps(pairs: Pairs) -> Array:
    gold = pairs.column("gold")
    return np.full(len(pairs), np.nan) if gold is None else np.abs(pairs.difference(gold))


def _drops(own: _Side, now: _Side, kind: Series, settings: DistributionShift, key: Key) -> list[Estimate]:
    """Offline minus policy accuracy: plain, and with the offline pairs weighted to the policy's gold gaps.

    Offline pairs further apart than any pair of the policy have nothing to be compared with and are left out of the second.
    """
    units = min(len(np.unique(own.prompt)), len(np.unique(now.prompt)))

    def drop(name: str, own: _Side, edges: Array) -> Estimate:
        rows = [_rows(side, edges) for side in (own, now)]
        draws = _stratified(
            resample_totals(rows[0], settings.draws, key / name / 0), resample_totals(rows[1], settings.draws, key / name / 1)
        )
        value = float(_stratified(rows[0].sum(axis=0), rows[1].sum(axis=0)))
        return make_estimate(name, value, draws, units, "share", method=f"{METHOD} of both kinds of pair")

    found = [drop(f"drop_{kind}", own, np.zeros(0))]
    near = own.gap <= now.gap.max()
    if settings.strata > 1 and near.any() and np.isfinite(own.gap).all() and np.isfinite(now.gap).all():
        close = _Side(prompt=own.prompt[near], correct=own.correct[near], gap=own.gap[near])
        found.append(drop(f"drop_{kind}_equal_gap", close, _edges(close.gap, now.gap, settings)))
    return found


def _edges(own: Array, now: Array, settings: DistributionShift) -> Array:
    """Inner edges of the strata: quantiles of the policy's gaps, without those that would leave too few offline pairs on a side."""
    kept: list[float] = []
    ordered, taken = np.sort(own), 0
    for edge in np.unique(np.quantile(now, np.arange(1, settings.strata) / settings.strata)):
        below = int(np.searchsorted(ordered, edge, side="left"))
        if below - taken >= settings.pairs_per_stratum and len(ordered) - below >= settings.pairs_per_stratum:
            kept.append(float(edge))
            taken = below
    return np.array(kept)


def _rows(side: _Side, edges: Array) -> Array:
    """[C, 2 strata] Sum of hits, then number of pairs, of each prompt in each stratum."""
    strata, place = len(edges) + 1, np.searchsorted(edges, side.gap, side="right")
    code, prompts = pd.factorize(side.prompt, sort=True)
    size, where = len(prompts) * strata, code * strata + place
    parts = [np.bincount(where, weights=w, minlength=size).reshape(len(prompts), strata) for w in (side.correct, np.ones(len(place)))]
    return np.concatenate(parts, axis=1)


def _stratified(own: Array, now: Array) -> Array:
    """[..., 2 strata] totals of both sides -> difference of accuracies, each stratum weighted by its share of the policy's pairs."""
    half = own.shape[-1] // 2
    sides = [ratio(np.stack([t[..., :half], t[..., half:]], axis=-1)) for t in (own, now)]
    share = now[..., half:] / now[..., half:].sum(axis=-1, keepdims=True)
    # a stratum that the policy does not reach has weight 0; one without offline pairs leaves no comparison (NaN)
    return np.where(share > 0, share * (sides[0] - sides[1]), 0.0).sum(axis=-1)


def _misjudged(panel: Panel, policy: Pairs, kind: Series, truth: Truth, count: int = 5) -> tuple[str, ...]:
    """Replies of the last checkpoint that the reward model most wrongly preferred."""
    scores = panel.column(f"proxy_{kind}")
    if scores is None:
        return ()
    against = policy.difference(scores) * (1 - 2 * policy.outcome(truth))
    against = np.where(panel.step[policy.first] == len(panel.steps) - 1, against, np.nan)
    worst = [i for i in np.argsort(-np.nan_to_num(against, nan=-np.inf), kind="stable")[:count] if against[i] > 0]
    ids = panel.rows["sample_id"].to_numpy()
    liked = np.where(policy.difference(scores) > 0, policy.first, policy.second)
    return tuple(dict.fromkeys(str(ids[liked[i]]) for i in worst))
