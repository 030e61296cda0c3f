"""What a question to a reward model is: one file each, a pure function from `Evidence` to an `Answer`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pandas as pd
from pydantic import Field

from trueup.core.config import Config
from trueup.core.rng import Key
from trueup.mismatch.diagnosis import Verdict
from trueup.mismatch.reward_model.scores import ScoredPairs, pairs_of
from trueup.stats.estimate import Estimate
from trueup.stats.recalibration import Calibration

NOTHING = pd.DataFrame()


class CardSettings(Config):
    """Thresholds of the verdicts."""

    min_prompts: int = Field(default=20, ge=2)
    """Fewer prompts are not enough data."""
    alarm_level: float = Field(default=0.995, gt=0.5, lt=1)
    """Coverage of the intervals that alarms rest on; a question with several chances to alarm divides what is left among them."""
    min_lean: float = Field(default=0.2, ge=0)
    """Misjudged weight of a feature below which no alarm is raised, however certain; standard deviations of the score difference a pair."""
    max_domain_gap: float = Field(default=0.02, ge=0, lt=1)
    """Accuracy that a domain may lie below all others together without an alarm."""
    min_style_gap: float = Field(default=0.1, ge=0, lt=1)
    """A difference of easy and hard accuracy below this raises no alarm, however certain."""
    min_calibration_error: float = Field(default=0.04, ge=0, lt=1)
    """An expected calibration error below this raises no alarm, however certain."""
    max_prompt_debt: float = Field(default=0.2, ge=0)
    """A debt to the prompt up to this raises no alarm, however certain; at 1 half of the match of prompt and reply is hidden."""
    max_unread: float = Field(default=0.01, ge=0, lt=1)
    """Share of replies whose score may be blind to prompt or end, or follow the batch."""
    company_tolerance: float = Field(default=0.05, gt=0)
    """A change by the rest of the batch up to this is rounding; standard deviations of the score difference a pair, as all below."""
    max_flips: float = Field(default=0.2, ge=0, lt=0.5)
    """Share of pairs that a change without meaning may turn."""
    max_bought: float = Field(default=0.25, ge=0)
    """What an appended phrase, or leaving out half, may buy."""
    max_search_gain: float = Field(default=1.0, ge=0)
    """What an appended text may buy that was searched for."""
    tilt_beta: float = Field(default=0.5, gt=0)
    """Strength of the KL penalty at which gains are predicted; standard deviations of the score on reference samples a nat."""
    min_within_share: float = Field(default=0.1, ge=0, lt=1)
    """Share of the score's variance within prompts that must not be shown to be missed."""
    min_own_drop: float = Field(default=0.2, ge=0, lt=1)
    """A loss of accuracy from the reference's to the policy's own pairs below this raises no alarm, however certain: sound models lose
    some too, since a policy's replies grow alike."""
    max_disagreement: float = Field(default=1.5, ge=1)
    """Disagreement of members on the policy's replies over that on the reference's that raises no alarm, however certain."""
    min_label_rise: float = Field(default=0.005, ge=0, lt=1)
    """A rise of accuracy with the last labels below this raises no alarm, however certain."""
    max_coverage_lost: float = Field(default=0.1, ge=0, lt=1)
    """Share of replies that may leave the training data, however certain."""

    @property
    def one_sided(self) -> float:
        """Coverage of the intervals of which one end alone can alarm."""
        return 2 * self.alarm_level - 1


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Everything known of one reward model."""

    model: str
    rows: pd.DataFrame
    """Scores of judged replies; see `trueup.mismatch.reward_model.scores`."""
    probes: pd.DataFrame = field(default_factory=NOTHING.copy)
    """Scores of changed copies of judged replies; see `trueup.mismatch.reward_model.probes`. Empty where none were made."""
    samples: pd.DataFrame = field(default_factory=NOTHING.copy)
    """Scores of replies sampled from policies; see `trueup.mismatch.reward_model.samples`. Empty where no policy is given."""
    comparisons: pd.DataFrame = field(default_factory=NOTHING.copy)
    """Labelled pairs of such replies; the same for all models. Empty where none are known."""
    gains: tuple[Estimate, ...] = ()
    """What the comparisons predict of this model; see `trueup.mismatch.reward_model.predicted_gain.pooled_gains`."""
    curve: pd.DataFrame = field(default_factory=NOTHING.copy)
    """Judgements of held-out pairs after growing numbers of labels; see `trueup.mismatch.reward_model.labels`. Empty where unknown."""
    votes: pd.DataFrame = field(default_factory=NOTHING.copy)
    """Votes of several annotators on pairs; empty where each pair has one label."""
    agreement: float | None = None
    """Share of pairs on which two annotators agree, where it is known from elsewhere."""
    calibration: Calibration | None = None
    """The map to chances that is kept with the model."""
    settings: CardSettings = field(default_factory=CardSettings)
    key: Key = field(default_factory=lambda: Key(0))
    """Random stream; the same for all models, so that they are compared on common resamples."""

    @cached_property
    def pairs(self) -> ScoredPairs:
        """All pairs of replies of one item."""
        return pairs_of(self.rows)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the evidence says."""

    verdict: Verdict
    rule: str
    """The rule that decided, with its thresholds and the numbers it saw."""
    estimates: tuple[Estimate, ...] = ()
    series: Mapping[str, list[Any]] = field(default_factory=dict)
    """Columns for a figure, all of one length."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """One question of the examination."""

    name: str
    """Of the file, and the anchor on the page."""
    title: str
    ask: str
    """The question in words; an alarm means no good answer."""
    lede: str
    """What the numbers below it are."""
    answer: Callable[[Evidence], Answer]


def unknown(why: str) -> Answer:
    """The answer where the evidence lacks what the question needs."""
    return Answer(verdict="not enough data", rule=f"Not enough data: {why}.")


def named(answer: Answer | tuple[Estimate, ...]) -> dict[str, Estimate]:
    """Estimates by name."""
    return {e.name: e for e in (answer.estimates if isinstance(answer, Answer) else answer)}
