"""The Python entry points: as good as the command line, typed, without a configuration file where one is not needed.

``import trueup`` loads none of this until a name is asked for, so that reports and diagnoses work without torch.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trueup.core.config import load_config, validate
from trueup.core.errors import UserError
from trueup.core.rng import Key
from trueup.mismatch.diagnosis import Diagnosis
from trueup.stats.estimate import Estimate

if TYPE_CHECKING:
    import pandas as pd

    from trueup.data.rows import Preference
    from trueup.mismatch.decision import Decision
    from trueup.mismatch.headlines.number import Headline
    from trueup.pipeline.audit_config import AuditConfig
    from trueup.pipeline.config import RunConfig
    from trueup.pipeline.events import Listener
    from trueup.pipeline.run import RunResult
    from trueup.realign.config import RealignConfig


def train(
    config: RunConfig | dict[str, Any] | str | Path,
    out: str | Path,
    *,
    overrides: Sequence[str] = (),
    resume: bool = False,
    report: bool = True,
    on_event: Listener | None = None,
) -> RunResult:
    """Run a whole configuration: SFT, reward model, policy arms, records, report.

    Args:
        config: a `RunConfig`, plain values, or the path of a YAML file.
        out: the run's folder.
        overrides: ``a.b=c`` texts, for a path.
        resume: go on with what the folder holds.
        report: write the report at the end.
        on_event: told of every stage and step.

    Returns:
        Where the run is and what it did.

    Raises:
        UserError: anything wrong with the configuration, the data or the disk.
    """
    from trueup.pipeline.config import RunConfig as Schema
    from trueup.pipeline.events import nobody
    from trueup.pipeline.run import execute

    base = Path.cwd()
    if isinstance(config, str | Path):
        base, config = Path(config).resolve().parent, load_config(config, Schema, overrides)
    elif isinstance(config, dict):
        config = validate(config, Schema, where="config")
    result = execute(config, Path(out), resume=resume, base=base, on_event=on_event or nobody)
    if report and config.policy is not None:
        from trueup.report.write import write_report

        write_report(Path(out), key=Key(config.seed) / "report")
    return result


@dataclass(frozen=True, kw_only=True)
class Realigned:
    """A reward model, trued up."""

    folder: Path
    selected: int
    """Offline pairs that look like what the policy writes."""
    replay: int
    """Pairs drawn from the rest, against forgetting."""
    accuracy_before: Estimate
    """On the pairs given as held out, or on the selected ones where none were."""
    accuracy_after: Estimate


def realign(
    *,
    reward_model: str | Path,
    policy: str | Path,
    preferences: str | Path | Sequence[Preference],
    out: str | Path,
    held_out: str | Path | Sequence[Preference] | None = None,
    settings: RealignConfig | None = None,
    embeddings: str | None = None,
    max_completion_length: int = 128,
    seed: int = 0,
) -> Realigned:
    """One pass of inverse alignment (FRFT, arXiv:2412.10529) on models trained anywhere.

    Freezes the policy, samples it on prompts of the preference set, keeps the part of that set that looks like the samples, and
    fine-tunes the reward model on it.

    Args:
        reward_model: folder or hub name of a sequence classifier with one label, or a reward model of ours.
        policy: folder or hub name of a causal language model.
        preferences: a file of preference rows, or the rows.
        out: new folder for the reward model.
        held_out: pairs to measure accuracy on.
        settings: every choice of the method.
        embeddings: sentence embedder; see `trueup.models.embeddings.load_embedder`.
        max_completion_length: longest sampled reply, tokens.
        seed: of the sampling, the selection and the fit.

    Raises:
        UserError: models or data that cannot be used, or an ``out`` that exists.
    """
    from trueup.data.preferences import read_preferences
    from trueup.models.embeddings import load_embedder
    from trueup.models.policy import load_policy
    from trueup.models.reward import load_reward
    from trueup.pipeline.refit import refit_once
    from trueup.realign.config import RealignConfig as Schema

    if Path(out).exists():
        raise UserError("exists already. Choose another folder for the new reward model.", where=str(out))
    pool = read_preferences(preferences) if isinstance(preferences, str | Path) else list(preferences)
    held = read_preferences(held_out) if isinstance(held_out, str | Path) else list(held_out or [])
    settings = settings or Schema()
    embedder = load_embedder(embeddings) if settings.select.needs_embeddings else None
    model = load_reward(reward_model)
    key = Key(seed) / "realign"
    plan, before, after = refit_once(
        model, load_policy(policy), pool, held, settings, embedder, key, max_tokens=max_completion_length, out=Path(out)
    )
    return Realigned(
        folder=Path(out),
        selected=plan.selected,
        replay=len(plan.rows) - plan.selected,
        accuracy_before=_share("accuracy before", before, key),
        accuracy_after=_share("accuracy after", after, key),
    )


def evaluate(reward_model: str | Path, preferences: str | Path | Sequence[Preference], *, seed: int = 0) -> dict[str, Estimate]:
    """How well a reward model orders preference pairs: accuracy (ties half), calibration error, negative log-likelihood.

    Args:
        reward_model: folder or hub name.
        preferences: a file of preference rows, or the rows.
        seed: of the bootstrap.

    Returns:
        Estimates by name, with intervals clustered by prompt. ``nll_calibrated`` is there where a calibration is kept with the model.
    """
    from trueup.data.preferences import read_preferences
    from trueup.models.reward import load_reward
    from trueup.pipeline.refit import margins
    from trueup.rewards.calibrated import read_calibration
    from trueup.stats.bootstrap import mean_estimate

    pairs = read_preferences(preferences) if isinstance(preferences, str | Path) else list(preferences)
    found = margins(load_reward(reward_model), pairs)
    key, prompts = Key(seed) / "evaluate", [p.prompt.id for p in pairs]
    rows = {
        "accuracy": [float(m > 0) + 0.5 * float(m == 0) for m in found],
        "nll": [math.log1p(math.exp(-abs(m))) + max(-m, 0.0) for m in found],
        "margin": list(found),
    }
    calibration = read_calibration(Path(reward_model))
    if calibration is not None:
        chances = calibration.probability(found, [p.prompt.tags.get("domain", "") for p in pairs])
        rows["nll_calibrated"] = [-math.log(max(float(p), 1e-12)) for p in chances]
    units = {"accuracy": "share", "nll": "nats", "margin": "score", "nll_calibrated": "nats"}
    return {name: mean_estimate(values, prompts, name, units[name], key / name) for name, values in rows.items()}


@dataclass(frozen=True, kw_only=True)
class Audit:
    """What the records say of each arm."""

    diagnoses: list[Diagnosis]
    decisions: dict[str, Decision]
    headlines: dict[str, list[Headline]] = field(default_factory=dict)
    """By arm: one number a link, in [0, 1], 1 where its two parts agree; see docs/links.md."""
    reading: dict[str, Any] | None = None
    """How files were read: ``files``, ``rows``, ``read`` (our column -> theirs), ``ignored``, ``missing``, ``labels``; None of a frame."""

    def to_json(self) -> str:
        """Everything, as JSON text."""
        return json.dumps(
            {
                "diagnoses": [d.to_dict() for d in self.diagnoses],
                "decisions": {k: v.to_dict() for k, v in self.decisions.items()},
                "headlines": {k: [h.to_dict() for h in v] for k, v in self.headlines.items()},
                "reading": self.reading,
            }
        )


def audit(
    records: pd.DataFrame | str | Path | Sequence[str | Path],
    *,
    arms: Sequence[str] | None = None,
    columns: Mapping[str, str] | None = None,
    labels: str | Path | None = None,
    evaluations: str | Path | None = None,
    seed: int = 0,
) -> Audit:
    """Diagnose the links from records alone: no model, no torch.

    Args:
        records: a run folder; files of samples that any program wrote, as docs/auditing.md has it; or a frame as
            `trueup.store.records.frame` gives it.
        arms: which arms; all but the offline set if None.
        columns: our name of a column -> the files'.
        labels: file of comparisons.
        evaluations: file of evaluations of checkpoints.
        seed: of the bootstraps.

    Raises:
        UserError: something in a file; file, line and column are named.
    """
    import pandas as pd

    from trueup.core.record import OFFLINE_ARM
    from trueup.mismatch.headline import headlines
    from trueup.mismatch.panel import keeping
    from trueup.mismatch.verdict import MismatchSettings, diagnose_all
    from trueup.report.audited import read_audited
    from trueup.store.columns import flatten

    reading = None
    if isinstance(records, pd.DataFrame):
        if columns or labels is not None or evaluations is not None:
            raise UserError("belong to files of records; a frame holds everything itself.", where="columns, labels, evaluations")
        table = records
    else:
        found, reading = read_audited([records] if isinstance(records, str | Path) else records, columns, labels, evaluations)
        table = flatten(found)
    names = list(arms) if arms is not None else [a for a in dict.fromkeys(table["arm"]) if a != OFFLINE_ARM]
    key, settings = Key(seed) / "audit", MismatchSettings()
    with keeping(table):
        diagnoses, decisions = diagnose_all(table, names, key, settings=settings)
        numbers = {n: headlines(table, n, settings.headline, settings.tracking, key / "headline" / n) for n in names}
    return Audit(diagnoses=diagnoses, decisions=decisions, headlines=numbers, reading=reading)


@dataclass(frozen=True, kw_only=True)
class AuditReport:
    """Where an audit's run folder and report are, and what was found."""

    folder: Path
    html: Path
    data: dict[str, Any]
    """The content of report.json: ``diagnoses``, ``decisions`` and the rest."""


