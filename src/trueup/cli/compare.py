"""``trueup compare``: optimizers and decoders under the same reward, at equal KL and at equal cost."""

from __future__ import annotations

import os
import shlex
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import typer

from trueup.cli.launch import Stopped, places_of, words
from trueup.cli.options import ConfigFile, Json, OutFolder, Overrides, Quiet, Resume
from trueup.cli.output import Output
from trueup.cli.progress import watching
from trueup.core.errors import UserError


def compare(
    ctx: typer.Context,
    config: ConfigFile,
    overrides: Overrides = None,
    out: OutFolder = None,
    resume: Resume = False,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Compare optimizers and decoders under one reward, at equal KL and equal cost."""
    output: Output = ctx.obj
    sets = overrides or []
    if not os.path.isfile(config):
        raise UserError("no such configuration file. `trueup config show compare` prints a complete one.", where=str(config))
    folder = out or Path("runs") / config.stem
    try:
        with output.console.status("loading ...") if not quiet and output.console.is_terminal else nullcontext():
            from trueup.core.config import load_config
            from trueup.pipeline.compare import compare as run
            from trueup.pipeline.compare_config import CompareConfig

        loaded = load_config(config, CompareConfig, sets)
        with watching(output.console, quiet=quiet) as listen:
            found = run(loaded, folder, resume=resume, base=config.resolve().parent, on_event=listen)
    except KeyboardInterrupt as error:
        again = words("compare", config, sets, out, quiet=quiet, json=json)
        raise Stopped(shlex.join(["trueup", *again, "--resume"])) from error
    if os.environ.get("RANK", "0") != "0":
        raise typer.Exit
    output.result({"comparison": str(folder), **_written(folder, found)}, f"report {folder / 'report' / 'index.html'}")


def _written(folder: Path, found: Any) -> dict[str, Any]:
    """The page, and what it says at each budget."""
    from trueup.cli.launch import report_key
    from trueup.report.compare import write_comparison

    write_comparison(folder / "report", found, report_key() / "compare")
    return {"report": places_of(folder / "report"), "at_budget": [c.to_dict() for c in found.found]}
