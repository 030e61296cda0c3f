"""Shift by KL: how do the score's order, its fit and its confidence change with the distance of the replies from the reference?

Pairs of replies of one checkpoint to one prompt are binned by the mean KL of the two, quantiles over all checkpoints. In each bin, with
d and D the differences of proxy and truth within a pair:

    accuracy         share of the pairs that the proxy orders as the truth does
    r2               (sum d D)^2 / (sum d^2 sum D^2): share of gold's differences that are linear in the proxy's
    overconfidence   mean chance that sigma(d / T) gives to the side it prefers, less the accuracy; T is fitted on the nearest bin

`distribution_shift` compares with the offline pairs, checkpoint by checkpoint; here replies are compared that are equally far away.

Deviations:
1. Ties of the truth are left out; ties of the score count half. At most `max_pairs` random pairs are looked at.
2. Where no gold is recorded the truth is the label, and there is no r2. As a square, r2 is never shown to be 0: look at its size.

Series, one entry a bin, nearest first: ``kl_nats`` (mean), ``pairs``; ``accuracy``, ``r2``, ``overconfidence``, each with ``_low`` and
``_high``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field
from scipy import special

from trueup.core.config import Config
from trueup.core.rng import Key
from trueup.mismatch.diagnosis import Diagnosis, not_enough, shown
from trueup.mismatch.harm import harm_of
from trueup.mismatch.pairs import Pairs, correct, policy_pairs
from trueup.mismatch.panel import METHOD, Panel, panel_of
from trueup.stats.bootstrap import DRAWS, Array, make_estimate
from trueup.stats.calibration import fit_temperature
from trueup.stats.estimate import Estimate

NAME = "shift_by_kl"
QUESTION = "Does the score order, fit and trust replies far from the reference as it does near ones?"


class ShiftByKl(Config):
    """Thresholds of the diagnosis of the shift by KL."""

    bins: int = Field(default=5, ge=2, le=50)
    """Bins of the pairs' KL, of equal numbers as far as ties allow."""
    min_pairs: int = Field(default=50, ge=10)
    """Fewer judged pairs in the nearest or furthest bin are not enough data."""
    max_pairs: int = Field(default=200_000, ge=100)
    """Pairs that are looked at, at most."""
    draws: int = Field(default=DRAWS, ge=100)
    """Bootstrap resamples."""


def diagnose(records: pd.DataFrame, arm: str, settings: ShiftByKl, key: Key) -> Diagnosis:
    """Accuracy, fit and confidence by KL; alarm where the furthest pairs are ordered worse than by chance and the policy became worse.

    Args:
        records: flat frame of sample records.
        arm: name of the arm.
        settings: thresholds.
        key: random stream of the subsample and the bootstrap.
    """
    panel = panel_of(records, arm)
    columns = {n: panel.column(n) if panel else None for n in ("kl_nats", "proxy_current", "proxy_fixed", "gold")}
    kl, gold = columns["kl_nats"], columns["gold"]
    proxy = columns["proxy_current"] if columns["proxy_current"] is not None else columns["proxy_fixed"]
    pairs = policy_pairs(panel) if panel is not None and kl is not None and proxy is not None else None
    if panel is None or kl is None or proxy is None or pairs is None:
        why = "two replies of a prompt with a proxy, and their KL or log-probabilities of policy and reference, are needed"
        return not_enough("reward_policy", NAME, QUESTION, arm, why)
    outcome = pairs.outcome("gold" if gold is not None else "labels")
    distance = (kl[pairs.first] + kl[pairs.second]) / 2
    known = np.flatnonzero(np.isfinite(distance) & np.isfinite(outcome) & np.isfinite(pairs.difference(proxy)))
    if len(known) > settings.max_pairs:
        known = np.sort(known[(key / "pairs").permutation(len(known))[: settings.max_pairs]])
    place = _bins(distance[known], settings.bins) if len(known) else np.zeros(0, dtype=np.int64)
    sizes = np.bincount(place)
    if len(sizes) < 2 or min(sizes[0], sizes[-1]) < settings.min_pairs:
        why = f"pairs at two distances with gold or labels are needed, {settings.min_pairs} at each; there are {sizes.tolist()}"
        return not_enough("reward_policy", NAME, QUESTION, arm, why)
    kept = np.zeros(len(pairs), dtype=bool)
    kept[known] = True
    rows = _rows(panel, pairs.take(kept), proxy, gold, outcome[known], place)
    estimates, series = _measured(panel, rows, distance[known], place, settings, key)
    worst, harm = estimates["accuracy"][-1], harm_of(panel, key, draws=settings.draws)
    inverted = worst.high is not None and worst.high < 0.5
    told = "; ".join(f"{n} {shown(v[0])} near, {shown(v[-1])} far" for n, v in estimates.items())
    rule = (
        f"Alarm when the proxy orders the furthest of {len(sizes)} bins of pairs (KL about {series['kl_nats'][-1]:.3g} nats) worse than "
        f"chance, and harm is shown. {told}. {harm.said()}"
    )
    return Diagnosis(
        link="reward_policy",
        name=NAME,
        question=QUESTION,
        arm=arm,
        verdict="alarm" if inverted and harm.shown else "quiet",
        rule=rule,
        estimates=tuple(e for name in estimates for e in (estimates[name][0], estimates[name][-1])),
        series=series,
    )


