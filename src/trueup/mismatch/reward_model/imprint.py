"""What else the score pays for: its regression on named features, beside what the labels say of them.

Within pairs and in standard deviations, let r be the score difference, f those of the features, y the label.

- imprint: coefficients i of r on f (feature imprint of SEAL, arXiv:2408.10270).
- debt: coefficients b of the labels on f beside r, over that of r. What the labels still want of a feature once the score is known.

Debt alone is no bias: a score that is right but noisy underrates all it sees. Write r = gold + s f + noise, with g the coefficient of gold
on f. Then imprint = g + s and debt = q g - s with some q >= 0 that grows with the noise, so that s = (q imprint - debt) / (1 + q) lies
between imprint and -debt. Where both of these are on one side of 0, s is at least the smaller one, whatever the noise. That is the
*misjudged weight*, and the only ground of an alarm.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from trueup.mismatch.features import PREFIX
from trueup.mismatch.reward_model.question import Answer, Evidence, Question, unknown
from trueup.mismatch.reward_model.scores import ScoredPairs
from trueup.stats.bootstrap import Array
from trueup.stats.estimate import Estimate
from trueup.stats.logistic import Fit, least_squares, logistic, wald

MIN_PRESENT = 0.02
"""Share of pairs that must differ in a feature."""
MIN_OWN = 0.01
"""Share of a feature's variance that the features before it must leave; one that says nothing of its own is left out."""


@dataclass(frozen=True, kw_only=True)
class Lean:
    """How one feature is judged."""

    feature: str
    imprint: Estimate
    debt: Estimate

    @property
    def estimates(self) -> tuple[Estimate, Estimate]:
        """Both, under the feature's name."""
        return self.imprint, self.debt

    @property
    def weight(self) -> float:
        """Least misjudged weight: 0 where imprint and debt do not contradict each other."""
        paid, owed = self.imprint.value or 0.0, -(self.debt.value or 0.0)
        return 0.0 if paid * owed <= 0 else float(np.sign(paid) * min(abs(paid), abs(owed)))

    def shown(self, least: float) -> bool:
        """Whether both intervals exclude 0 on opposite sides, and the weight reaches ``least``."""
        return self.weight != 0 and self.imprint.excludes(0) and self.debt.excludes(0) and abs(self.weight) >= least

    def sentence(self) -> str:
        """For a rule."""
        way = "for" if self.weight > 0 else "against"
        return (
            f"the score decides {way} {self.feature.replace('_', ' ')} by {abs(self.weight):.2f} standard deviations or more "
            "that the labels do not mean."
        )


def lean(feature: str, values: Array, pairs: ScoredPairs, level: float) -> Lean | None:
    """Imprint and debt of one feature alone; see `leans`."""
    found = leans({feature: values}, pairs, level)
    return found[0] if found else None


def leans(values: dict[str, Array], pairs: ScoredPairs, level: float) -> list[Lean]:
    """Imprint and debt of several features together.

    Args:
        values: feature -> [N] difference of each pair, NaN where unknown.
        pairs: of one model; ties count as half a win.
        level: coverage of each interval, clusters are prompts.

    Returns:
        a lean for each feature in which pairs differ; empty where the score says nothing of the labels, or separates them.
    """
    names = [n for n, v in values.items() if np.isfinite(v).all() and (v != 0).mean() >= MIN_PRESENT]
    weight = np.where(pairs.tied, 1.0, pairs.share)
    scale = _size(pairs.delta, weight)
    if not names or scale == 0:
        return []
    names, f = _distinct({n: values[n] / _size(values[n], weight) for n in names}, weight)
    r = pairs.delta / scale
    paid = least_squares(f, r, pairs.prompt, weight)
    owed = logistic(np.column_stack([r, f]), np.where(pairs.tied, 0.5, 1.0), pairs.prompt, weight)
    if paid is None or owed is None or owed.coefficient[0] <= 0:
        return []
    return [_lean(name, k, paid, owed, level) for k, name in enumerate(names)]


def differences(rows: pd.DataFrame, pairs: ScoredPairs) -> dict[str, Array]:
    """Feature -> [N] first minus second, for every feature column of one model's rows."""
    columns = [c for c in rows.columns if str(c).startswith(PREFIX)]
    return {
        str(c).removeprefix(PREFIX): rows[c].to_numpy(dtype=float)[pairs.first] - rows[c].to_numpy(dtype=float)[pairs.second]
        for c in columns
    }


def _distinct(columns: dict[str, Array], weight: Array) -> tuple[list[str], Array]:
    """Names and [N, K] columns of those that are no combination of others before them."""
    names: list[str] = []
    basis = np.empty((len(weight), 0))
    for name, column in columns.items():
        rest = column * np.sqrt(weight / weight.sum())  # of length 1, since columns are scaled
        rest = rest - basis @ (basis.T @ rest)
        if rest @ rest > MIN_OWN:
            names.append(name)
            basis = np.column_stack([basis, rest / np.linalg.norm(rest)])
    return names, np.stack([columns[n] for n in names], axis=1)


def _lean(name: str, k: int, paid: Fit, owed: Fit, level: float) -> Lean:
    one = np.zeros(len(paid.coefficient))
    one[k] = 1
    a, b = owed.coefficient[0], owed.coefficient[k + 1]
    slope = np.zeros(len(owed.coefficient))
    slope[0], slope[k + 1] = -b / a**2, 1 / a
    return Lean(
        feature=name,
        imprint=wald(f"imprint {name}", float(paid.coefficient[k]), one, paid, "sd", level),
        debt=wald(f"debt {name}", float(b / a), slope, owed, "sd", level),
    )


def _size(values: Array, weight: Array) -> float:
    return float(np.sqrt(np.average(values**2, weights=weight)))


def answer(evidence: Evidence) -> Answer:
    """Alarm where the score pays for a named feature what the labels do not."""
    values, settings = differences(evidence.rows, evidence.pairs), evidence.settings
    if not values:
        return unknown("no features are known; they need the texts, or columns named feature_NAME")
    found = leans(values, evidence.pairs, 1 - (1 - settings.alarm_level) / len(values))
    if not found:
        return unknown("pairs do not differ in any feature, or the score says nothing of the labels")
    estimates = tuple(e for one in found for e in one.estimates)
    guilty = sorted((one for one in found if one.shown(settings.min_lean)), key=lambda one: -abs(one.weight))
    if not guilty:
        return Answer(verdict="quiet", rule=f"No misjudged weight of {settings.min_lean:g} or more is shown.", estimates=estimates)
    said = "; ".join(one.sentence().rstrip(".") for one in guilty)
    return Answer(verdict="alarm", rule=f"{said[0].upper()}{said[1:]}.", estimates=estimates)


QUESTION = Question(
    name="imprint",
    title="Imprint",
    ask="What else does it pay for?",
    lede="Imprint: the score on named features of the reply, jointly, in standard deviations of differences within pairs. Debt: what the "
    "labels still want of a feature once the score is known, in standard deviations of the score. Opposite signs are a bias, equal ones a "
    "weakness.",
    answer=answer,
)
