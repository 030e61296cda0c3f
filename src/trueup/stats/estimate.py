"""A number one may report: value, interval, n, unit."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A reported quantity. ``value`` None means it could not be measured; the interval is None where none can be given."""

    name: str
    value: float | None
    low: float | None
    high: float | None
    n: int
    """Independent units behind it (prompts, runs, pairs), not rows."""
    unit: str = ""
    """Such as ``nats``, ``tokens``, ``score``, ``share``."""
    level: float = 0.95
    method: str = ""
    """How the interval was made, such as ``prompt bootstrap``."""
    n_missing: int = 0

    def excludes(self, number: float) -> bool:
        """Whether the interval lies wholly on one side of ``number``; False where there is no interval."""
        return self.low is not None and self.high is not None and (self.low > number or self.high < number)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)
