"""``trueup isolate``: vary one of reward model, optimizer and evaluation with the other two held fixed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from trueup.cli.launch import configured, places_of
from trueup.cli.options import ConfigFile, Json, OutFolder, Overrides, Quiet, Resume
from trueup.cli.output import Output

if TYPE_CHECKING:
    from trueup.pipeline.events import Listener


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

    def prepare() -> Callable[[Path, Listener], Any]:
        from trueup.core.config import load_config
        from trueup.pipeline.isolate import run_isolation
        from trueup.pipeline.isolate_config import IsolateConfig

        loaded = load_config(config, IsolateConfig, overrides or [])
        return lambda folder, listen: run_isolation(loaded, folder, resume=resume, base=config.resolve().parent, on_event=listen)

    folder, done = configured(output, "isolate", config, overrides or [], out, prepare, quiet=quiet, json=json)
    from trueup.report.isolation import plain, write_isolation

    report = folder / "report"
    write_isolation(
        report, done.found, name=done.name, seed=done.seed, readings=done.readings, told=done.told, prompts=done.prompts
    )  # fmt: skip
    found = {"one_at_a_time": plain(done.found.one_at_a_time), "shapley": plain(done.found.shapley)}
    output.result({"isolation": str(folder), "report": places_of(report), **found}, f"report {report / 'index.html'}")
