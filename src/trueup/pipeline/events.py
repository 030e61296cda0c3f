"""What a run tells whoever watches: the command line's progress bars, or nobody."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something happened."""

    kind: Literal["stage", "step", "note", "done"]
    stage: str
    arm: str | None = None
    step: int = 0
    total: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    text: str = ""


Listener = Callable[[Event], None]


def nobody(event: Event) -> None:
    """Ignores every event."""
