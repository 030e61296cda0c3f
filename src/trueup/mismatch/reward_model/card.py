"""Everything the scores say of reward models, with a verdict for each question and the rule that decided."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from pydantic import Field

from trueup.core.config import Config
from trueup.core.rng import Key
from trueup.mismatch.diagnosis import Diagnosis, Verdict, not_enough, shown
from trueup.mismatch.reward_model.accuracy import accuracy, accuracy_difference, against_style, best_of_several
from trueup.mismatch.reward_model.bias import length
from trueup.mismatch.reward_model.certainty import certainty
from trueup.mismatch.reward_model.scores import ScoredPairs, pairs_of
from trueup.stats.estimate import Estimate

QUESTIONS = {
    "accuracy": "Does it order replies as annotators do, in every domain?",
    "style": "Does it take polish for quality?",
    "length": "Does it take length for quality?",
    "certainty": "Do its score differences mean what they say?",
}


class CardSettings(Config):
    """Thresholds of the verdicts."""

    min_prompts: int = Field(default=20, ge=2)
    """Fewer prompts are not enough data."""
    min_length_bias: float = Field(default=0.1, ge=0, lt=1)
    """A partial correlation of score and length below this raises no alarm, however certain."""
    min_style_gap: float = Field(default=0.1, ge=0, lt=1)
    """A difference of easy and hard accuracy below this raises no alarm, however certain."""
    min_calibration_error: float = Field(default=0.02, ge=0, lt=1)
    """An expected calibration error below this raises no alarm, however certain."""


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


def examine(frame: pd.DataFrame, key: Key, settings: CardSettings | None = None) -> Examination:
    """Examine the models of a table of scores.

    Args:
        frame: as `trueup.mismatch.reward_model.scores.checked` gives it.
        key: random stream; all models get the same draws, so that they are compared on common resamples.
        settings: thresholds.
    """
    settings = settings or CardSettings()
    tables = {str(name): rows.reset_index(drop=True) for name, rows in frame.groupby("model", sort=True)}
    pairs = {name: pairs_of(rows) for name, rows in tables.items()}
    found = [d for name, rows in tables.items() for d in _questions(name, rows, pairs[name], settings, key)]
    names = list(tables)
    differences = [accuracy_difference(pairs[n], pairs[names[0]], f"{n} - {names[0]}", key / "difference") for n in names[1:]]
    first = tables[names[0]]
    domains = first.groupby("domain")["item"].nunique()
    data = {
        "items": int(first["item"].nunique()),
        "prompts": int(first["prompt_id"].nunique()),
        "replies": len(first),
        "pairs": int((~pairs[names[0]].tied).sum()),
        "ties": int(pairs[names[0]].tied.sum()),
        "domains": {str(k): int(v) for k, v in domains.items() if k},
    }
    return Examination(models=tuple(names), diagnoses=found, differences=differences, data=data)


def _questions(model: str, rows: pd.DataFrame, pairs: ScoredPairs, settings: CardSettings, key: Key) -> list[Diagnosis]:
    prompts = rows["prompt_id"].nunique()
    if prompts < settings.min_prompts:
        why = f"{prompts} prompts, {settings.min_prompts} are needed"
        return [not_enough("reward_evaluation", name, question, model, why) for name, question in QUESTIONS.items()]
    best = best_of_several(rows, key)
    several = [best] if best is not None else []
    found = [
        _judged("accuracy", model, [*accuracy(pairs, key), *several], lambda e: _accuracy_rule(e)),
        _judged("style", model, against_style(pairs, key), lambda e: _style_rule(e, settings)),
        _judged("length", model, length(rows, pairs, key), lambda e: _length_rule(e, settings)),
        _judged("certainty", model, certainty(pairs, key), lambda e: _certainty_rule(e, settings)),
    ]
    return found


def _judged(name: str, model: str, estimates: Sequence[Estimate], rule: Any) -> Diagnosis:
    if not estimates:
        why = {"style": "no styles are named", "length": "lengths are unknown"}.get(name, "there are no pairs")
        return not_enough("reward_evaluation", name, QUESTIONS[name], model, why)
    verdict, words = rule({e.name: e for e in estimates})
    return Diagnosis(
        link="reward_evaluation", name=name, question=QUESTIONS[name], arm=model, verdict=verdict, rule=words, estimates=tuple(estimates)
    )


def _accuracy_rule(found: Mapping[str, Estimate]) -> tuple[Verdict, str]:
    """Alarm where accuracy is not shown to be above chance, or a domain is shown to be below it."""
    whole = found["accuracy"]
    if whole.low is None or whole.low <= 0.5:
        return "alarm", f"Accuracy {shown(whole)} is not above chance."
    below = [n for n, e in found.items() if n.startswith("accuracy ") and e.high is not None and e.high < 0.5]
    if below:
        told = "; ".join(f"{n.removeprefix('accuracy ')} {shown(found[n])}" for n in below)
        return "alarm", f"Accuracy {shown(whole)} is above chance, but below it in {told}."
    worst = f"; worst domain {shown(found['worst_domain'])}" if "worst_domain" in found else ""
    return "quiet", f"Accuracy {shown(whole)} is above chance, and in no domain shown to be below it{worst}."


def _style_rule(found: Mapping[str, Estimate], settings: CardSettings) -> tuple[Verdict, str]:
    gap = found.get("style_gap")
    if gap is None:
        return "not enough data", "Not enough data: right and wrong replies never differ in style."
    alarm = gap.low is not None and gap.low > settings.min_style_gap
    return "alarm" if alarm else "quiet", (
        f"Easy minus hard accuracy {shown(gap)} is {'' if alarm else 'not shown to be '}above {settings.min_style_gap:g}."
    )


def _length_rule(found: Mapping[str, Estimate], settings: CardSettings) -> tuple[Verdict, str]:
    partial, least = found["length_partial"], settings.min_length_bias
    sure = partial.value is not None and partial.excludes(0) and abs(partial.value) >= least
    leaning = "longer" if (partial.value or 0) > 0 else "shorter"
    return "alarm" if sure else "quiet", (
        f"Score and length, given the label, correlate by {shown(partial)} within prompts: "
        + (f"the score leans towards {leaning} replies." if sure else f"no lean of at least {least:g} is shown.")
    )


def _certainty_rule(found: Mapping[str, Estimate], settings: CardSettings) -> tuple[Verdict, str]:
    error = found["ece_mass"]
    alarm = error.value is not None and error.high is not None and error.value > max(error.high, settings.min_calibration_error)
    temperature = found["temperature"].value
    told = "" if temperature is None else f" One temperature, {temperature:.3g}, fits best."
    return "alarm" if alarm else "quiet", (
        f"Calibration error {error.value:.3f} {'exceeds' if alarm else 'lies within'} what calibrated scores of this sharpness would show "
        f"(up to {error.high:.3f}).{told}"
    )
