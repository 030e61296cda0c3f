"""``trueup merge``: one model from the weights of several."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trueup.cli.options import Json
from trueup.cli.output import Output


def merge(
    ctx: typer.Context,
    model: Annotated[list[str], typer.Option("--model", metavar="PATH", help="Folder or hub name of a policy or reward model; repeat it.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="New or empty folder for the merged model.")],
    weight: Annotated[
        list[float] | None, typer.Option("--weight", metavar="W", help="Of each model, in their order, adding up to 1; equal if left out.")
    ] = None,
    pad_token: Annotated[str | None, typer.Option("--pad-token", help="Existing token to pad with, where tokenizers have none.")] = None,
    unrelated: Annotated[bool, typer.Option("--unrelated", help="Also merge models that seem to have no common beginning.")] = False,
    json: Json = False,
) -> None:
    """Average the weights of policies or of reward models: soups, and interpolation towards where they began."""
    from trueup.pipeline.merge import merge as make

    output: Output = ctx.obj
    made = make(model, weight, out, pad_token=pad_token, unrelated=unrelated)
    lines = [f"{w:g} {path} (cosine {c:.3f})" for path, w, c in zip(made.models, made.weights, made.relatedness, strict=True)]
    output.result(made.to_dict(), *lines, f"{made.kind} in {made.out}")