def _bins(distance: Array, bins: int) -> NDArray[np.int64]:
    """[N] Bin of each pair; equal distances share one, and empty bins are left out."""
    edges = np.unique(np.quantile(distance, np.arange(1, bins) / bins))
    _, place = np.unique(np.searchsorted(edges, distance, side="left"), return_inverse=True)
    return np.asarray(place, dtype=np.int64)


def _rows(panel: Panel, pairs: Pairs, proxy: Array, gold: Array | None, outcome: Array, place: NDArray[np.int64]) -> Array:
    """[P, B, 6] Sums over each prompt's pairs in each bin: 1, hits, claimed chances, d^2, D^2, d D."""
    d = pairs.difference(proxy)
    near = place == 0
    temperature = fit_temperature(d[near], outcome[near])
    claimed = special.expit(np.abs(d) / (temperature if temperature is not None else 1.0))
    truth = pairs.difference(gold) if gold is not None else np.full(len(d), np.nan)
    terms = (np.ones(len(d)), correct(d, outcome), claimed, d**2, truth**2, d * truth)
    bins, prompts = int(place.max()) + 1, len(panel.prompts)
    code = panel.prompt[pairs.first] * bins + place
    return np.stack([np.bincount(code, weights=t, minlength=prompts * bins).reshape(prompts, bins) for t in terms], axis=2)


def _measured(
    panel: Panel, rows: Array, distance: Array, place: NDArray[np.int64], settings: ShiftByKl, key: Key
) -> tuple[dict[str, list[Estimate]], dict[str, list[Any]]]:
    weights = panel.weights(key / "prompts", settings.draws)
    bins = rows.shape[1]
    whole, drawn = _read(rows.sum(axis=0)), _read((weights @ rows.reshape(len(rows), -1)).reshape(len(weights), bins, 6))
    prompts = (rows[:, :, 0] > 0).sum(axis=0)
    places = ["near", *[f"bin_{b + 1}" for b in range(1, bins - 1)], "far"]
    estimates = {
        name: [
            make_estimate(f"{name}_{places[b]}", float(whole[i][b]), drawn[i][:, b], int(prompts[b]), "share", method=METHOD)
            for b in range(bins)
        ]
        for i, name in enumerate(("accuracy", "r2", "overconfidence"))
    }
    sizes = np.bincount(place)
    series: dict[str, list[Any]] = {"kl_nats": (np.bincount(place, weights=distance) / sizes).tolist(), "pairs": sizes.tolist()}
    for name, found in estimates.items():
        series |= {name: [e.value for e in found], f"{name}_low": [e.low for e in found], f"{name}_high": [e.high for e in found]}
    return estimates, series


def _read(totals: Array) -> tuple[Array, Array, Array]:
    """Accuracy, r2 and overconfidence from sums [..., 6]; NaN where there are no pairs, or nothing varies."""
    n, hits, claimed, dd, tt, dt = np.moveaxis(totals, -1, 0)

    def over(above: Array, below: Array) -> Array:
        return np.divide(above, below, out=np.full(below.shape, np.nan), where=below > 0)

    return over(hits, n), over(dt**2, dd * tt), over(claimed - hits, n)
