"""``trueup report``: the pages of runs, from their records alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trueup.cli.launch import findings, places_of, report_key, reported
from trueup.cli.options import Json
from trueup.cli.output import Output


def report(
    ctx: typer.Context,
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Folder of the common page of several runs; report/ beside the first if left out."),
    ] = None,
    json: Json = False,
) -> None:
    """Write the report of a run again, or of several runs with a common page; needs no model and no torch."""
    output: Output = ctx.obj
    if len(runs) == 1:
        found = reported(runs[0])
        output.result({"reports": [{"run": str(runs[0]), **found}], "together": None}, f"report {found['report']['html']}")
        return
    from trueup.report.runs import write_reports

    common = out or runs[0].parent / "report"
    write_reports(runs, common, key=report_key())
    each = [{"run": str(folder), **findings(folder)} for folder in runs]
    together = places_of(common)
    lines = [*(f"report {one['report']['html']}" for one in each), f"together {together['html']}"]
    output.result({"reports": each, "together": together}, *lines)
