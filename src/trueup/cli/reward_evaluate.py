"""``trueup reward evaluate``: what is wrong with a reward model, as an RM card."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trueup.cli.options import Json
from trueup.cli.output import Output
from trueup.core.errors import UserError

if TYPE_CHECKING:
    import pandas as pd


def evaluate(
    ctx: typer.Context,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="New or empty folder for the card.")],
    reward_model: Annotated[
        list[str] | None, typer.Option("--reward-model", metavar="PATH|NAME", help="Folder or hub name; may be repeated.")
    ] = None,
    data: Annotated[list[str] | None, typer.Option("--data", metavar="FILE|NAME", help="Judged replies; may be repeated.")] = None,
    scores: Annotated[Path | None, typer.Option("--scores", metavar="FILE", help="Scores made elsewhere, instead of models.")] = None,
    agreement: Annotated[
        float | None,
        typer.Option("--agreement", metavar="SHARE", help="Share of pairs on which two annotators agree, where each pair has one label."),
    ] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave out rows that teach nothing, and count them.")] = False,
    seed: Annotated[int, typer.Option("--seed", help="Of the bootstraps.")] = 0,
    json: Json = False,
) -> None:
    """Examine reward models: accuracy by domain, style, length, calibration; one, or several side by side."""
    output: Output = ctx.obj
    models, files = reward_model or [], data or []
    if (scores is None) == (not models) or (scores is not None and files):
        raise UserError("give either --reward-model and --data, or --scores.", where="reward evaluate")
    if models and not files:
        raise UserError("--reward-model needs --data, a file of judged replies.", where="reward evaluate")
    if agreement is not None and not 0.5 < agreement <= 1:
        raise UserError(f"must be above 0.5 and at most 1, got {agreement:g}. At 0.5 labels hold no signal.", where="--agreement")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError("is not an empty folder. Choose another with --out.", where=str(out))
    from trueup.core.rng import Key
    from trueup.mismatch.reward_model.card import examine
    from trueup.report.card import facts_of, write_card
    from trueup.store.files import write_frame
    from trueup.store.manifest import environment

    made_of = _from_file(scores) if scores is not None else _from_models(output, models, files, skip_bad, stated=agreement is not None)
    frame, votes, sources, made = made_of
    found = examine(frame, Key(seed) / "card", votes=votes, agreement=agreement)
    known = environment()
    facts = facts_of(made, sources, {"seed": seed, "trueup": known["trueup"], "commit": known["commit"] or "none"})
    write_frame(out / "scores.parquet", frame)
    paths = write_card(out, found, facts)
    places = {"html": str(paths.html), "json": str(paths.json), "markdown": str(paths.markdown)}
    verdicts = [{"model": d.arm, "question": d.name, "verdict": d.verdict, "rule": d.rule} for d in found.diagnoses]
    lines = [f"{v['model']}: {v['question']}: {v['verdict']}. {v['rule']}" for v in verdicts]
    output.result(
        {"card": places, "scores": str(out / "scores.parquet"), "models": list(found.models), "data": found.data, "verdicts": verdicts},
        *lines,
        f"card {paths.html}",
    )


Made = tuple["pd.DataFrame", "pd.DataFrame", list[dict[str, Any]], list[dict[str, Any]]]


def _from_file(path: Path) -> Made:
    from trueup.mismatch.reward_model.question import NOTHING
    from trueup.pipeline.scores import read_scores
    from trueup.store.files import file_sha256

    frame = read_scores(path)
    return frame, NOTHING, [{"file": str(path), "sha256": file_sha256(path)}], [{"name": n} for n in sorted(set(frame["model"]))]


def _from_models(output: Output, models: list[str], files: list[str], skip_bad: bool, *, stated: bool) -> Made:
    from dataclasses import replace

    from trueup.data.judgements import read_judged
    from trueup.models.reward import load_reward
    from trueup.pipeline.examine import score_models, votes_of
    from trueup.store.files import file_sha256

    groups, sources = [], []
    for file in files:
        reading = read_judged(file, on_bad="skip" if skip_bad else "error")
        output.console.print(f"{file}: {reading.statement()}", markup=False, soft_wrap=True)
        # rows of several files may be numbered alike; a file's name is the domain of rows that name none
        stem = Path(file).name.split(".")[0]
        groups += [replace(g, id=f"{stem}/{g.id}", domain=g.domain or (stem if len(files) > 1 else "")) for g in reading.rows]
        digest = {"sha256": file_sha256(Path(file))} if Path(file).is_file() else {}
        sources.append({"file": file, "read": reading.statement(), **digest})
    if stated and any(len(g.votes) > 1 for g in groups):
        raise UserError("the data have several labels a pair, so agreement is measured. Leave it out.", where="--agreement")
    loaded = {name: load_reward(path) for name, path in zip(_names(models), models, strict=True)}
    made = [{"name": name, "path": path} for name, path in zip(loaded, models, strict=True)]
    return score_models(loaded, groups), votes_of(groups), sources, made


def _names(models: list[str]) -> list[str]:
    """The shortest ends of the paths that tell the models apart."""
    if len(set(models)) < len(models):
        raise UserError("a reward model is named twice.", where="--reward-model")
    parts = [Path(m).parts for m in models]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(p[-length:]) for p in parts]
        if len(set(names)) == len(names):
            return names
    return models
