"""``trueup audit``: diagnoses and a report of models that were trained anywhere, from samples that exist or are drawn now."""

from __future__ import annotations

import shlex
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trueup.cli.audit_logs import Curve, Higher, Logs, Lower, from_logs
from trueup.cli.launch import Stopped
from trueup.cli.options import Json, Overrides, Quiet, Resume
from trueup.cli.output import Output
from trueup.core.errors import UserError

if TYPE_CHECKING:
    from trueup.report.audited import AuditedRecords

_SETTINGS = {
    "policy": "policies", "reference": "reference", "reward-model": "reward_models", "preferences": "preferences", "prompts": "prompts",
    "gold": "gold", "samples": "samples_per_prompt", "max-prompts": "max_prompts", "max-tokens": "max_completion_length", "seed": "seed",
}  # fmt: skip
"""Options of the audit of models -> its settings."""


def audit(
    ctx: typer.Context,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder of records and report; new or empty, unless --resume.")],
    records: Annotated[
        list[str] | None, typer.Option("--records", metavar="FILE", help="Samples with scores: CSV, JSONL or Parquet; may be repeated.")
    ] = None,
    more: Annotated[list[str] | None, typer.Argument(metavar="[FILE...]", help="More files of --records.")] = None,
    column: Annotated[
        list[str] | None, typer.Option("--column", metavar="OURS=THEIRS", help="Which column of the files is which; may be repeated.")
    ] = None,
    policy: Annotated[
        list[str] | None, typer.Option("--policy", metavar="PATH|NAME", help="Checkpoint, or LoRA adapter; may be repeated.")
    ] = None,
    reference: Annotated[str | None, typer.Option("--reference", metavar="PATH|NAME", help="The policy before its optimisation.")] = None,
    reward_model: Annotated[
        list[str] | None, typer.Option("--reward-model", metavar="PATH|NAME", help="What was optimised; an ensemble if repeated.")
    ] = None,
    preferences: Annotated[
        str | None, typer.Option("--preferences", metavar="FILE", help="Pairs that the reward model did not learn from.")
    ] = None,
    prompts: Annotated[str | None, typer.Option("--prompts", metavar="FILE", help="What is answered; else the pairs' prompts.")] = None,
    gold: Annotated[
        str | None, typer.Option("--gold", metavar="KIND", help="What is true: vader, pattern:EXPRESSION, or a reward model's folder.")
    ] = None,
    samples: Annotated[int | None, typer.Option("--samples", metavar="K", help="Replies to each prompt; 4 if left out.")] = None,
    max_prompts: Annotated[int | None, typer.Option("--max-prompts", metavar="N", help="Prompts drawn; 100 if left out.")] = None,
    max_tokens: Annotated[int | None, typer.Option("--max-tokens", metavar="N", help="Longest reply; 128 if left out.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Of the samples; 0 if left out.")] = None,
    overrides: Overrides = None,
    labels: Annotated[Path | None, typer.Option("--labels", metavar="FILE", help="Comparisons of the replies.")] = None,
    evaluations: Annotated[
        Path | None, typer.Option("--evaluations", metavar="FILE", help="Evaluations of checkpoints: step, name, value [, n].")
    ] = None,
    logs: Logs = None,
    curve: Curve = None,
    higher: Higher = None,
    lower: Lower = None,
    resume: Resume = False,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Audit models trained anywhere: from files of samples without any model, by sampling checkpoints, or from curves alone."""
    output, files = ctx.obj, [*(records or []), *(more or [])]
    values = {
        "policy": policy, "reference": reference, "reward-model": reward_model, "preferences": preferences, "prompts": prompts,
        "gold": gold, "samples": samples, "max-prompts": max_prompts, "max-tokens": max_tokens, "seed": seed,
    }  # fmt: skip
    given = {name: value for name, value in values.items() if value is not None}
    beside = {"labels": labels, "evaluations": evaluations}
    others = {"records": files, "column": column, "set": overrides, "resume": resume, **beside, **given}
    if logs or curve or higher or lower:
        return from_logs(output, out, logs or [], {"curve": curve, "higher": higher, "lower": lower}, others)
    _check(files, given, column or [], overrides or [])
    if files:
        from trueup.cli.launch import report_key
        from trueup.report.audited import audit_records

        found = audit_records(files, out, columns=columns_of(column or []), resume=resume, key=report_key(), **beside)
    else:
        found = _from_models(output, out, given, overrides or [], beside, resume=resume, quiet=quiet)
    _say(output, out, found)


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


def _check(files: list[str], given: dict[str, Any], columns: list[str], overrides: list[str]) -> None:
    """Files or models, and what goes with them."""
    if files:
        beside = [f"--{name}" for name in given] + (["--set"] if overrides else [])
        if beside:
            raise UserError("belongs to an audit of models, not beside --records.", where=beside[0])
        return
    if columns:
        raise UserError("names columns of --records, which are not given.", where="--column")
    if not given:
        raise UserError("give --records, files of samples; or --policy, --reference, --reward-model and --preferences.", where="audit")
    for name in ("policy", "reference", "reward-model"):
        if name not in given:
            raise UserError(
                "an audit of models needs it, beside --policy, --reference, --reward-model and --preferences.", where=f"--{name}"
            )
    if not {"preferences", "prompts"} & set(given):
        raise UserError("give --preferences, --prompts, or both: the checkpoints must answer something.", where="--preferences")


def _from_models(
    output: Output, out: Path, given: dict[str, Any], overrides: list[str], beside: dict[str, Path | None], *, resume: bool, quiet: bool
) -> AuditedRecords:
    from trueup.cli.launch import report_key
    from trueup.cli.progress import watching

    try:
        with output.console.status("loading ...") if not quiet and output.console.is_terminal else nullcontext():
            from trueup.core.config import applied, validate
            from trueup.pipeline.audit import audit_models
            from trueup.pipeline.audit_config import AuditConfig

        config = validate(applied({_SETTINGS[name]: value for name, value in given.items()}, overrides), AuditConfig, where="audit")
        with watching(output.console, quiet=quiet) as listen:
            return audit_models(config, out, resume=resume, on_event=listen, key=report_key(), **beside)
    except KeyboardInterrupt as error:
        raise Stopped(shlex.join([*_words(out, given, overrides, beside), "--resume"])) from error


def _words(out: Path, given: dict[str, Any], overrides: list[str], beside: dict[str, Path | None]) -> list[str]:
    """The command line, without ``--resume``."""
    found = ["trueup", "audit", "--out", str(out)]
    for name, value in {**given, "set": overrides, **beside}.items():
        for one in value if isinstance(value, list) else [] if value is None else [value]:
            found += [f"--{name}", str(one)]
    return found


def _say(output: Output, out: Path, found: AuditedRecords) -> None:
    """What was found, for people and for programs."""
    data, reading = found.data, found.reading
    places = {"html": str(found.paths.html), "json": str(found.paths.json), "markdown": str(found.paths.markdown)}
    columns = ", ".join(f"{ours} from {theirs}" if ours != theirs else ours for ours, theirs in reading["read"].items())
    lines = [f"{reading['rows']:,} rows" + (f"; read {columns}" if columns else "")]
    lines += [f"ignored columns: {', '.join(reading['ignored'])}"] if reading["ignored"] else []
    lines += [f"missing {name}: {why}" for name, why in reading["missing"].items()]
    if reading["labels"]:
        told = reading["labels"]
        lines.append(f"comparisons: {told['among_samples']} of the samples, {told['offline']} offline, {told['left_out']} left out")
    alarms = [d for d in data["diagnoses"] if d["verdict"] == "alarm"]
    lines += [f"alarm, {d['arm']}, {d['name']}: {d['rule']}" for d in alarms] or ["no alarm"]
    lines += [f"{arm}: {d['why']}" for arm, d in data["decisions"].items()]
    verdicts = [{k: d[k] for k in ("arm", "link", "name", "verdict", "rule")} for d in data["diagnoses"]]
    values = {"run": str(out), "report": places, "reading": reading, "verdicts": verdicts, "decisions": data["decisions"]}
    output.result(values, *lines, f"report {places['html']}")
