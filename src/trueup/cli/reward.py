"""``trueup reward CONFIG``: the first reward model, with the stages it needs; ``trueup reward evaluate`` examines one."""

from __future__ import annotations

import typer

from trueup.cli.launch import facts, launch, words
from trueup.cli.options import ConfigFile, Json, OutFolder, Overrides, Quiet, Resume
from trueup.cli.output import Output


def reward(
    ctx: typer.Context,
    config: ConfigFile,
    overrides: Overrides = None,
    out: OutFolder = None,
    resume: Resume = False,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Fit the reward model (SFT first, where that is not done). `trueup reward evaluate` examines one."""
    output: Output = ctx.obj
    sets = overrides or []
    again = words("reward", config, sets, out, quiet=quiet, json=json)
    result = launch(output, config, overrides=sets, out=out, resume=resume, quiet=quiet, stages=("reward",), again=again)
    output.result(facts(result), f"run {result.root}")
