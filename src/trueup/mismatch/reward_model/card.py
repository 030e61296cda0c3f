"""Everything that is asked of reward models, one question a file, with a verdict for each and the rule that decided."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from trueup.core.rng import Key
from trueup.mismatch.diagnosis import Diagnosis, not_enough
from trueup.mismatch.reward_model import (
    accuracy,
    ceiling,
    certainty,
    coverage,
    disagreement,
    gaming,
    imprint,
    labels,
    length,
    own_pairs,
    predicted_gain,
    prompt,
    reading,
    regret,
    robustness,
    style,
    teaching,
)
from trueup.mismatch.reward_model.accuracy import accuracy_difference
from trueup.mismatch.reward_model.predicted_gain import pooled_gains
from trueup.mismatch.reward_model.question import NOTHING, CardSettings, Evidence, Question
from trueup.stats.estimate import Estimate
from trueup.stats.recalibration import Calibration

QUESTIONS: tuple[Question, ...] = (
    accuracy.QUESTION, ceiling.QUESTION, style.QUESTION, length.QUESTION, imprint.QUESTION, prompt.QUESTION, reading.QUESTION,
    robustness.QUESTION, gaming.QUESTION, certainty.QUESTION, teaching.QUESTION, own_pairs.QUESTION,
    disagreement.QUESTION, coverage.QUESTION, predicted_gain.QUESTION, regret.QUESTION, labels.QUESTION,
)  # fmt: skip
"""In the order of the card."""


@dataclass(frozen=True, kw_only=True)
class Examination:
    """What was found of all models."""

    models: tuple[str, ...]
    diagnoses: list[Diagnosis]
    """One a question and model; ``arm`` is the model."""
    differences: list[Estimate]
    """Accuracy of each model minus that of the first, on the same pairs."""
    data: dict[str, Any]
    """What the models were examined on."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "models": list(self.models),
            "data": self.data,
            "diagnoses": [d.to_dict() for d in self.diagnoses],
            "differences": [e.to_dict() for e in self.differences],
        }

    def estimates(self, model: str) -> dict[str, Estimate]:
        """All estimates of a model by name."""
        return {e.name: e for d in self.diagnoses if d.arm == model for e in d.estimates}

    def verdicts(self, model: str) -> dict[str, str]:
        """Verdict of each question."""
        return {d.name: d.verdict for d in self.diagnoses if d.arm == model}


def examine(
    frame: pd.DataFrame,
    key: Key,
    settings: CardSettings | None = None,
    *,
    probes: pd.DataFrame = NOTHING,
    samples: pd.DataFrame = NOTHING,
    comparisons: pd.DataFrame = NOTHING,
    curves: pd.DataFrame = NOTHING,
    votes: pd.DataFrame = NOTHING,
    agreement: float | None = None,
    calibrations: Mapping[str, Calibration] | None = None,
) -> Examination:
    """Examine the models of a table of scores.

    Args:
        frame: as `trueup.mismatch.reward_model.scores.checked` gives it.
        key: random stream; all models get the same draws, so that they are compared on common resamples.
        settings: thresholds.
        probes: scores of changed copies, of all models.
        samples: scores of policies' replies, of all models.
        comparisons: labelled pairs of such replies; the same for all models.
        curves: judgements after growing numbers of labels, of all models.
        votes: of several annotators on the pairs; the same for all models.
        agreement: share of pairs on which two annotators agree, where it is known from elsewhere.
        calibrations: maps to chances that are kept with models, by name.
    """
    settings = settings or CardSettings()
    gains = pooled_gains(samples, comparisons, settings.tilt_beta, key / "gains", settings.one_sided)
    evidence = {
        str(name): Evidence(
            model=str(name), rows=rows.reset_index(drop=True), probes=_of(probes, name), samples=_of(samples, name), votes=votes,
            agreement=agreement, settings=settings, key=key, comparisons=comparisons, gains=gains.get(str(name), ()),
            curve=_of(curves, name), calibration=(calibrations or {}).get(str(name)),
        )
        for name, rows in frame.groupby("model", sort=True)
    }  # fmt: skip
    names = list(evidence)
    first = evidence[names[0]]
    differences = [accuracy_difference(evidence[n].pairs, first.pairs, f"{n} - {names[0]}", key / "difference") for n in names[1:]]
    domains = first.rows.groupby("domain")["item"].nunique()
    data = {
        "items": int(first.rows["item"].nunique()),
        "prompts": int(first.rows["prompt_id"].nunique()),
        "replies": len(first.rows),
        "pairs": int((~first.pairs.tied).sum()),
        "ties": int(first.pairs.tied.sum()),
        "domains": {str(k): int(v) for k, v in domains.items() if k},
    }
    found = [diagnosis(question, one) for one in evidence.values() for question in QUESTIONS]
    return Examination(models=tuple(names), diagnoses=found, differences=differences, data=data)


def diagnosis(question: Question, evidence: Evidence) -> Diagnosis:
    """One question put to one model."""
    prompts = evidence.rows["prompt_id"].nunique()
    if prompts < evidence.settings.min_prompts:
        why = f"{prompts} prompts, {evidence.settings.min_prompts} are needed"
        return not_enough("reward_evaluation", question.name, question.ask, evidence.model, why)
    answer = question.answer(evidence)
    return Diagnosis(
        link="reward_evaluation", name=question.name, question=question.ask, arm=evidence.model, verdict=answer.verdict, rule=answer.rule,
        estimates=answer.estimates, series=dict(answer.series),
    )  # fmt: skip


def asked() -> Mapping[str, Question]:
    """Questions by name, in the order of the card."""
    return {q.name: q for q in QUESTIONS}


def _of(table: pd.DataFrame, model: object) -> pd.DataFrame:
    return table if table.empty else table[table["model"] == model].reset_index(drop=True)
