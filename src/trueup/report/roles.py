"""What each arm of a run is for: the static reward model, the realigned one, its random control, or another control."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Role = Literal["static", "random refit", "realigned", "other"]


@dataclass(frozen=True, kw_only=True)
class Arm:
    """An arm's name and role."""

    name: str
    role: Role


def arms_of(manifest: Mapping[str, Any], recorded: Sequence[str]) -> tuple[Arm, ...]:
    """The run's arms in the manifest's order, then those that only the records know.

    The manifest's ``arms`` are names, or ``{name, role}``. Without a role the name decides: ``static``; a word that begins with
    ``random``; ``frft`` or ``realign``; anything else is ``other``.

    Args:
        manifest: of the run.
        recorded: arms that have checkpoint rows.
    """
    listed: dict[str, Role] = {}
    for entry in manifest.get("arms") or ():
        name = str(entry["name"]) if isinstance(entry, Mapping) else str(entry)
        role = str(entry.get("role") or "") if isinstance(entry, Mapping) else ""
        listed[name] = _ROLES.get(role, role_of(name))
    order = [*listed, *(r for r in recorded if r not in listed)]
    return tuple(Arm(name=n, role=listed.get(n, role_of(n))) for n in order if n in set(recorded))


def comparisons(arms: Sequence[Arm]) -> list[tuple[str, str]]:
    """(arm, baseline) pairs: each realigned arm against the random refit and the static arm, then the refit against the static arm."""

    def having(role: Role) -> list[str]:
        return [a.name for a in arms if a.role == role]

    static, refit = having("static")[:1], having("random refit")[:1]
    return [(arm, other) for arm in having("realigned") for other in (*refit, *static)] + [(a, b) for a in refit for b in static]


def role_of(name: str) -> Role:
    """The role that an arm's name suggests."""
    low = name.lower()
    if low.startswith("static"):
        return "static"
    if low.startswith("random"):
        return "random refit"
    if "frft" in low or "realign" in low:
        return "realigned"
    return "other"


_ROLES: dict[str, Role] = {"static": "static", "random refit": "random refit", "realigned": "realigned", "other": "other"}
