"""``trueup isolate``: vary one of reward model, optimizer and evaluation with the other two held fixed."""

from __future__ import annotations

import os
import shlex
from contextlib import nullcontext
from pathlib import Path

import typer

from trueup.cli.launch import Stopped, places_of, words
from trueup.cli.options import ConfigFile, Json, OutFolder, Overrides, Quiet, Resume
from trueup.cli.output import Output
from trueup.cli.progress import watching
from trueup.core.errors import UserError


def isolate(
    ctx: typer.Context,
    config: ConfigFile,
    overrides: Overrides = None,
    out: OutFolder = None,
    resume: Resume = False,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Exchange reward model, optimizer or evaluation, hold the others fixed, and say which part changes the outcome."""
    output: Output = ctx.obj
    sets = overrides or []
    if not os.path.isfile(config):
        raise UserError("no such configuration file. `trueup config show isolate` prints a complete one.", where=str(config))
    folder = out or Path("runs") / config.stem
    try:
        with output.console.status("loading ...") if not quiet and output.console.is_terminal else nullcontext():
            from trueup.core.config import load_config
            from trueup.pipeline.isolate import run_isolation
            from trueup.pipeline.isolate_config import IsolateConfig
            from trueup.report.isolation import plain, write_isolation

        loaded = load_config(config, IsolateConfig, sets)
        with watching(output.console, quiet=quiet) as listen:
            done = run_isolation(loaded, folder, resume=resume, base=config.resolve().parent, on_event=listen)
    except KeyboardInterrupt as error:
        again = words("isolate", config, sets, out, quiet=quiet, json=json)
        raise Stopped(shlex.join(["trueup", *again, "--resume"])) from error
    if os.environ.get("RANK", "0") != "0":
        raise typer.Exit
    report = folder / "report"
    write_isolation(
        report, done.found, name=done.name, seed=done.seed, readings=done.readings, told=done.told, prompts=done.prompts
    )  # fmt: skip
    found = {"one_at_a_time": plain(done.found.one_at_a_time), "shapley": plain(done.found.shapley)}
    output.result({"isolation": str(folder), "report": places_of(report), **found}, f"report {report / 'index.html'}")
