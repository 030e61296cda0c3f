"""Options that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ConfigFile = Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML file; `trueup config show run` prints a complete one.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="A.B=C", help="Replace a value of the configuration; may be repeated.")
]
OutFolder = Annotated[Path | None, typer.Option("--out", metavar="DIR", help="The run's folder; runs/<name of the file> if left out.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with what the folder holds.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, only the result.")]
Json = Annotated[bool, typer.Option("--json", help="Print exactly one JSON object; all else goes to standard error.")]
