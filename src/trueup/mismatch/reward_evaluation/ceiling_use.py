"""Ceiling use: how much of what the labels allow does the reward model in force reach on held-out pairs?

Accuracy is against the label of one annotator. The most that anything can reach lies between the agreement of two annotators and
(1 + sqrt(2 agreement - 1)) / 2 (`trueup.stats.ceilings`); accuracy near the agreement is no sign of a reward model that has nothing
left to learn. Agreement is measured on pairs that several annotators labelled, or stated in the settings. Agreement beyond chance is
reported as Krippendorff's alpha.

Two things are alarms: an accuracy above the high end of the ceiling, since only a model that has seen the labels is so good; and one
that reaches little of the signal whichever end of the ceiling holds.

Series, one entry: ``accuracy``, ``ceiling_low``, ``ceiling_high``, each with ``_low`` and ``_high``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from pydantic import Field

from trueup.core.config import Config
from trueup.core.rng import Key
from trueup.mismatch.diagnosis import Diagnosis, not_enough, shown
from trueup.mismatch.pairs import offline_pairs, scorer_of
from trueup.mismatch.panel import panel_of
from trueup.mismatch.reward_model.ceiling import VOTES, ceiling, stated_ceiling
from trueup.mismatch.reward_model.scores import checked, pairs_of
from trueup.stats.agreement import coincidence_sums, krippendorff_alpha, nominal, vote_counts
from trueup.stats.bootstrap import DRAWS, statistic_estimate
from trueup.stats.estimate import Estimate

NAME = "ceiling_use"
QUESTION = "How much of what the labels allow does the reward model reach on held-out pairs?"


class CeilingUse(Config):
    """Thresholds of the use of the ceiling."""

    agreement: float | None = Field(default=None, gt=0.5, le=1)
    """Chance that two annotators agree, where it is known from elsewhere; measured on pairs with several labels if left out."""
    min_pairs: int = Field(default=20, ge=2)
    """Fewer held-out pairs, or fewer that two annotators labelled, are not enough data."""
    min_share: float = Field(default=0.25, ge=0, lt=1)
    """Reaching less of the signal in the labels than this (upper limit, at the low end of the ceiling) is an alarm."""
    draws: int = Field(default=DRAWS, ge=100)
    """Bootstrap resamples of the agreement beyond chance."""


def diagnose(records: pd.DataFrame, arm: str, settings: CeilingUse, key: Key) -> Diagnosis:
    """Accuracy beside the ceiling; alarm when it is above what labels allow, or uses little of their signal.

    Args:
        records: flat frame of sample records, offline rows with labels included.
        arm: name of the arm; the reward model in force at its last checkpoint is judged.
        settings: thresholds.
        key: random stream.
    """
    tables = _tables(records, arm)
    if tables is None:
        why = "labels and a reward model's scores on held-out offline pairs are needed"
        return not_enough("reward_evaluation", NAME, QUESTION, arm, why)
    rows, votes, column = tables
    several = votes.groupby("item")["annotator"].nunique()
    doubly = int((several >= 2).sum())
    if several.size < settings.min_pairs or (doubly < settings.min_pairs and settings.agreement is None):
        why = (
            f"{several.size} held-out pairs have labels, {doubly} of several annotators; {settings.min_pairs} are needed, or the agreement "
            "of annotators (ceiling_use.agreement)"
        )
        return not_enough("reward_evaluation", NAME, QUESTION, arm, why)
    if doubly >= settings.min_pairs:
        found = [*ceiling(rows, votes, key / "ceiling"), _beyond_chance(votes, rows, key / "alpha", settings.draws)]
    else:
        assert settings.agreement is not None
        found = stated_ceiling(pairs_of(rows), settings.agreement, key / "ceiling")
    of = {e.name: e for e in found}
    above, reached = of["above_ceiling"], of["attainable_share_high"]
    leaked = above.low is not None and above.low > 0
    little = reached.high is not None and reached.high < settings.min_share
    names = {"accuracy": "accuracy_one_label", "ceiling_low": "ceiling_low", "ceiling_high": "ceiling_high"}
    series: dict[str, list[Any]] = {}
    for name, e in ((name, of[e]) for name, e in names.items()):
        series |= {name: [e.value], f"{name}_low": [e.low], f"{name}_high": [e.high]}
    return Diagnosis(
        link="reward_evaluation",
        name=NAME,
        question=QUESTION,
        arm=arm,
        verdict="alarm" if leaked or little else "quiet",
        rule=(
            f"Alarm when accuracy against one label lies above the high end of what labels allow a model that has not seen them (interval "
            f"of the difference above 0: {shown(above)}), or reaches less than {settings.min_share:.0%} of their signal even at the low "
            f"end (upper limit): {shown(reached)}; at the high end {shown(of['attainable_share_low'])}. Accuracy "
            f"{shown(of['accuracy_one_label'])}, ceiling between {shown(of['ceiling_low'])} and {shown(of['ceiling_high'])}. "
            f"Reward model: {column}."
        ),
        estimates=tuple(found),
        series=series,
    )


def _tables(records: pd.DataFrame, arm: str) -> tuple[pd.DataFrame, pd.DataFrame, str] | None:
    """Scores and votes of the held-out pairs as the examination of reward models reads them, and whose scores they are."""
    pairs, panel = offline_pairs(records), panel_of(records, arm)
    if pairs is None or not np.isfinite(pairs.preference).any():
        return None
    scorer = None if panel is None else scorer_of(panel, "proxy_current", len(panel.steps) - 1, pairs)
    column = scorer.column if scorer is not None else "proxy_fixed"
    score = pairs.column(column)
    if score is None:
        return None
    known = np.flatnonzero(np.isfinite(pairs.preference) & np.isfinite(pairs.difference(score)))
    if not len(known):
        return None
    first, second = pairs.first[known], pairs.second[known]
    names = [f"{i:06d}" for i in range(len(known))]
    preference = pairs.preference[known]
    ids, prompts = pairs.rows["sample_id"].to_numpy(), pairs.rows["prompt_id"].to_numpy()
    sides = [
        pd.DataFrame({"model": column, "item": names, "prompt_id": prompts[at], "reply": reply, "rating": rating, "score": score[at]})
        for reply, at, rating in ((0, first, preference), (1, second, 1 - preference))
    ]
    place = {(ids[a], ids[b]): name for a, b, name in zip(first, second, names, strict=True)}
    votes = [
        (place[pair], label["annotator"], sign * (2 * float(label["preference"]) - 1))
        for own, labels in zip(ids, pairs.rows["labels"], strict=True)
        for label in ([] if labels is None or isinstance(labels, float) else labels)
        for sign, pair in ((1, (own, label["other_sample_id"])), (-1, (label["other_sample_id"], own)))
        if pair in place
    ]
    table = pd.DataFrame(votes, columns=list(VOTES)).groupby(["item", "annotator"], as_index=False)["vote"].mean()
    return checked(pd.concat(sides, ignore_index=True)), table, column


def _beyond_chance(votes: pd.DataFrame, rows: pd.DataFrame, key: Key, draws: int) -> Estimate:
    """Krippendorff's alpha of first, second, tie; prompts resampled."""
    table = votes.pivot(index="item", columns="annotator", values="vote")
    codes = np.where(table.isna(), -1, np.sign(table.fillna(0.0)) + 1).astype(int)
    sums = coincidence_sums(vote_counts(codes, 3))
    prompt = rows.drop_duplicates("item").set_index("item")["prompt_id"].loc[table.index]
    grouped = pd.DataFrame(sums).groupby(prompt.to_numpy(), sort=True).sum().to_numpy()
    return statistic_estimate(grouped, krippendorff_alpha(nominal(3)), "krippendorff_alpha", "", key, draws=draws)
