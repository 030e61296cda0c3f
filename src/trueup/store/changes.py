"""What changed between two configurations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from trueup.core.errors import UserError


def refuse_changes(old: Mapping[str, Any], new: Mapping[str, Any], path: Path) -> None:
    """Allow a run to continue only with the configuration it began with.

    Args:
        old: as the run holds it, plain values.
        new: as it is now, plain values.
        path: the run's configuration file.

    Raises:
        UserError: they differ; the keys and both their values are named, the first twenty of them.
    """
    absent = object()
    before, after = dict(_flat(old)), dict(_flat(new))
    changes = [
        f"  {key}: "
        + " in the run, ".join("absent" if v is absent else repr(v) for v in (before.get(key, absent), after.get(key, absent)))
        + " now"
        for key in [*before, *(k for k in after if k not in before)]
        if before.get(key, absent) != after.get(key, absent)
    ]
    if changes:
        more = [f"  and {len(changes) - 20} more"] if len(changes) > 20 else []
        lines = "\n".join(["a run continues only with the configuration it began with. These keys differ:", *changes[:20], *more])
        raise UserError(f"{lines}\nUndo the changes, or start a new run with --out.", where=str(path))


def _flat(value: Any, place: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Leaves of nested mappings and lists with their dotted places; empty groups are leaves."""
    items = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    pairs = list(items)
    if not pairs:
        yield ".".join(place), value
    for key, item in pairs:
        yield from _flat(item, (*place, str(key)))
