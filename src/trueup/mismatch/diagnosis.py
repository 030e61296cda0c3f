"""What every diagnosis returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from trueup.stats.estimate import Estimate

Link = Literal["reward_policy", "reward_evaluation", "policy_evaluation"]
Verdict = Literal["alarm", "quiet", "no difference shown", "not enough data"]


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """An answer to one question about one link, with its evidence."""

    link: Link
    name: str
    """The file's name, such as ``over_optimisation``."""
    question: str
    arm: str
    verdict: Verdict
    rule: str
    """The rule that decided, with its thresholds and the numbers it saw."""
    estimates: tuple[Estimate, ...] = ()
    series: dict[str, list[Any]] = field(default_factory=dict)
    """Columns for a figure, all of one length: such as ``step``, ``kl_nats``, ``gold``, ``gold_low``, ``gold_high``."""
    samples: tuple[str, ...] = ()
    """sample_ids one should read."""

    def estimate(self, name: str) -> Estimate:
        """The estimate of that name."""
        return next(e for e in self.estimates if e.name == name)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for report.json."""
        return {
            "link": self.link,
            "name": self.name,
            "question": self.question,
            "arm": self.arm,
            "verdict": self.verdict,
            "rule": self.rule,
            "estimates": [e.to_dict() for e in self.estimates],
            "series": self.series,
            "samples": list(self.samples),
        }


def not_enough(link: Link, name: str, question: str, arm: str, why: str) -> Diagnosis:
    """The answer where records lack what the question needs; ``why`` names what is missing."""
    return Diagnosis(link=link, name=name, question=question, arm=arm, verdict="not enough data", rule=f"Not enough data: {why}.")


def shown(estimate: Estimate) -> str:
    """``0.31 [0.22, 0.40]``, for a rule; ``absent`` where there is no value."""
    if estimate.value is None:
        return "absent"
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:.3g} (no interval)"
    return f"{estimate.value:.3g} [{estimate.low:.3g}, {estimate.high:.3g}]"
