"""``trueup reward evaluate``: what is wrong with a reward model, as an RM card."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trueup.cli.options import Json
from trueup.cli.output import Output
from trueup.cli.probes import Probing, made_probes, probing_of
from trueup.cli.teaching import (
    Ask,
    ComparisonsFile,
    LearningCurve,
    MaxTokens,
    PolicyPath,
    PromptsFile,
    ReferencePath,
    SampleCount,
    SamplesFile,
    Taught,
    Temperature,
    TrainingData,
    taught,
    teaching_of,
)
from trueup.core.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

    from trueup.core.rng import Key
    from trueup.models.reward import RewardModel


Rendered = Annotated[
    str, typer.Option("--rendering", help="How chat messages become text where a model has no chat template: template (refuses) or roles.")
]


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
    probes: Annotated[
        str | None,
        typer.Option(
            "--probes", metavar="N|FILE", help="Replies to change and score again (200; 0 for none); beside --scores a file of such scores."
        ),
    ] = None,
    phrase: Annotated[list[str] | None, typer.Option("--phrase", metavar="TEXT", help="A further text to append; may be repeated.")] = None,
    policy: PolicyPath = None,
    reference: ReferencePath = None,
    prompts: PromptsFile = None,
    samples: SampleCount = None,
    max_tokens: MaxTokens = None,
    temperature: Temperature = None,
    samples_file: SamplesFile = None,
    comparisons: ComparisonsFile = None,
    ask: Ask = None,
    training_data: TrainingData = None,
    learning_curve: LearningCurve = False,
    rendering: Rendered = "template",
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave out rows that teach nothing, and count them.")] = False,
    seed: Annotated[int, typer.Option("--seed", help="Of the bootstraps.")] = 0,
    json: Json = False,
) -> None:
    """Examine reward models: accuracy by domain, style, length, calibration; one, or several side by side."""
    output, models, files = ctx.obj, reward_model or [], data or []
    if (scores is None) == (not models) or (scores is not None and files):
        raise UserError("give either --reward-model and --data, or --scores.", where="reward evaluate")
    if models and not files:
        raise UserError("--reward-model needs --data, a file of judged replies.", where="reward evaluate")
    if agreement is not None and not 0.5 < agreement <= 1:
        raise UserError(f"must be above 0.5 and at most 1, got {agreement:g}. At 0.5 labels hold no signal.", where="--agreement")
    if rendering not in ("template", "roles"):
        raise UserError(f"must be 'template' or 'roles', got '{rendering}'.", where="--rendering")
    probing = probing_of(probes, phrase or [], from_file=scores is not None)
    teaching = teaching_of(
        policy=policy, reference=reference, prompts=prompts, samples=samples, max_tokens=max_tokens, temperature=temperature,
        samples_file=samples_file, comparisons=comparisons, ask=ask, training=training_data or [], curve=learning_curve,
        from_file=scores is not None,
    )  # fmt: skip
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError("is not an empty folder. Choose another with --out.", where=str(out))
    from trueup.core.rng import Key

    if scores is not None:
        made = _from_file(scores, probing)
    else:
        made = _from_models(output, models, files, probing, Key(seed), rendering=rendering, skip_bad=skip_bad, stated=agreement is not None)
    _examined(output, out, seed, made, taught(teaching, made.loaded, made.models, Key(seed) / "teaching", output), agreement)


def _examined(output: Output, out: Path, seed: int, made: _Made, known: Taught, agreement: float | None) -> None:
    from trueup.core.rng import Key
    from trueup.mismatch.reward_model.card import examine
    from trueup.report.card import facts_of, write_card
    from trueup.store.files import write_frame
    from trueup.store.manifest import environment

    found = examine(
        made.scores, Key(seed) / "card", probes=made.probes, samples=known.samples, comparisons=known.comparisons, curves=known.curves,
        votes=made.votes, agreement=agreement, calibrations=_calibrations(made.models),
    )  # fmt: skip
    around = environment()
    more = {"seed": seed, "trueup": around["trueup"], "commit": around["commit"] or "none"}
    tables = {name: table for name, table in (("scores", made.scores), ("probes", made.probes)) if not table.empty}
    for name, table in tables.items():
        write_frame(out / f"{name}.parquet", table)
    written = {**{name: str(out / f"{name}.parquet") for name in tables}, **known.write(out)}
    paths = write_card(out, found, facts_of(made.models, [*made.sources, *known.sources], more), _reports(made.models))
    places = {"html": str(paths.html), "json": str(paths.json), "markdown": str(paths.markdown)}
    verdicts = [{"model": d.arm, "question": d.name, "verdict": d.verdict, "rule": d.rule} for d in found.diagnoses]
    lines = [f"{v['model']}: {v['question']}: {v['verdict']}. {v['rule']}" for v in verdicts]
    lines += [f"pairs to label {written['comparisons_to_label']}"] if known.to_label else []
    output.result(
        {"card": places, **written, "models": list(found.models), "data": found.data, "verdicts": verdicts}, *lines, f"card {paths.html}"
    )


def _calibrations(models: list[dict[str, Any]]) -> dict[str, Any]:
    """Maps to chances of the models whose folders hold one."""
    places = {m["name"]: Path(m["path"]) for m in models if "path" in m}
    if not places:
        return {}
    from trueup.rewards.calibrated import read_calibration

    found = {name: read_calibration(path) for name, path in places.items()}
    return {name: map_ for name, map_ in found.items() if map_ is not None}


def _reports(models: list[dict[str, Any]]) -> dict[str, dict[str, str]]:
    """What is stated of the models that have folders."""
    places = {m["name"]: m["path"] for m in models if "path" in m}
    if not places:
        return {}
    from trueup.pipeline.reward_report import shown_report

    return {name: shown_report(path) for name, path in places.items()}


@dataclass(frozen=True, kw_only=True)
class _Made:
    """What is examined, and what it was made from."""

    scores: pd.DataFrame
    probes: pd.DataFrame
    votes: pd.DataFrame
    sources: list[dict[str, Any]]
    models: list[dict[str, Any]]
    loaded: Mapping[str, RewardModel] = field(default_factory=dict)
    """By name; empty where scores come from a file."""


def _from_file(path: Path, probing: Probing) -> _Made:
    from trueup.mismatch.reward_model.question import NOTHING
    from trueup.pipeline.scores import read_probes, read_scores
    from trueup.store.files import file_sha256

    frame = read_scores(path)
    probes = NOTHING if probing.file is None else read_probes(probing.file, frame)
    sources = [{"file": str(f), "sha256": file_sha256(f)} for f in (path, probing.file) if f is not None]
    names = [{"name": n} for n in sorted(set(frame["model"]))]
    return _Made(scores=frame, probes=probes, votes=NOTHING, sources=sources, models=names)


def _from_models(
    output: Output, models: list[str], files: list[str], probing: Probing, key: Key, *, rendering: Any, skip_bad: bool, stated: bool
) -> _Made:
    from dataclasses import replace

    from trueup.data.judgements import read_judged
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
    loaded = {name: _loaded(path, rendering) for name, path in zip(_names(models), models, strict=True)}
    names = [{"name": name, "path": path} for name, path in zip(loaded, models, strict=True)]
    frame = score_models(loaded, groups)
    probes = made_probes(probing, loaded, groups, frame, key / "probes")
    return _Made(scores=frame, probes=probes, votes=votes_of(groups), sources=sources, models=names, loaded=loaded)


def _loaded(path: str, rendering: Any) -> RewardModel:
    """A reward model that cuts what is longer than its context: one long reply must not end an examination of thousands."""
    from trueup.models.reward import TrunkReward, load_reward

    model = load_reward(path, rendering=rendering)
    if isinstance(model, TrunkReward):
        model.cut_replies = True
    return model


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
