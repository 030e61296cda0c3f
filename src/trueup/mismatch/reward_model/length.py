"""Whether length passes for quality (Singhal et al. 2023, arXiv:2310.03716).

Within items only: replies to different prompts differ in length for good reasons.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from trueup.core.rng import Key
from trueup.mismatch.diagnosis import shown
from trueup.mismatch.reward_model.imprint import lean
from trueup.mismatch.reward_model.question import Answer, Evidence, Question, unknown
from trueup.mismatch.reward_model.scores import ScoredPairs
from trueup.stats.bootstrap import Array, cluster_sums, mean_estimate, statistic_estimate
from trueup.stats.estimate import Estimate

BALANCED = 0.1
"""Labels favour no length where the share of pairs in which the longer reply is better lies within 1/2 and this, interval included."""
DRAWS = 4000
"""Resamples: the intervals of alarms need thin tails."""


def length(frame: pd.DataFrame, pairs: ScoredPairs, key: Key) -> list[Estimate]:
    """How score and rating go with length; empty where lengths are unknown.

    Args:
        frame: rows of one model.
        pairs: its pairs.
        key: random stream.

    Returns:
        ``length_correlation`` (within items, score with length), ``length_correlation_labels`` (rating with length),
        ``length_partial`` (score with length given the rating), ``longer_scores_higher`` and ``longer_is_better`` (shares of pairs, the
        second by the labels), ``accuracy_longer`` and ``accuracy_shorter`` (where the better rated reply is the longer, the shorter).
    """
    if not np.isfinite(pairs.longer).any():
        return []
    sums = _within(frame)
    names = {"length_correlation": ("score", "length"), "length_correlation_labels": ("rating", "length")}
    found = [
        statistic_estimate(sums, lambda t, a=a, b=b: _pearson(t, a, b), name, "correlation", key / name)  # type: ignore[misc]
        for name, (a, b) in names.items()
    ]
    found.append(statistic_estimate(sums, _partial, "length_partial", "correlation", key / "length_partial"))
    differ = np.isfinite(pairs.longer) & (pairs.longer != 0)
    higher = (np.sign(pairs.delta) * np.sign(pairs.longer) + 1) / 2
    better = np.where(pairs.tied, np.nan, (np.sign(pairs.longer) + 1) / 2)
    for name, values, kept in (
        ("longer_scores_higher", higher, differ),
        ("longer_is_better", better, differ),
        ("accuracy_longer", pairs.correct, pairs.longer > 0),
        ("accuracy_shorter", pairs.correct, pairs.longer < 0),
    ):
        found.append(mean_estimate(values[kept], pairs.prompt[kept], name, "share", key / name))
    return found


def worse_than_chance(evidence: Evidence, found: list[Estimate]) -> Estimate | None:
    """``accuracy_longer`` or ``accuracy_shorter`` at the level of alarms, where it is shown to be below 1/2 and labels favour no side.

    A score that is right but noisy is above chance on both sides, unless the labels themselves favour the other side.
    """
    pairs, favour = evidence.pairs, next(e for e in found if e.name == "longer_is_better")
    if favour.low is None or favour.high is None or favour.low < 0.5 - BALANCED or favour.high > 0.5 + BALANCED:
        return None
    level = 1 - (1 - evidence.settings.alarm_level) / 2
    for name, kept in (("accuracy_longer", pairs.longer > 0), ("accuracy_shorter", pairs.longer < 0)):
        share = mean_estimate(pairs.correct[kept], pairs.prompt[kept], name, "share", evidence.key / name, level=level, draws=DRAWS)
        if share.high is not None and share.high < 0.5:
            return share
    return None


def answer(evidence: Evidence) -> Answer:
    """Alarm where the score pays for length what the labels do not, or is worse than chance where the better reply is the shorter."""
    found = length(evidence.rows, evidence.pairs, evidence.key)
    if not found:
        return unknown("lengths are unknown")
    settings = evidence.settings
    one = lean("length", evidence.pairs.longer, evidence.pairs, settings.alarm_level)
    estimates = (*found, *(one.estimates if one else ()))
    partial = next(e for e in found if e.name == "length_partial")
    told = f"Score and length, given the label, correlate by {shown(partial)} within prompts"
    lost = worse_than_chance(evidence, found)
    if one is not None and one.shown(settings.min_lean):
        return Answer(verdict="alarm", rule=f"{told}; {one.sentence()}", estimates=estimates)
    if lost is not None:
        side = lost.name.removeprefix("accuracy_")
        rule = f"{told}; where the better reply is the {side} one, accuracy is {shown(lost)}, though labels favour neither length."
        return Answer(verdict="alarm", rule=rule, estimates=estimates)
    return Answer(verdict="quiet", rule=f"{told}; no misjudged weight of {settings.min_lean:g} or more is shown.", estimates=estimates)


_COLUMNS = ("length", "rating", "score")
_PRODUCTS = [(a, b) for i, a in enumerate(_COLUMNS) for b in _COLUMNS[i:]]


def _within(frame: pd.DataFrame) -> Array:
    """[prompts, products] sums of products of deviations from the item's mean."""
    table = frame.rename(columns={"n_characters": "length"})
    known = table[np.isfinite(table["length"])]
    values = known[list(_COLUMNS)] - known.groupby("item")[list(_COLUMNS)].transform("mean")
    return np.stack([cluster_sums(values[a] * values[b], known["prompt_id"])[0] for a, b in _PRODUCTS], axis=1)


def _pearson(totals: Array, a: str, b: str) -> Array:
    low, high = sorted((a, b))
    size = np.sqrt(totals[..., _PRODUCTS.index((a, a))] * totals[..., _PRODUCTS.index((b, b))])
    return np.divide(totals[..., _PRODUCTS.index((low, high))], size, out=np.full(np.shape(size), np.nan), where=size > 1e-12)


def _partial(totals: Array) -> Array:
    """Correlation of score and length given the rating."""
    sl, sr, rl = (_pearson(totals, *names) for names in (("score", "length"), ("score", "rating"), ("rating", "length")))
    size = np.sqrt(np.clip((1 - sr**2) * (1 - rl**2), 0, None))
    return np.divide(sl - sr * rl, size, out=np.full(np.shape(size), np.nan), where=size > 1e-9)


QUESTION = Question(
    name="length",
    title="Length",
    ask="Does it take length for quality?",
    lede="Correlations within prompts, and how often the longer of two replies has the higher score, beside how often it is better. "
    "Imprint and debt are explained under Imprint.",
    answer=answer,
)
