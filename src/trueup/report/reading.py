"""What an audit read, as a section of the page: which columns, which were ignored, and what cannot be said for want of others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trueup.report.blocks import Absent, Block, Section, Table


def reading_section(reading: Mapping[str, Any]) -> Section:
    """What the audited files hold, and what cannot be said for want of it."""
    blocks: list[Block] = []
    if reading["read"]:
        rows = [[ours, theirs] for ours, theirs in reading["read"].items()]
        blocks.append(Table(columns=["Column of records", "In the files"], rows=rows, words=(1,), folded=f"{len(rows)} columns were read"))
    blocks += [Absent(what=f"No {name}:", why=f"{why}.") for name, why in reading["missing"].items()]
    if reading["ignored"]:
        why = f"{', '.join(reading['ignored'])}. Name one with --column OURS=THEIRS to have it read."
        blocks.append(Absent(what="Ignored columns:", why=why))
    if reading["labels"] and reading["labels"]["left_out"]:
        why = "they are about other replies than these, and have no rewards."
        blocks.append(Absent(what=f"{reading['labels']['left_out']} comparisons were left out:", why=why))
    return Section(
        anchor="reading", title="What was read", lede="Columns of the audited files, and what cannot be said without others.", blocks=blocks
    )
