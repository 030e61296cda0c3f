"""``trueup quickstart``: from nothing to a report."""

from __future__ import annotations

from importlib.resources import as_file, files
from pathlib import Path

import typer

from trueup.cli.launch import facts, launch, reported, words
from trueup.cli.options import Json, OutFolder, Overrides, Quiet, Resume
from trueup.cli.output import Output


def quickstart(
    ctx: typer.Context,
    overrides: Overrides = None,
    out: OutFolder = None,
    resume: Resume = False,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Run the packaged example into runs/quickstart and show where its report is."""
    output: Output = ctx.obj
    sets = overrides or []
    again = words("quickstart", None, sets, out, quiet=quiet, json=json)
    with as_file(files("trueup") / "configs" / "quickstart.yaml") as config:
        result = launch(output, config, overrides=sets, out=out or Path("runs") / "quickstart", resume=resume, quiet=quiet, again=again)
    found = reported(result.root)
    page = Path(found["report"]["html"]).resolve()
    output.result({**facts(result), **found}, "The report is ready. Open it in a browser:", f"  {page.as_uri()}")
