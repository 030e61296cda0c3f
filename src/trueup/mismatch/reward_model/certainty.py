"""Whether sigmoid(score difference) is the chance to be preferred, before and after one temperature, and under the map kept with the model.

The temperature is fitted on one half of the prompts and judged on the other, both ways, so that nothing is judged on what it was fitted to.
Of items with several pairs one is drawn: pairs that share a reply are not independent, and the consistency band takes them to be.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from trueup.core.rng import Key
from trueup.mismatch.reward_model.question import Answer, Evidence, Question, named, unknown
from trueup.mismatch.reward_model.scores import ScoredPairs
from trueup.stats import calibration as stats
from trueup.stats.bootstrap import Array, mean_estimate
from trueup.stats.estimate import Estimate
from trueup.stats.recalibration import Calibration, fit_calibrator

LEVEL = 0.95
DIAGRAM_BINS = 8
_LEAST = 1e-6
"""An isotonic map may say 0 or 1, of which there are no log-odds."""


def certainty(pairs: ScoredPairs, key: Key, level: float = LEVEL, stored: Calibration | None = None) -> list[Estimate]:
    """Calibration of one model; ties of rating count as half a win.

    Args:
        pairs: of one model.
        key: random stream.
        level: of the consistency band.
        stored: the map kept with the model.

    Returns:
        for the scores as they are, (``_after``) divided by the temperature of the other half of the prompts, and (``_stored``) under the
        map kept with the model where there is one: ``nll``, ``brier``,
        ``ece_width`` and ``ece_mass`` (bins of equal width, of equal numbers), whose interval is the band in which calibrated scores
        of this sharpness would fall; ``reliability`` and ``resolution`` of the Brier score; and ``temperature``, fitted to all.
        Above 1 the scores are over-confident.
    """
    pairs = pairs.take(_one_an_item(pairs, key))
    outcome = np.where(pairs.tied, 0.5, 1.0)
    temperature = stats.fit_temperature(pairs.delta, outcome)
    found = _measures(pairs.delta, outcome, pairs.prompt, "", key, level)
    after = _cross_fitted(pairs, outcome, key)
    if after is not None:
        found += _measures(after, outcome, pairs.prompt, "_after", key, level)
    if stored is not None:
        found += _measures(under(stored, pairs), outcome, pairs.prompt, "_stored", key, level)
    n = len(np.unique(pairs.prompt))
    found.append(Estimate(name="temperature", value=temperature, low=None, high=None, n=n, unit="score", method="maximum likelihood"))
    return found


def answer(evidence: Evidence) -> Answer:
    """Alarm where the calibration error of what the model claims exceeds the band of calibrated scores and the threshold.

    What it claims are the chances of the map kept with it, or sigmoid(score difference) where there is none.
    """
    stored = evidence.calibration
    found = tuple(certainty(evidence.pairs, evidence.key, evidence.settings.alarm_level, stored))
    by_name = named(found)
    error, temperature = by_name["ece_mass" if stored is None else "ece_mass_stored"], by_name["temperature"].value
    if error.value is None or error.high is None:
        return unknown("there are no pairs")
    alarm = error.value > max(error.high, evidence.settings.min_calibration_error)
    told = "" if temperature is None else f" One temperature, {temperature:.3g}, fits best."
    what = "Calibration error" if stored is None else "Under the map kept with the model, calibration error"
    rule = (
        f"{what} {error.value:.3f} {'exceeds' if alarm else 'lies within'} what calibrated scores of this sharpness would show "
        f"(up to {error.high:.3f}).{told}"
    )
    series = diagram(evidence.pairs, evidence.key, stored)
    return Answer(verdict="alarm" if alarm else "quiet", rule=rule, estimates=found, series=series)


def under(stored: Calibration, pairs: ScoredPairs) -> Array:
    """[N] log-odds of the first reply under the map kept with a model; a preference for the place (Platt's intercept) cancels."""
    there, back = (np.clip(stored.probability(d, pairs.domain.tolist()), _LEAST, 1 - _LEAST) for d in (pairs.delta, -pairs.delta))
    return np.asarray((special.logit(there) - special.logit(back)) / 2)


def diagram(pairs: ScoredPairs, key: Key, stored: Calibration | None = None) -> dict[str, list[Any]]:
    """Reliability in bins of equal mass, each pair in both orders.

    Returns:
        columns ``scores`` (as it is, after temperature, under the kept map), ``forecast``, ``observed`` (shares of wins) and ``pairs``, one
        row a bin.
    """
    pairs = pairs.take(_one_an_item(pairs, key))
    outcome = np.where(pairs.tied, 0.5, 1.0)
    columns: dict[str, list[Any]] = {"scores": [], "forecast": [], "observed": [], "pairs": []}
    shown = {"as it is": pairs.delta, "after temperature": _cross_fitted(pairs, outcome, key)}
    if stored is not None:
        shown["kept map"] = under(stored, pairs)
    for label, delta in shown.items():
        if delta is None:
            continue
        table = stats.reliability(delta, outcome, DIAGRAM_BINS, "mass")
        columns["scores"] += [label] * len(table.count)
        columns["forecast"] += table.confidence.tolist()
        columns["observed"] += table.frequency.tolist()
        columns["pairs"] += table.count.astype(int).tolist()
    return columns


def _measures(delta: Array, outcome: Array, prompt: NDArray[np.str_], suffix: str, key: Key, level: float) -> list[Estimate]:
    found = [
        mean_estimate(stats.nll_nats(delta, outcome), prompt, f"nll{suffix}", "nats", key / f"nll{suffix}"),
        mean_estimate(stats.brier(delta, outcome), prompt, f"brier{suffix}", "brier", key / f"brier{suffix}"),
    ]
    n = len(np.unique(prompt))
    edges: stats.Edges
    for edges in ("width", "mass"):
        name = f"ece_{edges}{suffix}"
        band = np.quantile(stats.ece_under_calibration(delta, key / name, edges=edges), [0.0, level])
        value = stats.reliability(delta, outcome, edges=edges).ece
        found.append(
            Estimate(name=name, value=value, low=float(band[0]), high=float(band[1]), n=n, unit="share", method="consistency band")
        )
    parts = stats.murphy(delta, outcome)
    for name in ("reliability", "resolution"):
        value = float(getattr(parts, name))
        found.append(Estimate(name=f"{name}{suffix}", value=value, low=None, high=None, n=n, unit="brier", method="Murphy's decomposition"))
    return found


def _one_an_item(pairs: ScoredPairs, key: Key) -> NDArray[np.bool_]:
    """[N] one random pair of each item, an untied one where there is any."""
    rank = (key / "pairs").permutation(len(pairs.item)) + len(pairs.item) * pairs.tied
    best = np.full(int(pairs.item.max(initial=-1)) + 1, np.iinfo(np.int64).max)
    np.minimum.at(best, pairs.item, rank)
    return np.asarray(rank == best[pairs.item])


def _cross_fitted(pairs: ScoredPairs, outcome: Array, key: Key) -> Array | None:
    """[N] differences over the temperature of the half they are not in; None where one half has none."""
    names = np.unique(pairs.prompt)
    half = set(names[(key / "halves").permutation(len(names))[: len(names) // 2]].tolist())
    inside = np.array([p in half for p in pairs.prompt])
    after = np.empty_like(pairs.delta)
    for side in (inside, ~inside):
        found = fit_calibrator(pairs.delta[~side], outcome[~side], "temperature") if (~side).any() else None
        if found is None:
            return None
        after[side] = found.slope * pairs.delta[side]
    return after


QUESTION = Question(
    name="certainty",
    title="Certainty",
    ask="Do its score differences mean what they say?",
    lede="Calibration of the score differences, as they are, after one temperature fitted on the other half of the prompts, and under the "
    "map kept with the model where it has one. Brackets of an ECE are the band of calibrated scores, not an interval.",
    answer=answer,
)
