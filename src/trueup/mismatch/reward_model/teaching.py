"""Whether the score varies where a policy can move it: among replies to one prompt (Razin et al. 2025, arXiv:2503.15477).

A score that differs between prompts but hardly within them leaves the landscape of the objective flat, however accurate it is. Scores
are taken on the scale of the reference samples (deviation 1 over all of them), on which the KL coefficient acts.
"""

from __future__ import annotations

import numpy as np

from trueup.mismatch.diagnosis import shown
from trueup.mismatch.reward_model.question import Answer, Evidence, Question, unknown
from trueup.mismatch.reward_model.samples import POLICY, REFERENCE, grid_of
from trueup.stats.bootstrap import Array, statistic_estimate
from trueup.stats.tilting import within_variance


def answer(evidence: Evidence) -> Answer:
    """Alarm where the share of the variance within prompts is shown to be small."""
    settings = evidence.settings
    reference = grid_of(evidence.samples, REFERENCE)
    if min(reference.shape) == 0:
        return unknown("no samples of the reference policy are known; give --reference and --prompts, or --samples-file")
    rows = _sums(reference.column("score"))
    if len(rows) < settings.min_prompts:
        return unknown(f"{len(rows)} prompts have two samples or more, {settings.min_prompts} are needed")
    level = settings.one_sided
    share = statistic_estimate(rows, _share, "within_prompts", "share", evidence.key / "within", level=level)
    if share.value is None:
        return unknown("all scores are equal")
    found = [share]
    policy = grid_of(evidence.samples, POLICY)
    if min(policy.shape) > 0:
        scaled = (policy.column("score") - np.nanmean(reference.column("score"))) / np.nanstd(reference.column("score"))
        found.append(statistic_estimate(_sums(scaled), _mean, "within_prompts_policy", "variance", evidence.key / "policy"))
    flat = share.high is not None and share.high < settings.min_within_share
    rule = (
        f"{shown(share)} of the score's variance on reference samples is within prompts; "
        f"{'shown to be' if flat else 'not shown to be'} less than {settings.min_within_share:g}."
    )
    return Answer(verdict="alarm" if flat else "quiet", rule=rule, estimates=tuple(found))


def _sums(score: Array) -> Array:
    """[P', 5] of each prompt with two replies or more: variance within, 1, sum of scores, of squares, number."""
    inside = within_variance(score)
    kept = ~np.isnan(inside)
    score, inside = score[kept], inside[kept]
    count = (~np.isnan(score)).sum(axis=1)
    return np.stack([inside, np.ones(len(inside)), np.nansum(score, axis=1), np.nansum(score**2, axis=1), count], axis=1)


def _mean(totals: Array) -> Array:
    return np.asarray(totals[..., 0] / totals[..., 1])


def _share(totals: Array) -> Array:
    spread = totals[..., 3] / totals[..., 4] - (totals[..., 2] / totals[..., 4]) ** 2
    known = spread > 1e-12 * np.maximum(totals[..., 3] / totals[..., 4], 1e-300)
    return np.where(known, _mean(totals) / np.where(known, spread, 1.0), np.nan)


QUESTION = Question(
    name="teaching",
    title="Teaching",
    ask="Does its score vary where a policy can move it?",
    lede="Share of the variance of its scores on reference samples that lies within prompts; the rest lies between prompts, where no "
    "policy can go. Of the policy's samples: variance within prompts, on the same scale.",
    answer=answer,
)
