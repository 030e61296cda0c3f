"""Start a configuration, whole or in part: what `run`, `quickstart`, `sft`, `reward`, `policy`, `compare` and `isolate` have in common."""

from __future__ import annotations

import json
import math
import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from trueup.cli.output import Output
from trueup.cli.progress import watching
from trueup.core.errors import UserError

if TYPE_CHECKING:
    from trueup.core.rng import Key
    from trueup.pipeline.events import Listener
    from trueup.pipeline.run import RunResult


class Stopped(Exception):  # noqa: N818 - the user's wish, not an error
    """The user stopped the run; it can go on.

    Args:
        resume: the command that goes on with it.
    """

    def __init__(self, resume: str) -> None:
        self.resume = resume
        super().__init__(resume)


def launch(
    output: Output,
    config: Path,
    *,
    overrides: Sequence[str] = (),
    out: Path | None = None,
    resume: bool = False,
    quiet: bool = False,
    stages: tuple[str, ...] | None = None,
    again: Sequence[str],
) -> RunResult:
    """Run a configuration file.

    Args:
        output: the invocation's channels.
        config: the file.
        overrides: ``a.b=c`` texts.
        out: the run's folder; ``runs/<name of the file>`` if None.
        resume: go on with what the folder holds.
        quiet: show no progress.
        stages: which stages; all if None.
        again: the words of the command that would start this again, without ``--resume``.

    Raises:
        UserError: anything the user can fix.
        Stopped: the user interrupted it.
    """
    # Looked at before the heavy imports below, so that a mistyped name is answered at once.
    if not os.path.isfile(config):  # unlike Path.is_file, False also where a folder on the way may not be searched
        raise UserError(
            "no such configuration file. Give the path of a YAML file; `trueup config show run` prints a complete one.", where=str(config)
        )
    folder = out or Path("runs") / config.stem
    try:
        with output.console.status("loading ...") if not quiet and output.console.is_terminal else nullcontext():
            from trueup.core.config import load_config
            from trueup.pipeline.config import RunConfig
            from trueup.pipeline.run import execute

        loaded = load_config(config, RunConfig, overrides)
        with watching(output.console, quiet=quiet) as listen:
            result = execute(loaded, folder, resume=resume, base=config.resolve().parent, stages=stages, on_event=listen)
    except KeyboardInterrupt as error:
        raise Stopped(shlex.join(["trueup", *again, "--resume"])) from error
    if os.environ.get("RANK", "0") != "0":  # set by torchrun: one process speaks for all
        raise typer.Exit
    return result


def configured(
    output: Output,
    verb: str,
    config: Path,
    overrides: Sequence[str],
    out: Path | None,
    prepare: Callable[[], Callable[[Path, Listener], Any]],
    *,
    quiet: bool,
    json: bool,
) -> tuple[Path, Any]:
    """Run a verb that has a configuration of its own: its folder, and what it found. Of several processes the first alone returns.

    Args:
        output: where the user is told.
        verb: its name, also of the configuration's kind.
        config: file.
        overrides: ``a.b=c`` texts.
        out: folder; one under ``runs`` named after the file if None.
        prepare: loads what takes time to load and gives what runs, told the folder and the listener.
        quiet: no progress.
        json: the result was asked for as JSON.

    Raises:
        UserError: no such file.
        Stopped: by the user.
    """
    if not os.path.isfile(config):
        raise UserError(f"no such configuration file. `trueup config show {verb}` prints a complete one.", where=str(config))
    folder = out or Path("runs") / config.stem
    try:
        with output.console.status("loading ...") if not quiet and output.console.is_terminal else nullcontext():
            run = prepare()
        with watching(output.console, quiet=quiet) as listen:
            found = run(folder, listen)
    except KeyboardInterrupt as error:
        again = words(verb, config, overrides, out, quiet=quiet, json=json)
        raise Stopped(shlex.join(["trueup", *again, "--resume"])) from error
    if os.environ.get("RANK", "0") != "0":
        raise typer.Exit
    return folder, found


def reported(folder: Path) -> dict[str, Any]:
    """Write a run's report; its places and its decision as plain values."""
    from trueup.report.write import write_report

    write_report(folder, key=report_key())
    return findings(folder)


def report_key() -> Key:
    """The stream of a report's intervals: fixed, so that the same records give the same bytes."""
    from trueup.core.rng import Key

    return Key(0) / "report"


def findings(folder: Path) -> dict[str, Any]:
    """Places and decision of a report that has been written, as plain values."""
    from trueup.store.run import Run

    places = places_of(Run(folder).report_dir)
    data = json.loads(Path(places["json"]).read_text(encoding="utf-8"))
    return {"report": places, "main_arm": data.get("main_arm"), "decision": data.get("decision")}


def places_of(folder: Path) -> dict[str, str]:
    """The three forms of a report."""
    return {"html": str(folder / "index.html"), "json": str(folder / "report.json"), "markdown": str(folder / "report.md")}


def facts(result: RunResult) -> dict[str, Any]:
    """What every verb that runs something says in JSON."""
    return {
        "run": str(result.root),
        "stages": list(result.stages),
        "arms": list(result.arms),
        "wall_s": round(result.wall_s, 3),
        "metrics": finite(result.metrics),
    }


def finite(metrics: Mapping[str, float]) -> dict[str, float | None]:
    """Metrics for JSON; numbers that are not finite are null."""
    return {name: value if math.isfinite(value) else None for name, value in metrics.items()}


def words(verb: str, config: Path | None, overrides: Sequence[str], out: Path | None, *, quiet: bool, json: bool) -> list[str]:
    """The command line of a verb, without ``--resume``."""
    found = [verb, *([str(config)] if config else [])]
    for override in overrides:
        found += ["--set", override]
    return [*found, *(["--out", str(out)] if out else []), *(["--quiet"] if quiet else []), *(["--json"] if json else [])]
