"""``trueup decode``: prompts answered by a policy that is guided while it writes."""

from __future__ import annotations

import os
import shlex
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from trueup.cli.launch import Stopped
from trueup.cli.options import Json, OutFolder, Overrides, Quiet, Resume
from trueup.cli.output import Output
from trueup.cli.progress import watching
from trueup.core.errors import UserError

SHOWN = {
    "reward": "reward", "gold": "gold", "kl_nats": "KL", "kl_bound_nats": "KL at most", "n_tokens": "tokens", "finished_share": "ended",
    "compute": "cost",
}  # fmt: skip
"""Means of an arm -> heading; the cost is model tokens for every token written."""


def decode(
    ctx: typer.Context,
    config: Annotated[Path | None, typer.Argument(metavar="[CONFIG]", help="YAML file; or say all with options.")] = None,
    policy: Annotated[str | None, typer.Option("--policy", metavar="PATH|NAME", help="Policy that writes.")] = None,
    reward_model: Annotated[
        list[str] | None, typer.Option("--reward-model", metavar="PATH|NAME", help="The first one guides, all score; may be repeated.")
    ] = None,
    prefix: Annotated[str | None, typer.Option("--prefix", metavar="PATH|NAME", help="Scorer of prefixes.")] = None,
    value: Annotated[str | None, typer.Option("--value", metavar="PATH", help="The policy's value model, for mcts.")] = None,
    reference: Annotated[
        str | None, typer.Option("--reference", metavar="PATH|NAME", help="Policy that KL is measured from; --policy if left out.")
    ] = None,
    prompts: Annotated[str | None, typer.Option("--prompts", metavar="FILE|NAME", help="What is answered.")] = None,
    method: Annotated[
        list[str] | None,
        typer.Option("--method", metavar="KIND", help="Way of decoding (`trueup list decoding`); may be repeated."),
    ] = None,
    overrides: Overrides = None,
    out: OutFolder = None,
    resume: Resume = False,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Answer prompts by guided decoding: best of n, RAD, ARGS, controlled decoding, tree searches."""
    output: Output = ctx.obj
    models = {"policy": policy, "reward_models": reward_model or None, "prefix": prefix, "value": value, "reference": reference}
    given = {**models, "prompts": prompts}
    given = {name: option for name, option in given.items() if option is not None}
    if config is not None and (given or method):
        option = "--method" if method else option_of(next(iter(given)))
        raise UserError("is said in the configuration file. Use --set to change a value of it.", where=option)
    if config is None and not method:
        raise UserError("give a configuration file, or --policy, --prompts and --method.", where="decode")
    if config is not None and not os.path.isfile(config):
        raise UserError("no such configuration file. `trueup config show decode` prints a complete one.", where=str(config))
    folder = out or Path("runs") / (config.stem if config is not None else "decode")
    try:
        with output.console.status("loading ...") if not quiet and output.console.is_terminal else nullcontext():
            from trueup.pipeline.decode import decode as run

            loaded = _loaded(config, given, method or [], overrides or [])
        base = config.resolve().parent if config is not None else Path.cwd()
        with watching(output.console, quiet=quiet) as listen:
            result = run(loaded, folder, resume=resume, base=base, on_event=listen)
    except KeyboardInterrupt as error:
        again = _words(config, given, method or [], overrides or [], out, quiet=quiet, json=json)
        raise Stopped(shlex.join(["trueup", *again, "--resume"])) from error
    values = {"run": str(result.root), "replies": str(result.replies), "arms": result.arms, "wall_s": round(result.wall_s, 3)}
    output.result(values, _table(result.arms), f"replies {result.replies}")


def _loaded(config: Path | None, given: dict[str, Any], methods: list[str], overrides: list[str]) -> Any:
    """The configuration of a file, or of the options."""
    from trueup.core.config import applied, load_config, validate
    from trueup.pipeline.decode_config import DecodeConfig

    if config is not None:
        return load_config(config, DecodeConfig, overrides)
    arms = [{"name": kind.rsplit(".", 1)[-1].lower(), "decoding": {"kind": kind}} for kind in methods]
    return validate(applied({**given, "arms": arms}, overrides), DecodeConfig, where="decode")


def option_of(setting: str) -> str:
    """The option that says a setting."""
    return "--" + {"reward_models": "reward-model"}.get(setting, setting)


def _table(arms: dict[str, dict[str, float | None]]) -> Any:
    from rich.table import Table

    table = Table(box=None, padding=(0, 1))
    known = [name for name in SHOWN if any(found[name] is not None for found in arms.values())]
    table.add_column("", no_wrap=True)
    for name in known:
        table.add_column(SHOWN[name], justify="right", no_wrap=True)
    for arm, found in arms.items():
        table.add_row(arm, *("absent" if (v := found[name]) is None else f"{v:.4g}" for name in known))
    return table


def _words(
    config: Path | None, given: dict[str, Any], methods: list[str], overrides: list[str], out: Path | None, *, quiet: bool, json: bool
) -> list[str]:
    """The command line, without ``--resume``."""
    from trueup.cli.launch import words

    found = words("decode", config, overrides, out, quiet=quiet, json=json)
    for name, value in {**given, "method": methods}.items():
        for one in value if isinstance(value, list) else [value]:
            found += [option_of(name), one]
    return found
