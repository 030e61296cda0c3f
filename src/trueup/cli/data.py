"""``trueup data``: what data sets are worth, before anything is trained on them."""

from __future__ import annotations

from typing import Annotated

import typer

from trueup.cli.options import Json
from trueup.cli.output import Output

SAID = {
    "agreement": "two annotators give the same label",
    "fleiss_kappa": "agreement beyond chance, pooled",
    "krippendorff_alpha": "agreement beyond chance, labels may be missing",
    "tie_share": "labels that are ties",
    "agreement_ties_half": "agreement with a tie as half a win each way",
    "ceiling_low": "best accuracy against one label: at least",
    "ceiling_high": "best accuracy against one label: at most",
    "ceiling_low_4": "the same from four labels an item: at least",
    "ceiling_high_4": "the same from four labels an item: at most",
}


def ceiling(
    ctx: typer.Context,
    file: Annotated[str, typer.Argument(metavar="FILE", help="Comparisons with the labels of several annotators, or a hub data set.")],
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave out items with fewer than two labels, and count them.")] = False,
    seed: Annotated[int, typer.Option("--seed", help="Of the bootstraps.")] = 0,
    json: Json = False,
) -> None:
    """How far annotators agree, and what accuracy their labels allow any model."""
    from rich.table import Table

    from trueup.core.rng import Key
    from trueup.data.annotations import read_annotations
    from trueup.pipeline.ceiling import ceiling as examine

    output: Output = ctx.obj
    reading = read_annotations(file, on_bad="skip" if skip_bad else "error")
    found = examine(reading.rows, Key(seed) / "ceiling")
    table = Table(box=None, padding=(0, 2))
    for column in ("", "value", "95 % interval", "what it is"):
        table.add_column(column, justify="right" if column == "value" else "left")
    for e in found.estimates:
        limits = "" if e.low is None or e.high is None else f"[{e.low:.3f}, {e.high:.3f}]"
        said = SAID.get(e.name, "agreement of two annotators beyond chance")
        table.add_row(e.name, "absent" if e.value is None else f"{e.value:.3f}", limits.replace("[", r"\["), said)
    lines = f"{reading.statement()}; {found.items} items, {len(found.annotators)} annotators, {found.labels} labels"
    output.result({"reading": reading.statement(), **found.to_dict()}, lines, table)
