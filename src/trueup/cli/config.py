"""``trueup config show``: every setting of a kind, as YAML to start from."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer

from trueup.cli.options import Json
from trueup.cli.output import Output


def show(
    ctx: typer.Context,
    kind: Annotated[
        str, typer.Argument(metavar="KIND", help="`run`, `compare`, `isolate`, `decode`, a kind of `trueup list`, or a dotted module.")
    ],
    json: Json = False,
) -> None:
    """Print a complete, commented YAML with every setting, its bounds and its default."""
    from trueup.cli.families import FAMILIES, members
    from trueup.cli.template import entries, render

    output: Output = ctx.obj
    family, schema = configuration(kind)
    # Every configuration derives from the diagnoses' base, so that family says nothing about a field.
    kinds = {one.base.partition(":")[2]: [m.kind for m in members(one)] for one in FAMILIES if one.name != "diagnoses"}
    text = render(schema, kinds)
    output.plain({"kind": kind, "family": family, "yaml": text, "fields": [asdict(entry) for entry in entries(schema)]}, text)


def configuration(kind: str) -> tuple[str, type[Any]]:
    """The family (``run``, ``compare``, ``isolate`` and ``decode`` for whole configurations) and the configuration class of a kind.

    Raises:
        UserError: there is no such kind.
    """
    if kind == "run":
        from trueup.pipeline.config import RunConfig

        return "run", RunConfig
    if kind == "compare":
        from trueup.pipeline.compare_config import CompareConfig

        return "compare", CompareConfig
    if kind == "isolate":
        from trueup.pipeline.isolate_config import IsolateConfig

        return "isolate", IsolateConfig
    if kind == "decode":
        from trueup.pipeline.decode_config import DecodeConfig

        return "decode", DecodeConfig
    from trueup.cli.families import base_class, find
    from trueup.core.component import config_class

    family, module = find(kind)
    package, _, name = module.rpartition(".")
    inside = package in family.packages
    return family.name, config_class(package if inside else family.packages[0], name if inside else module, base_class(family))
