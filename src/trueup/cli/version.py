"""``trueup version``: what is installed."""

from __future__ import annotations

import typer

import trueup
from trueup.cli.options import Json
from trueup.cli.output import Output


def version(ctx: typer.Context, json: Json = False) -> None:
    """Show the version of trueup and of the libraries that can change a number."""
    from trueup.store.manifest import environment

    output: Output = ctx.obj
    found = environment()
    lines = [f"trueup {trueup.__version__}" + (f" ({found['commit'][:10]})" if found["commit"] else ""), f"python {found['python']}"]
    output.result(found, *lines, *(f"{name} {number}" for name, number in found["versions"].items()))
