"""``trueup report``: the pages of runs, from their records alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trueup.cli.launch import reported
from trueup.cli.options import Json
from trueup.cli.output import Output


def report(
    ctx: typer.Context, runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders.")], json: Json = False
) -> None:
    """Write the report of runs again from their records; needs no model and no torch."""
    output: Output = ctx.obj
    found = [{"run": str(folder), **reported(folder)} for folder in runs]
    output.result({"reports": found}, *(f"report {one['report']['html']}" for one in found))
