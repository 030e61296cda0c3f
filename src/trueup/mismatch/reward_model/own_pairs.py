"""Accuracy on pairs of a policy's own replies, beside that on the reference's and on the judged data.

With gold every pair of samples of a prompt counts, and prompts count the same. With comparisons the labelled pairs count, each divided by
the probability of its choice. Pairs whose truth is a tie are left out; equal scores count as half.
"""

from __future__ import annotations

import numpy as np

from trueup.mismatch.diagnosis import shown
from trueup.mismatch.reward_model.accuracy import sums_of
from trueup.mismatch.reward_model.question import Answer, Evidence, Question, unknown
from trueup.mismatch.reward_model.samples import POLICY, REFERENCE, Grid, compared_of, grid_of
from trueup.stats.bootstrap import Array, ratio, statistic_estimate, unpaired_difference
from trueup.stats.estimate import Estimate


def answer(evidence: Evidence) -> Answer:
    """Alarm where the policy's own pairs are shown to be ordered worse than by chance, or much worse than the reference's."""
    settings, key = evidence.settings, evidence.key
    level = settings.one_sided
    policy, reference = grid_of(evidence.samples, POLICY), grid_of(evidence.samples, REFERENCE)
    own, kind = own_sums(policy, evidence, POLICY)
    if len(own) < settings.min_prompts:
        return unknown(
            f"{len(own)} prompts have pairs of the policy's own replies with gold or comparisons, {settings.min_prompts} are needed"
        )
    accuracy = statistic_estimate(own, ratio, "accuracy_policy", "share", key / "policy", level=level)
    found = [accuracy]
    before, before_kind = own_sums(reference, evidence, REFERENCE)
    drop: Estimate | None = None
    if len(before) >= settings.min_prompts and before_kind == kind:
        found.append(statistic_estimate(before, ratio, "accuracy_reference", "share", key / "reference"))
        drop = unpaired_difference(before, own, ratio, "drop", "share", key / "drop", level=level)
        found.append(drop)
    if kind == "comparisons":
        judged = sums_of(evidence.pairs, np.ones(len(evidence.pairs.delta), dtype=bool))
        found.append(unpaired_difference(judged, own, ratio, "drop_from_judged", "share", key / "judged"))
    below = accuracy.high is not None and accuracy.high < 0.5
    fell = drop is not None and drop.low is not None and drop.low > settings.min_own_drop
    told = f" Drop from the reference's pairs {shown(drop)}." if drop is not None else ""
    rule = f"Accuracy {shown(accuracy)} on the policy's own pairs (by {kind}).{told}"
    if below or fell:
        return Answer(verdict="alarm", rule=rule, estimates=tuple(found))
    clear = accuracy.low is not None and accuracy.low > 0.5
    return Answer(verdict="quiet" if clear else "no difference shown", rule=rule, estimates=tuple(found))


def own_sums(grid: Grid, evidence: Evidence, policy: str) -> tuple[Array, str]:
    """[P, 2] weighted wins and weights of each prompt that has pairs, and what they were judged by."""
    if min(grid.shape) == 0:
        return np.zeros((0, 2)), ""
    score = grid.column("score")
    if "gold" in grid.rows and grid.rows["gold"].notna().any():
        return _by_gold(score, grid.column("gold")), "gold"
    compared = compared_of(evidence.comparisons, grid, policy)
    if compared is None:
        return np.zeros((0, 2)), ""
    kept = compared.outcome != 0.5
    gap = score[compared.prompt, compared.first] - score[compared.prompt, compared.second]
    won = np.where(gap == 0, 0.5, np.where(gap > 0, compared.outcome, 1 - compared.outcome))
    weight = np.where(kept, 1 / compared.probability, 0.0)
    sums: Array = np.zeros((len(score), 2))
    np.add.at(sums, compared.prompt, np.stack([won * weight, weight], axis=1))
    return sums[sums[:, 1] > 0], "comparisons"


def _by_gold(score: Array, gold: Array) -> Array:
    rows, columns = np.triu_indices(score.shape[1], 1)
    truth = np.sign(gold[:, rows] - gold[:, columns])
    said = np.sign(score[:, rows] - score[:, columns])
    kept = np.isfinite(truth) & np.isfinite(said) & (truth != 0)
    right = np.where(kept, (np.nan_to_num(truth * said) + 1) / 2, 0.0)
    count = kept.sum(axis=1)
    sums = np.stack([right.sum(axis=1) / np.maximum(count, 1), np.ones(len(count))], axis=1)
    return sums[count > 0]


QUESTION = Question(
    name="own_pairs",
    title="Own pairs",
    ask="Does it still order the replies of the policy that learned from it?",
    lede="Accuracy on pairs of the policy's own replies, by gold where it is known, else by comparisons; beside it that on pairs of the "
    "reference's replies, and what was lost from the judged data.",
    answer=answer,
)
