"""``trueup list``: the components one may name in a configuration."""

from __future__ import annotations

from typing import Annotated

import typer

from trueup.cli.options import Json
from trueup.cli.output import Output


def kinds(
    ctx: typer.Context,
    family: Annotated[str | None, typer.Argument(metavar="[FAMILY]", help="One family only.")] = None,
    json: Json = False,
) -> None:
    """List the kinds of every family, each with one line; `trueup config show KIND` prints its settings."""
    from rich.table import Table

    from trueup.cli.families import FAMILIES, members
    from trueup.cli.families import family as named

    output: Output = ctx.obj
    wanted = [named(family)] if family else list(FAMILIES)
    found = {one: members(one) for one in wanted}
    tables = []
    for one, of in found.items():
        table = Table(
            title=f"{one.name}: {one.what}", title_justify="left", title_style="bold", show_header=False, box=None, padding=(0, 2)
        )
        for member in of:
            table.add_row(member.kind, member.summary)
        tables.append(table)
    values = {one.name: [{"kind": m.kind, "module": m.module, "summary": m.summary} for m in of] for one, of in found.items()}
    output.result({"families": values}, *tables)
