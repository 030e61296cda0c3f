"""``trueup policy``: policy optimisation, with the stages it needs, without a report."""

from __future__ import annotations

import typer

from trueup.cli.launch import facts, launch, words
from trueup.cli.options import ConfigFile, Json, OutFolder, Overrides, Quiet, Resume
from trueup.cli.output import Output


def policy(
    ctx: typer.Context,
    config: ConfigFile,
    overrides: Overrides = None,
    out: OutFolder = None,
    resume: Resume = False,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Optimise the policy (SFT and reward model first, where those are not done)."""
    output: Output = ctx.obj
    sets = overrides or []
    again = words("policy", config, sets, out, quiet=quiet, json=json)
    result = launch(output, config, overrides=sets, out=out, resume=resume, quiet=quiet, stages=("policy",), again=again)
    output.result(facts(result), f"run {result.root}")
