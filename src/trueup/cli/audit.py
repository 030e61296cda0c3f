"""``trueup audit``: diagnoses and a report of models that were trained anywhere, from samples that exist or are drawn now."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from trueup.cli.options import Json
from trueup.cli.output import Output
from trueup.core.errors import UserError


def audit(
    ctx: typer.Context,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="New or empty folder for records and report.")],
    records: Annotated[
        list[str] | None, typer.Option("--records", metavar="FILE", help="Samples with scores: CSV, JSONL or Parquet; may be repeated.")
    ] = None,
    column: Annotated[
        list[str] | None, typer.Option("--column", metavar="OURS=THEIRS", help="Which column of the files is which; may be repeated.")
    ] = None,
    labels: Annotated[Path | None, typer.Option("--labels", metavar="FILE", help="Comparisons of replies.")] = None,
    evaluations: Annotated[
        Path | None, typer.Option("--evaluations", metavar="FILE", help="Evaluations of checkpoints: step, name, value [, n].")
    ] = None,
    more: Annotated[list[str] | None, typer.Argument(metavar="[FILE...]", help="More files of --records.")] = None,
    json: Json = False,
) -> None:
    """Audit models trained anywhere: from files of samples, without any model."""
    output: Output = ctx.obj
    files = [*(records or []), *(more or [])]
    if not files:
        raise UserError("give --records, files of samples.", where="audit")
    from trueup.cli.launch import report_key
    from trueup.report.audited import audit_records

    columns = columns_of(column or [])
    found = audit_records(files, out, labels=labels, evaluations=evaluations, columns=columns, key=report_key())
    _say(output, out, found.data, found.reading)


def columns_of(words: list[str]) -> dict[str, str]:
    """``OURS=THEIRS`` texts as a mapping.

    Raises:
        UserError: one is not of that form.
    """
    found = {}
    for word in words:
        ours, sign, theirs = word.partition("=")
        if not (ours and sign and theirs):
            raise UserError(f"must be OURS=THEIRS, such as proxy=my_reward, got '{word}'.", where="--column")
        found[ours] = theirs
    return found


def _say(output: Output, out: Path, data: dict[str, Any], reading: dict[str, Any] | None) -> None:
    """What was found, for people and for programs."""
    from trueup.cli.launch import places_of
    from trueup.store.run import Run

    places = places_of(Run(out).report_dir)
    alarms = [d for d in data["diagnoses"] if d["verdict"] == "alarm"]
    lines = []
    if reading is not None:
        lines.append(
            f"read {reading['rows']:,} rows; columns {', '.join(f'{o} from {t}' if o != t else o for o, t in reading['read'].items())}"
        )
        lines += [f"ignored columns: {', '.join(reading['ignored'])}"] if reading["ignored"] else []
        lines += [f"missing {name}: {why}" for name, why in reading["missing"].items()]
    lines += [f"alarm, {d['arm']}, {d['name']}: {d['rule']}" for d in alarms] or ["no alarm"]
    lines += [f"{arm}: {d['why']}" for arm, d in data["decisions"].items()]
    verdicts = [{k: d[k] for k in ("arm", "link", "name", "verdict", "rule")} for d in data["diagnoses"]]
    values = {"run": str(out), "report": places, "reading": reading, "verdicts": verdicts, "decisions": data["decisions"]}
    output.result(values, *lines, f"report {places['html']}")
