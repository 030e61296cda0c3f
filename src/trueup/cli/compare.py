"""``trueup compare``: optimizers and decoders under the same reward, at equal KL and at equal cost."""

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

    def prepare() -> Callable[[Path, Listener], Any]:
        from trueup.core.config import load_config
        from trueup.pipeline.compare import compare as run
        from trueup.pipeline.compare_config import CompareConfig

        loaded = load_config(config, CompareConfig, overrides or [])
        return lambda folder, listen: run(loaded, folder, resume=resume, base=config.resolve().parent, on_event=listen)

    folder, found = configured(output, "compare", config, overrides or [], out, prepare, quiet=quiet, json=json)
    output.result({"comparison": str(folder), **_written(folder, found)}, f"report {folder / 'report' / 'index.html'}")


def _written(folder: Path, found: Any) -> dict[str, Any]:
    """The page, and what it says at each budget."""
    from trueup.cli.launch import report_key
    from trueup.report.compare import write_comparison

    write_comparison(folder / "report", found, report_key() / "compare")
    return {"report": places_of(folder / "report"), "at_budget": [c.to_dict() for c in found.found]}
