"""Options of ``trueup reward evaluate`` on policies: their samples, comparisons of these, and the training data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trueup.cli.output import Output
from trueup.core.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

    from trueup.core.rng import Key
    from trueup.data.rows import Judged
    from trueup.models.reward import RewardModel

SAMPLES, TOKENS = 16, 48
PolicyPath = Annotated[str | None, typer.Option("--policy", metavar="PATH|NAME", help="Optimised policy to sample; needs --prompts.")]
ReferencePath = Annotated[
    str | None, typer.Option("--reference", metavar="PATH|NAME", help="Policy before its optimisation, to sample; needs --prompts.")
]
PromptsFile = Annotated[str | None, typer.Option("--prompts", metavar="FILE", help="What the policies are asked.")]
SampleCount = Annotated[int | None, typer.Option("--samples", metavar="K", help=f"Replies to each prompt ({SAMPLES}).")]
MaxTokens = Annotated[int | None, typer.Option("--max-tokens", metavar="N", help=f"Longest reply sampled, tokens ({TOKENS}).")]
Temperature = Annotated[float | None, typer.Option("--temperature", help="Of the sampling (1).")]
SamplesFile = Annotated[Path | None, typer.Option("--samples-file", metavar="FILE", help="Samples made elsewhere, instead of policies.")]
ComparisonsFile = Annotated[Path | None, typer.Option("--comparisons", metavar="FILE", help="Labelled comparisons of samples.")]
Ask = Annotated[int | None, typer.Option("--ask", metavar="N", help="Write N pairs of reference samples to have labelled.")]
TrainingData = Annotated[
    list[str] | None, typer.Option("--training-data", metavar="FILE|NAME", help="What the reward models learned from; may be repeated.")
]
LearningCurve = Annotated[bool, typer.Option("--learning-curve", help="Fit heads on embeddings again to shares of --training-data.")]


@dataclass(frozen=True, kw_only=True)
class Teaching:
    """What was asked for."""

    policies: Mapping[str, str] = field(default_factory=dict)
    """``reference`` and ``policy`` -> where they are."""
    prompts: str | None = None
    samples: int = SAMPLES
    max_tokens: int = TOKENS
    temperature: float = 1.0
    file: Path | None = None
    """Samples made elsewhere."""
    comparisons: Path | None = None
    ask: int | None = None
    """Pairs to choose for labelling."""
    training: tuple[str, ...] = ()
    """Files of training data."""
    curve: bool = False
    """Whether to fit again."""


@dataclass(frozen=True, kw_only=True)
class Taught:
    """What was made of it."""

    samples: pd.DataFrame
    comparisons: pd.DataFrame
    curves: pd.DataFrame
    to_label: list[dict[str, Any]]
    sources: list[dict[str, Any]]

    def write(self, out: Path) -> dict[str, str]:
        """Write ``samples.parquet``, ``learning-curve.parquet`` and ``comparisons-to-label.jsonl``, where there are any: name -> place."""
        import json

        from trueup.store.atomic import write_text
        from trueup.store.files import write_frame

        places = {}
        for name, table in (("samples", self.samples), ("learning-curve", self.curves)):
            if not table.empty:
                write_frame(out / f"{name}.parquet", table)
                places[name.replace("-", "_")] = str(out / f"{name}.parquet")
        if self.to_label:
            path = out / "comparisons-to-label.jsonl"
            write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in self.to_label))
            places["comparisons_to_label"] = str(path)
        return places


def teaching_of(
    *,
    policy: str | None,
    reference: str | None,
    prompts: str | None,
    samples: int | None,
    max_tokens: int | None,
    temperature: float | None,
    samples_file: Path | None,
    comparisons: Path | None,
    ask: int | None,
    training: Sequence[str],
    curve: bool,
    from_file: bool,
) -> Teaching:
    """What the options ask for.

    Raises:
        UserError: options that do not go together, or numbers out of range.
    """
    policies = {n: p for n, p in (("reference", reference), ("policy", policy)) if p is not None}
    sampled = next((o for o, v in (("--policy", policy), ("--reference", reference)) if v is not None), None)
    if sampled and from_file:
        raise UserError("needs a --reward-model to score what is sampled. Beside --scores give --samples-file.", where=sampled)
    if sampled and samples_file is not None:
        raise UserError("samples come from a file, so no policy is sampled. Leave out one of the two.", where="--samples-file")
    if bool(sampled) != (prompts is not None):
        raise UserError("--policy and --reference need --prompts, and the other way round.", where=sampled or "--prompts")
    only_sampled = {"--samples": samples, "--max-tokens": max_tokens, "--temperature": temperature}
    for option, value in only_sampled.items():
        if value is not None and not sampled:
            raise UserError("says how policies are sampled. Give --reference or --policy.", where=option)
    for option, value, least in (("--samples", samples, 2), ("--max-tokens", max_tokens, 1), ("--ask", ask, 1)):
        if value is not None and value < least:
            raise UserError(f"must be {least} or more, got {value}.", where=option)
    if temperature is not None and temperature <= 0:
        raise UserError(f"must be above 0, got {temperature:g}.", where="--temperature")
    known = bool(sampled) or samples_file is not None
    for option, given in (("--comparisons", comparisons is not None), ("--ask", ask is not None)):
        if given and not known:
            raise UserError("is about samples of the reference. Give --reference with --prompts, or --samples-file.", where=option)
    if curve and (from_file or not training):
        raise UserError("fits models again: give --reward-model and --training-data.", where="--learning-curve")
    if training and not (known or curve):
        raise UserError("is compared with samples. Give --reference or --samples-file, or --learning-curve.", where="--training-data")
    return Teaching(
        policies=policies, prompts=prompts, samples=samples or SAMPLES, max_tokens=max_tokens or TOKENS, temperature=temperature or 1.0,
        file=samples_file, comparisons=comparisons, ask=ask, training=tuple(training), curve=curve,
    )  # fmt: skip


def taught(asked: Teaching, loaded: Mapping[str, RewardModel], models: Sequence[Mapping[str, str]], key: Key, output: Output) -> Taught:
    """Samples, comparisons and curves, as they were asked for; empty tables where they were not.

    Args:
        asked: the options.
        loaded: models that score samples; none where scores come from a file.
        models: ``name`` of each model examined, and ``path`` where it has one.
        key: random stream.
        output: where progress and what is left out are said.
    """
    from trueup.mismatch.reward_model.question import NOTHING
    from trueup.pipeline.sample_files import pairs_to_label, read_comparisons
    from trueup.store.files import file_sha256

    training = _training(asked, output)
    samples = _samples(asked, loaded, [m["name"] for m in models], training, key)
    comparisons = NOTHING if asked.comparisons is None else read_comparisons(asked.comparisons, samples)
    to_label = [] if asked.ask is None else pairs_to_label(samples, asked.ask, key / "ask")
    curves = _curves(loaded, {m["name"]: m.get("path", "") for m in models}, training, key / "curve", output) if asked.curve else NOTHING
    files = [
        f for f in (asked.file, asked.comparisons, *map(Path, asked.training), Path(asked.prompts or "")) if f is not None and f.is_file()
    ]
    sources = [{"file": str(f), "sha256": file_sha256(f)} for f in files]
    sources += [{name: path} for name, path in asked.policies.items()]
    return Taught(samples=samples, comparisons=comparisons, curves=curves, to_label=to_label, sources=sources)


def _samples(
    asked: Teaching, models: Mapping[str, RewardModel], names: Sequence[str], training: Sequence[Judged], key: Key
) -> pd.DataFrame:
    from trueup.mismatch.reward_model.question import NOTHING
    from trueup.pipeline.sample_files import read_samples, read_table

    if asked.file is not None and not models:
        found = read_samples(asked.file, names)
    elif asked.file is not None:
        from trueup.pipeline.policy_samples import score_samples

        found = score_samples(models, read_table(asked.file), str(asked.file))
    elif asked.prompts is not None:
        found = _sampled(asked, models, asked.prompts, key)
    else:
        return NOTHING
    if not training:
        return found
    from trueup.models.embeddings import load_embedder
    from trueup.pipeline.training_data import with_distances

    return with_distances(found, training, load_embedder(), key / "distances")


def _sampled(asked: Teaching, models: Mapping[str, RewardModel], prompts: str, key: Key) -> pd.DataFrame:
    from trueup.core.record import Decoding
    from trueup.data.prompts import read_prompts
    from trueup.pipeline.policy_samples import sample_policies, score_samples

    decoding = Decoding(temperature=asked.temperature, top_p=1.0, max_tokens=asked.max_tokens)
    return score_samples(models, sample_policies(asked.policies, read_prompts(prompts), asked.samples, decoding, key))


def _training(asked: Teaching, output: Output) -> list[Judged]:
    if not asked.training:
        return []
    from trueup.data.judgements import read_judged

    groups = []
    for file in asked.training:
        reading = read_judged(file, on_bad="skip")
        output.console.print(f"{file}: {reading.statement()}", markup=False, soft_wrap=True)
        groups += list(reading.rows)
    return groups


def _curves(
    models: Mapping[str, RewardModel], paths: Mapping[str, str], training: Sequence[Judged], key: Key, output: Output
) -> pd.DataFrame:
    """Learning curves of the models that can be fitted again."""
    import pandas as pd

    from trueup.pipeline.reward_report import stated_settings
    from trueup.pipeline.training_data import learning_curve, refit_head

    found, refused = [], None
    for name, model in models.items():
        try:
            refit = refit_head(model, stated_settings(paths[name]))
        except UserError as error:
            refused = error
            output.console.print(f"{name}: {error.message}", markup=False, soft_wrap=True)
            continue
        found.append(learning_curve(training, refit, key).assign(model=name))
    if refused is not None and not found:
        raise refused
    return pd.concat(found, ignore_index=True)
