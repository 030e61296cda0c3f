"""Whether the score is read off the end of the reply, and off nothing but the reply.

A score that stays exactly the same when the last word or mark is replaced was made without it: it is read at another token, or the end
is cut off. A score that depends on what else is in the batch reads padding.
"""

from __future__ import annotations

import numpy as np

from trueup.mismatch.diagnosis import shown
from trueup.mismatch.reward_model.probes import change, coarse, mean_of, rows_of, size_of, variants
from trueup.mismatch.reward_model.question import Answer, Evidence, Question, unknown
from trueup.stats.estimate import Estimate

ENDS = {"word": "last word", "mark": "last punctuation mark"}


def reading(evidence: Evidence) -> list[Estimate]:
    """``unread VARIANT``, share of replies whose score does not change with their end, and ``company VARIANT``, share whose score does
    change with the rest of the batch, by more than the tolerance; ``company_largest`` is the largest such change.

    Equal scores say nothing where scores have few values; there the ends are left out.
    """
    size, settings = size_of(evidence), evidence.settings
    kept = [v for v in variants(evidence, "ending") if not coarse(rows_of(evidence, "ending", v))]
    checks = [("ending", v) for v in kept] + [("company", v) for v in variants(evidence, "company")]
    found, largest = [], None
    for probe, variant in checks:
        rows = rows_of(evidence, probe, variant)
        moved = np.abs(change(rows, size))
        level = 1 - (1 - settings.alarm_level) / len(checks)
        bad = moved == 0 if probe == "ending" else moved > settings.company_tolerance
        name = f"unread {variant}" if probe == "ending" else f"company {variant}"
        found.append(mean_of(bad.astype(float), rows, name, "share", evidence, level))
        if probe == "company":
            largest = max(largest or 0.0, float(moved.max()))
    if largest is not None:
        n = rows_of(evidence, "company")["cluster"].nunique()
        found.append(Estimate(name="company_largest", value=largest, low=None, high=None, n=n, unit="sd", method="maximum"))
    return found


def answer(evidence: Evidence) -> Answer:
    """Alarm where more than a small share of the scores is shown not to follow the end, or to follow the batch."""
    if evidence.probes.empty or size_of(evidence) == 0:
        return unknown("no replies were scored with another end" if evidence.probes.empty else "the score tells no replies apart")
    found, least = reading(evidence), evidence.settings.max_unread
    if not found:
        return unknown("no replies were scored with another end, or scores have few values")
    guilty = [e for e in found if e.low is not None and e.low > least]
    if not guilty:
        return Answer(verdict="quiet", rule=f"Nothing is shown above {least:.0%} of the replies.", estimates=tuple(found))
    said = []
    for e in guilty:
        kind, _, variant = e.name.partition(" ")
        if kind == "unread":
            said.append(f"the {ENDS.get(variant, variant)} does not reach the score of {shown(e)} of the replies")
        else:
            said.append(f"the score of {shown(e)} of the replies depends on the rest of the batch ({variant} in it)")
    told = "; ".join(said)
    return Answer(verdict="alarm", rule=f"{told[0].upper()}{told[1:]}.", estimates=tuple(found))


QUESTION = Question(
    name="reading",
    title="Reading",
    ask="Does it read to the end, and only the reply?",
    lede="Unread: share of replies whose score stays exactly the same when the last word, or the last mark, is replaced. Company: share "
    "whose score changes with the other texts of its batch.",
    answer=answer,
)
