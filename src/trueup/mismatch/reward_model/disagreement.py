"""Whether the members of an ensemble part on the policy's replies: each on the scale of the reference samples, deviation at a reply."""

from __future__ import annotations

import numpy as np

from trueup.mismatch.diagnosis import shown
from trueup.mismatch.reward_model.question import Answer, Evidence, Question, unknown
from trueup.mismatch.reward_model.samples import MEMBER, POLICY, REFERENCE, grid_of
from trueup.stats.bootstrap import Array, ratio, statistic_estimate, unpaired_difference


def answer(evidence: Evidence) -> Answer:
    """Alarm where members disagree much more on the policy's replies than on the reference's."""
    settings, key = evidence.settings, evidence.key
    before, after = grid_of(evidence.samples, REFERENCE), grid_of(evidence.samples, POLICY)
    members = before.columns(MEMBER) if min(before.shape) else {}
    if len(members) < 2:
        return unknown("no scores of several members on samples of the reference are known")
    scale = {n: (float(np.nanmean(v)), float(np.nanstd(v))) for n, v in members.items() if np.nanstd(v) > 0}
    first = _sums(members, scale)
    found = [statistic_estimate(first, ratio, "disagreement_reference", "sd", key / "reference")]
    if min(after.shape) == 0:
        return Answer(verdict="not enough data", rule="Not enough data: no samples of the policy are known.", estimates=tuple(found))
    second = _sums(after.columns(MEMBER), scale)
    if min(len(first), len(second)) < settings.min_prompts:
        return unknown(f"{min(len(first), len(second))} prompts have scores of members, {settings.min_prompts} are needed")
    found.append(statistic_estimate(second, ratio, "disagreement_policy", "sd", key / "policy"))
    level = settings.one_sided
    growth = unpaired_difference(second, first, lambda t: np.log(ratio(t)), "disagreement_growth", "log ratio", key / "growth", level=level)
    found.append(growth)
    limit = float(np.log(settings.max_disagreement))
    alarm = growth.low is not None and growth.low > limit
    rule = f"Logarithm of the disagreement on the policy's replies over that on the reference's: {shown(growth)}; {limit:.2f} is allowed."
    return Answer(verdict="alarm" if alarm else "quiet", rule=rule, estimates=tuple(found))


def _sums(members: dict[str, Array], scale: dict[str, tuple[float, float]]) -> Array:
    """[P, 2] sum over replies of the deviation among members, and number of replies."""
    scores = np.stack([(members[n] - mean) / size for n, (mean, size) in scale.items() if n in members])
    spread = scores.std(axis=0, ddof=1)
    sums = np.stack([np.nansum(spread, axis=1), np.isfinite(spread).sum(axis=1)], axis=1).astype(float)
    return sums[sums[:, 1] > 0]


QUESTION = Question(
    name="disagreement",
    title="Disagreement",
    ask="Do its members part on what the policy writes?",
    lede="Deviation of the members' scores at a reply, each member on the scale of the reference samples.",
    answer=answer,
)
