"""``trueup sft``: supervised fine-tuning on the world's demonstrations."""

from __future__ import annotations

import typer

from trueup.cli.launch import facts, launch, words
from trueup.cli.options import ConfigFile, Json, OutFolder, Overrides, Quiet, Resume
from trueup.cli.output import Output


def sft(
    ctx: typer.Context,
    config: ConfigFile,
    overrides: Overrides = None,
    out: OutFolder = None,
    resume: Resume = False,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Fine-tune the policy on demonstrations."""
    output: Output = ctx.obj
    sets = overrides or []
    again = words("sft", config, sets, out, quiet=quiet, json=json)
    result = launch(output, config, overrides=sets, out=out, resume=resume, quiet=quiet, stages=("sft",), again=again)
    output.result(facts(result), f"run {result.root}")
