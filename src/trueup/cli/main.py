"""The command ``trueup``: its verbs, and how failures end.

| status | meaning |
|---|---|
| 0 | done |
| 1 | a bug: traceback |
| 2 | something the user can fix: one message |
| 130 | stopped by the user |
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import typer

from trueup.cli import (
    audit,
    compare,
    config,
    data,
    decode,
    isolate,
    kinds,
    merge,
    policy,
    quickstart,
    report,
    reward,
    reward_evaluate,
    run,
    sft,
    version,
)
from trueup.cli.launch import Stopped
from trueup.cli.output import Output, only_result
from trueup.core.errors import UserError

app = typer.Typer(
    name="trueup",
    help="Train from human preferences, measure where reward model, policy and evaluation drift apart, and true the reward model up.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("quickstart")(quickstart.quickstart)
app.command("run")(run.run)
app.command("sft")(sft.sft)
app.command("reward")(reward.reward)
app.command("policy")(policy.policy)
app.command("decode")(decode.decode)
app.command("compare")(compare.compare)
app.command("isolate")(isolate.isolate)
app.command("merge")(merge.merge)
app.command("reward evaluate")(reward_evaluate.evaluate)
app.command("audit")(audit.audit)
app.command("report")(report.report)
app.command("list")(kinds.kinds)
app.command("version")(version.version)
settings = typer.Typer(help="Show settings.", no_args_is_help=True)
settings.command("show")(config.show)
app.add_typer(settings, name="config")
sets = typer.Typer(help="What data sets are worth.", no_args_is_help=True)
sets.command("ceiling")(data.ceiling)
app.add_typer(sets, name="data")


def main() -> None:
    """Entry point of the console script. Modules in the present folder can be named as kinds, as under ``python -m``; they hide nothing."""
    sys.path.append(str(Path.cwd()))
    sys.exit(invoke(sys.argv[1:]))


def invoke(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit status; only bugs raise.

    Args:
        arguments: the words after ``trueup``.
    """
    arguments = joined(arguments)
    with only_result("--json" in arguments) as json_to:
        command = next((a for a in arguments if not a.startswith("-")), "")
        output = Output(command, json_to)
        try:
            app(args=arguments, prog_name="trueup", obj=output)
        except UserError as error:
            output.refuse(error)
            return 2
        except (Stopped, KeyboardInterrupt) as stop:
            again = f" Go on with: {stop.resume}" if isinstance(stop, Stopped) else ""
            output.console.print(f"stopped.{again}", style="bold", markup=False, soft_wrap=True)
            output.failed(f"stopped by the user.{again}", status=130)
            return 130
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 1
            if status:
                output.failed("the command line is wrong; standard error says how.", status=status)
            return status
        except Exception as bug:
            output.failed(f"a bug in trueup ({type(bug).__name__}: {bug}); standard error has the traceback.", status=1)
            raise
    return 0


def joined(arguments: Sequence[str]) -> list[str]:
    """The words with ``reward evaluate`` as one: a verb of two words beside one that takes a file."""
    if list(arguments[:2]) == ["reward", "evaluate"]:
        return ["reward evaluate", *arguments[2:]]
    return list(arguments)
