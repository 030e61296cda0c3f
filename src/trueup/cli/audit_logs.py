"""``trueup audit --logs``: what is left to say when a training left nothing but its curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from trueup.cli.output import Output
from trueup.core.errors import UserError

Logs = Annotated[
    list[str] | None,
    typer.Option("--logs", metavar="PATH", help="Curves alone: a training's folder, trainer_state.json, event files, CSV or JSONL."),
]
Curve = Annotated[list[str] | None, typer.Option("--curve", metavar="OURS=NAME", help="Which curve of --logs is which; may be repeated.")]
Higher = Annotated[list[str] | None, typer.Option("--higher", metavar="NAME", help="An evaluation of --logs of which more is better.")]
Lower = Annotated[list[str] | None, typer.Option("--lower", metavar="NAME", help="An evaluation of --logs of which less is better.")]


def from_logs(output: Output, out: Path, logs: Sequence[str], said: Mapping[str, Sequence[str] | None], others: Mapping[str, Any]) -> None:
    """Read the logs, write their page, and say what it found.

    Args:
        output: where results go.
        out: folder of the page.
        logs: files or folders; may be empty, where ``said`` is refused.
        said: values of ``curve``, ``higher`` and ``lower``.
        others: options of other audits, with their values.

    Raises:
        UserError: an option that does not go with the others, a log that cannot be read, or a folder that is in use.
    """
    if not logs:
        raise UserError("is about --logs, which is not given.", where=f"--{next(name for name, words in said.items() if words)}")
    beside = [name for name, value in others.items() if value]
    if beside:
        raise UserError("does not go with --logs: curves are audited by themselves.", where=f"--{beside[0]}")
    if out.is_dir() and any(out.iterdir()) and not (out / "report.json").is_file():
        raise UserError("the folder is not empty and holds no page of logs. Choose another folder with --out.", where=str(out))
    from trueup.cli.launch import report_key
    from trueup.mismatch.curves_alone.table import CurvesAlone
    from trueup.report.curves_page import audit_logs

    usual, higher, lower = CurvesAlone(), said.get("higher") or (), said.get("lower") or ()
    settings = CurvesAlone(higher_is_better=(*higher, *usual.higher_is_better), lower_is_better=(*lower, *usual.lower_is_better))
    named = _curves(said.get("curve") or ())
    places, document = audit_logs(logs, out, key=report_key(), curves=named, settings=settings, judged=(*higher, *lower))
    alarms = [d for d in document["diagnoses"] if d["verdict"] == "alarm"]
    lines = [_read(log) for log in document["logs"]]
    lines += [f"alarm, {d['arm']}, {d['name']}: {d['rule']}" for d in alarms] or ["no alarm, which curves alone cannot make good news"]
    lines.append("cannot be told from curves: over-optimisation, which checkpoint to keep; the page says why, and what would tell")
    files = {"html": str(places.html), "json": str(places.json), "markdown": str(places.markdown)}
    verdicts = [{k: d[k] for k in ("arm", "link", "name", "verdict", "rule")} for d in document["diagnoses"]]
    output.result({"report": files, "logs": document["logs"], "verdicts": verdicts}, *lines, f"report {places.html}")


def _curves(words: Sequence[str]) -> dict[str, str]:
    found = {}
    for word in words:
        ours, sign, name = word.partition("=")
        if not (ours and sign and name):
            raise UserError(f"must be OURS=NAME, such as proxy=my/reward, got '{word}'.", where="--curve")
        found[ours] = name
    return found


def _read(log: Mapping[str, Any]) -> str:
    read = ", ".join(f"{curve} from {name}" for curve, name in log["used"].items())
    unknown = f"; unknown: {', '.join(log['unknown'])}" if log["unknown"] else ""
    return f"{log['name']} ({log['form']}, steps {log['steps'][0]} to {log['steps'][1]}): {read}{unknown}"
