"""Whether the order of replies survives what changes no meaning, and whether a cut reply scores lower."""

from __future__ import annotations

import numpy as np

from trueup.mismatch.diagnosis import shown
from trueup.mismatch.reward_model.probes import DRAWS, aligned, change, mean_of, rows_of, size_of, variants
from trueup.mismatch.reward_model.question import Answer, Evidence, Question, unknown
from trueup.stats.bootstrap import Array, ratio, statistic_estimate
from trueup.stats.estimate import Estimate

HARMLESS = ("typo", "paraphrase", "format")
HALF = "half"


def flips(evidence: Evidence, probe: str, variant: str, name: str, level: float) -> Estimate | None:
    """Share of pairs whose order changes when both replies are changed; equal scores as half, pairs of equal originals left out.

    Every item counts the same. None where no pair has both replies changed.
    """
    pairs, rows = evidence.pairs, rows_of(evidence, probe, variant)
    before, after = (aligned(evidence, rows, c) for c in ("original", "score"))
    gap, new = (x[pairs.first] - x[pairs.second] for x in (before, after))
    kept = np.isfinite(gap) & (gap != 0)
    if not kept.any():
        return None
    turned = (1 - np.sign(gap[kept]) * np.sign(new[kept])) / 2
    item = pairs.item[kept]
    weight = 1 / np.bincount(item)[item]
    return statistic_estimate(_sums(turned, weight, pairs.prompt[kept]), ratio, name, "share", evidence.key / "probes" / name,
                              level=level, draws=DRAWS)  # fmt: skip


def robustness(evidence: Evidence) -> list[Estimate]:
    """``flips PROBE`` and ``shift PROBE`` of harmless changes, ``shift cut VARIANT`` and ``lowered VARIANT`` of cuts.

    Shifts are mean changes in standard deviations; lowered is the share of replies that score lower when cut, equal scores as half.
    """
    size, found = size_of(evidence), []
    checks = [(p, v) for p in HARMLESS for v in variants(evidence, p)]
    level = 1 - (1 - evidence.settings.alarm_level) / max(len(checks) + 1, 1)
    for probe, variant in checks:
        label = f"{probe} {variant}".strip()
        rows = rows_of(evidence, probe, variant)
        turned = flips(evidence, probe, variant, f"flips {label}", level)
        found += [turned] if turned is not None else []
        found.append(mean_of(change(rows, size), rows, f"shift {label}", "sd", evidence, 0.95))
    for variant in variants(evidence, "cut"):
        rows = rows_of(evidence, "cut", variant)
        moved = change(rows, size)
        found.append(mean_of(moved, rows, f"shift cut {variant}", "sd", evidence, level))
        found.append(mean_of((1 - np.sign(moved)) / 2, rows, f"lowered {variant}", "share", evidence, 0.95))
    return found


def answer(evidence: Evidence) -> Answer:
    """Alarm where a harmless change turns more than a share of the pairs, or half a reply is worth more than the whole."""
    if evidence.probes.empty or size_of(evidence) == 0:
        return unknown("no changed copies were scored" if evidence.probes.empty else "the score tells no replies apart")
    found, settings = robustness(evidence), evidence.settings
    if not found:
        return unknown("no copies with typos, paraphrases, other format or cuts were scored")
    turned = [e for e in found if e.name.startswith("flips ")]
    said = [
        f"{e.name.removeprefix('flips ')} turns {shown(e)} of the pairs, above {settings.max_flips:g}"
        for e in turned
        if e.low is not None and e.low > settings.max_flips
    ]
    said += [
        f"half a reply scores higher than the whole by {shown(e)} standard deviations"
        for e in found
        if e.name == f"shift cut {HALF}" and e.low is not None and e.low > settings.max_bought
    ]
    if said:
        told = "; ".join(said)
        return Answer(verdict="alarm", rule=f"{told[0].upper()}{told[1:]}.", estimates=tuple(found))
    worst = max(turned, key=lambda e: e.value or 0.0, default=None)
    told = f"; most are turned by {worst.name.removeprefix('flips ')}, {shown(worst)}" if worst else ""
    rule = f"No harmless change is shown to turn more than {settings.max_flips:g} of the pairs{told}."
    return Answer(verdict="quiet", rule=rule, estimates=tuple(found))


def _sums(values: Array, weight: Array, prompt: object) -> Array:
    codes = np.unique(np.asarray(prompt), return_inverse=True)[1]
    return np.stack([np.bincount(codes, weights=weight * values), np.bincount(codes, weights=weight)], axis=1)


QUESTION = Question(
    name="robustness",
    title="Robustness",
    ask="Does it stay put where meaning stays put?",
    lede="Flips: share of pairs whose order changes when both replies are changed in ways that keep their meaning. Shifts: mean change of "
    "the score, in standard deviations of score differences of pairs. Lowered: share of replies that score lower when cut.",
    answer=answer,
)
