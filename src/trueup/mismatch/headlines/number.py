"""What the number of a link is: its value, its basis, what it was made of, and what is missing where there is none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from pydantic import Field

from trueup.core.config import Config
from trueup.mismatch.diagnosis import Link
from trueup.mismatch.panel import METHOD
from trueup.stats.bootstrap import DRAWS, Array, make_estimate
from trueup.stats.estimate import Estimate

Basis = Literal["gold", "labels", "labels, no ceiling", "evaluations"]
NAMES: dict[Link, str] = {"reward_policy": "promise_kept", "reward_evaluation": "signal_used", "policy_evaluation": "moved_along"}


class HeadlineSettings(Config):
    """How the numbers of the three links are made."""

    basis: Literal["auto", "gold", "labels", "evaluations"] = "auto"
    """What stands for the truth; ``auto`` takes the first there is of gold, labels, evaluations; for ``moved_along`` evaluations first."""
    min_prompts: int = Field(default=10, ge=4)
    """With fewer prompts there is no number."""
    draws: int = Field(default=DRAWS, ge=100)
    """Bootstrap resamples."""


@dataclass(frozen=True, kw_only=True)
class Headline:
    """The number of one link of one arm."""

    link: Link
    arm: str
    basis: Basis | None
    """None where there is no number."""
    estimate: Estimate
    """In [0, 1]; ``value`` None where there is no number."""
    parts: tuple[Estimate, ...] = ()
    """What it was computed from."""
    over: tuple[str, ...] = ()
    """Names of the evaluations that count, where evaluations are the basis."""
    why: str = ""
    """What was seen; where there is no number, what is missing."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for report.json."""
        return {
            "link": self.link,
            "name": self.estimate.name,
            "arm": self.arm,
            "basis": self.basis,
            "estimate": self.estimate.to_dict(),
            "parts": [e.to_dict() for e in self.parts],
            "over": list(self.over),
            "why": self.why,
        }


def absent(link: Link, arm: str, why: str) -> Headline:
    """No number, and what is missing."""
    nothing = Estimate(name=NAMES[link], value=None, low=None, high=None, n=0, unit="share")
    return Headline(link=link, arm=arm, basis=None, estimate=nothing, why=f"Not enough data: {why}.")


def bounded(link: Link, value: float, draws: Array, units: int) -> Estimate:
    """The number of a link with its interval, both cut to [0, 1]."""
    return make_estimate(NAMES[link], float(np.clip(value, 0, 1)), np.clip(draws, 0, 1), units, "share", method=METHOD)


def quotient(above: Any, below: Any) -> Array:
    """Quotient, NaN where the lower part is not above 0."""
    a, b = np.broadcast_arrays(np.asarray(above, dtype=float), np.asarray(below, dtype=float))
    return np.divide(a, b, out=np.full(b.shape, np.nan), where=b > 0)
