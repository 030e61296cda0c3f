"""Whether polish decides: accuracy where right and wrong reply are equally polished, and where they are not (RM-Bench, Liu et al. 2024,
arXiv:2410.16184): normal compares equal styles, hard a plainer right reply with a more polished wrong one, easy the other way."""

from __future__ import annotations

import numpy as np

from trueup.core.rng import Key
from trueup.mismatch.diagnosis import shown
from trueup.mismatch.reward_model.accuracy import share_right, sums_of
from trueup.mismatch.reward_model.question import Answer, Evidence, Question, named, unknown
from trueup.mismatch.reward_model.scores import ScoredPairs
from trueup.stats.bootstrap import ratio, statistic_estimate
from trueup.stats.estimate import Estimate

POLISH = {"concise": 0, "detailed": 1, "markdown": 2}
"""Styles from plain to polished."""


def against_style(pairs: ScoredPairs, key: Key) -> list[Estimate]:
    """``style_easy``, ``style_normal`` and ``style_hard`` accuracy, and ``style_gap``, easy minus hard; empty where styles are unknown."""
    known = np.isin(pairs.first_style, list(POLISH)) & np.isin(pairs.second_style, list(POLISH)) & ~pairs.tied
    if not known.any():
        return []
    styled = pairs.take(known)
    first, second = (np.array([POLISH[s] for s in side]) for side in (styled.first_style, styled.second_style))
    kinds = {"style_easy": first > second, "style_normal": first == second, "style_hard": first < second}
    found = [share_right(name, styled.take(kept), key) for name, kept in kinds.items() if kept.any()]
    if kinds["style_easy"].any() and kinds["style_hard"].any():
        rows = np.concatenate([sums_of(styled, kinds["style_easy"]), sums_of(styled, kinds["style_hard"])], axis=1)
        gap = statistic_estimate(rows, lambda t: ratio(t[..., :2]) - ratio(t[..., 2:]), "style_gap", "share", key / "style_gap")
        found.append(gap)
    return found


def answer(evidence: Evidence) -> Answer:
    """Alarm where easy accuracy is shown to exceed hard accuracy by more than the threshold."""
    found = tuple(against_style(evidence.pairs, evidence.key))
    gap, least = named(found).get("style_gap"), evidence.settings.min_style_gap
    if gap is None:
        return unknown("no styles are named" if not found else "right and wrong replies never differ in style")
    alarm = gap.low is not None and gap.low > least
    rule = f"Easy minus hard accuracy {shown(gap)} is {'' if alarm else 'not shown to be '}above {least:g}."
    return Answer(verdict="alarm" if alarm else "quiet", rule=rule, estimates=found)


QUESTION = Question(
    name="style",
    title="Style",
    ask="Does it take polish for quality?",
    lede="Accuracy where the right reply is as polished as the wrong one (normal), plainer (hard), or more polished (easy).",
    answer=answer,
)
