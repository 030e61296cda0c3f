"""``trueup run``: everything a configuration says, and its report."""

from __future__ import annotations

import typer

from trueup.cli.launch import facts, launch, reported, words
from trueup.cli.options import ConfigFile, Json, OutFolder, Overrides, Quiet, Resume
from trueup.cli.output import Output


def run(
    ctx: typer.Context,
    config: ConfigFile,
    overrides: Overrides = None,
    out: OutFolder = None,
    resume: Resume = False,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Run a configuration: SFT, reward model, policy arms, records, report."""
    output: Output = ctx.obj
    sets = overrides or []
    again = words("run", config, sets, out, quiet=quiet, json=json)
    result = launch(output, config, overrides=sets, out=out, resume=resume, quiet=quiet, again=again)
    found = reported(result.root)
    output.result({**facts(result), **found}, f"run {result.root}", f"report {found['report']['html']}")
