"""How much of what the labels allow a score reaches: its accuracy against one label, beside the best that any score can have.

The ceiling is an interval, since agreement does not say how clear the single pairs are; its lower end is the agreement itself. All
accuracies here are against the label of one annotator, ties as half a win: a majority is easier to agree with than its members are.

Deviations:
1. Intervals resample prompts only; annotators are taken as given.
2. An agreement that is stated, not measured, enters without an error of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd

from trueup.core.rng import Key
from trueup.mismatch.diagnosis import shown
from trueup.mismatch.reward_model.accuracy import sums_of
from trueup.mismatch.reward_model.question import Answer, Evidence, Question, named, unknown
from trueup.mismatch.reward_model.scores import ScoredPairs
from trueup.stats.bootstrap import LEVEL, Array, ratio, statistic_estimate
from trueup.stats.ceilings import attainable_share, lower_ceiling, power_sums, upper_ceiling
from trueup.stats.estimate import Estimate

VOTES = ("item", "annotator", "vote")
"""Columns of a table of votes: one row an annotator and item; ``vote`` is 1 for reply 0, -1 for reply 1, 0 for a tie."""


def ceiling(rows: pd.DataFrame, votes: pd.DataFrame, key: Key, alarm_level: float = LEVEL) -> list[Estimate]:
    """Accuracy and ceiling from the votes of several annotators, on the pairs that at least two of them labelled.

    Args:
        rows: scores of one model; see `trueup.mismatch.reward_model.scores`.
        votes: see `VOTES`; items that ``rows`` lacks, or that have more than two replies, are left out.
        key: random stream.
        alarm_level: coverage of ``above_ceiling``.

    Returns:
        ``accuracy_one_label``, ``ceiling_low``, ``ceiling_high``, the shares (accuracy - 1/2) / (ceiling - 1/2) at both ends,
        ``attainable_share_low`` (at the high end) and ``attainable_share_high``, ``above_ceiling`` (accuracy minus the high end), all
        resampled together, and ``annotators`` and ``labels_per_pair``; empty without such pairs.
    """
    if votes.empty:
        return []
    pair = rows.pivot(index="item", columns="reply", values="score")
    pair = pair[pair.notna().sum(axis=1) == 2].reindex(columns=[0, 1]).dropna()
    said = votes.pivot(index="item", columns="annotator", values="vote")
    said = said[said.index.isin(pair.index) & (said.notna().sum(axis=1) >= 2)].dropna(axis=1, how="all")
    if said.empty:
        return []
    pair = pair.loc[said.index]
    signs = said.to_numpy(dtype=float)
    right = (1 + np.sign(pair[0] - pair[1]).to_numpy() * np.nanmean(signs, axis=1)) / 2
    prompt = rows.drop_duplicates("item").set_index("item")["prompt_id"].loc[said.index]
    by_item = np.concatenate([right[:, None], np.ones((len(right), 1)), power_sums(signs, 2)], axis=1)
    sums = pd.DataFrame(by_item).groupby(prompt.to_numpy(), sort=True).sum().to_numpy()
    known = {"annotators": float(signs.shape[1]), "labels_per_pair": float(np.isfinite(signs).sum(1).mean())}
    return [*_estimates(sums, lambda t: ratio(t[..., 2:]), key, alarm_level), *_counts(known, len(sums))]


def stated_ceiling(pairs: ScoredPairs, agreement: float, key: Key, alarm_level: float = LEVEL) -> list[Estimate]:
    """The same where pairs have one label and the agreement of two annotators is known from elsewhere.

    Args:
        pairs: of one model; ties do not count.
        agreement: chance that two annotators prefer the same reply, above 1/2.
        key: random stream.
        alarm_level: coverage of ``above_ceiling``.

    Returns:
        what `ceiling` does, with ``agreement_stated`` in place of the counts; the ceiling itself has no interval.
    """
    rows = sums_of(pairs, np.ones(len(pairs.delta), dtype=bool))
    found = _estimates(rows, lambda t: np.full(t.shape[:-1], 2 * agreement - 1), key, alarm_level)
    fixed = [replace(e, low=None, high=None, method="stated agreement") if e.name.startswith("ceiling") else e for e in found]
    return [*fixed, *_counts({"agreement_stated": agreement}, 0)]


def _estimates(rows: Array, second: Callable[[Array], Array], key: Key, alarm_level: float) -> list[Estimate]:
    """From sums of each prompt, of which the first two columns are right answers and pairs; ``second`` is E d^2 of such sums."""

    def low(t: Array) -> Array:
        return lower_ceiling(second(t))

    def high(t: Array) -> Array:
        return upper_ceiling(second(t))

    statistics: dict[str, Callable[[Array], Array]] = {
        "accuracy_one_label": lambda t: ratio(t[..., :2]),
        "ceiling_low": low,
        "ceiling_high": high,
        "attainable_share_low": lambda t: attainable_share(ratio(t[..., :2]), high(t)),
        "attainable_share_high": lambda t: attainable_share(ratio(t[..., :2]), low(t)),
        "above_ceiling": lambda t: ratio(t[..., :2]) - high(t),
    }
    # one key: every statistic sees the same resamples
    return [
        statistic_estimate(rows, of, name, "share", key / "ceiling", level=alarm_level if name == "above_ceiling" else LEVEL)
        for name, of in statistics.items()
    ]


def _counts(known: dict[str, float], prompts: int) -> list[Estimate]:
    """Plain facts, without an interval."""
    units = {"annotators": "annotators", "labels_per_pair": "labels", "agreement_stated": "share"}
    return [Estimate(name=name, value=value, low=None, high=None, n=prompts, unit=units[name]) for name, value in known.items()]


def answer(evidence: Evidence) -> Answer:
    """Alarm where the score is shown to be more accurate than the labels allow any score that has not seen them."""
    key, level = evidence.key, 1 - 2 * (1 - evidence.settings.alarm_level)
    found = tuple(ceiling(evidence.rows, evidence.votes, key, level))
    if not found and evidence.agreement is not None:
        found = tuple(stated_ceiling(evidence.pairs, evidence.agreement, key, level))
    if not found:
        return unknown("every pair has one label, and no agreement of annotators is stated")
    of = named(found)
    low, high, above = of["attainable_share_low"], of["attainable_share_high"], of["above_ceiling"]
    if above.low is not None and above.low > 0:
        reached, most = shown(of["accuracy_one_label"]), shown(of["ceiling_high"])
        rule = f"Accuracy {reached} is above what labels that it has not seen allow, {most}."
        return Answer(verdict="alarm", rule=rule, estimates=found)
    ends = " to ".join(shown(of[name]) for name in ("ceiling_low", "ceiling_high"))
    rule = f"Reaches between {shown(low)} and {shown(high)} of the signal in the labels; the ceiling is {ends}."
    return Answer(verdict="quiet", rule=rule, estimates=found)


QUESTION = Question(
    name="ceiling",
    title="Ceiling",
    ask="How much of what the labels allow does it reach?",
    lede="Accuracy against the label of one annotator, the interval in which the best possible accuracy lies, and the share of the signal "
    "in the labels that is reached, at the high end of the ceiling (low) and at its low end (high).",
    answer=answer,
)