def audit_models(
    config: AuditConfig | dict[str, Any],
    out: str | Path,
    *,
    labels: str | Path | None = None,
    evaluations: str | Path | None = None,
    resume: bool = False,
    on_event: Listener | None = None,
) -> AuditReport:
    """Sample checkpoints of a policy that was trained anywhere, score them, and write records and report.

    Args:
        config: an `AuditConfig`, or plain values: ``policies``, ``reference``, ``reward_models``, and ``preferences`` or ``prompts``.
        out: the folder of records and report.
        labels: file of comparisons of the replies.
        evaluations: file of evaluations of checkpoints.
        resume: go on with what the folder holds.
        on_event: told of every chunk.

    Raises:
        UserError: models or data that cannot be used, or a folder in use.
    """
    from trueup.pipeline.audit import audit_models as run
    from trueup.pipeline.audit_config import AuditConfig as Schema
    from trueup.pipeline.events import nobody

    config = validate(config, Schema, where="audit") if isinstance(config, dict) else config
    found = run(
        config, Path(out), labels=labels, evaluations=evaluations, resume=resume, on_event=on_event or nobody, key=Key(0) / "report"
    )
    return AuditReport(folder=Path(out), html=found.paths.html, data=found.data)


def _share(name: str, hits: Sequence[float], key: Key) -> Estimate:
    from trueup.stats.bootstrap import mean_estimate

    return mean_estimate(list(hits), list(range(len(hits))), name, "share", key / name)
