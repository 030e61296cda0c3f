"""The Reward Report: what a reward model was trained on, by whom labelled, for what use, with which known failures.

Written into the model's folder when it is trained, read back by the examination. What no one stated is said to be not stated.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from trueup.core.errors import UserError
from trueup.data.rows import Judged
from trueup.pipeline.config import RewardStageConfig
from trueup.pipeline.context import Context
from trueup.rewards.objectives.protocol import ObjectiveConfig
from trueup.store.atomic import write_text
from trueup.store.files import file_sha256
from trueup.store.manifest import environment

REPORT_FILE = "trueup_report.json"
FORMAT = 1
NOT_STATED = "not stated"
MOST_NAMES = 5
"""Annotators named one by one; the rest are counted."""


def training_report(context: Context, groups: Sequence[Judged], objective: ObjectiveConfig) -> dict[str, Any]:
    """The facts of a fit.

    Args:
        context: the run.
        groups: what the model learned from.
        objective: its loss.
    """
    stage, known = context.reward_stage, environment()
    stated = stage.report
    return {
        "format": FORMAT,
        "date": datetime.now(UTC).date().isoformat(),
        "trueup": known["trueup"],
        "commit": known["commit"],
        "changed": known["changed"],
        "seed": context.config.seed,
        "use": stated.use,
        "labelled_by": stated.labelled_by,
        "known_failures": list(stated.known_failures),
        "world": None if context.config.world is None else context.config.world.kind,
        "files": _files(context),
        "rows": len(groups),
        "annotators": dict(Counter(g.annotator or NOT_STATED for g in groups).most_common()),
        "objective": objective.kind,
        "settings": stage.model_copy(update={"objective": objective}).model_dump(mode="json"),
    }


def write_report(folder: Path, report: Mapping[str, Any]) -> None:
    """Put the facts beside the weights."""
    write_text(folder / REPORT_FILE, json.dumps(report, indent=2, ensure_ascii=False) + "\n")


def read_report(path: str | Path) -> dict[str, Any]:
    """The facts in a model's folder; empty where it has none.

    Raises:
        UserError: a file that is no such report.
    """
    file = Path(path) / REPORT_FILE
    if not file.is_file():
        return {}
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"is no JSON: {error}. Remove it, or train the model again.", where=str(file)) from error
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise UserError(f"is no report of format {FORMAT}. Remove it, or train the model again.", where=str(file))
    return found


def stated_settings(path: str | Path) -> RewardStageConfig:
    """The settings a model was fitted with; those of a new reward stage where they are not stated."""
    found = read_report(path).get("settings")
    return RewardStageConfig() if found is None else RewardStageConfig.model_validate(found)


def shown_report(path: str | Path) -> dict[str, str]:
    """The report as names and sentences, with the hash of the weights; of models trained elsewhere what their folder says."""
    report, folder = read_report(path), Path(path)
    data = [f"{f['file']} (sha256 {f['sha256'][:16]})" for f in report.get("files", [])]
    if not data and report.get("world"):
        data = [f"the world '{report['world']}', seed {report['seed']}"]
    commit = (report.get("commit") or NOT_STATED) + (" (changed)" if report.get("changed") else "")
    return {
        "Use": report.get("use") or NOT_STATED,
        "Known failures": "; ".join(report.get("known_failures") or []) or NOT_STATED,
        "Labelled by": report.get("labelled_by") or NOT_STATED,
        "Trained on": "; ".join(data) or NOT_STATED,
        "Rows": str(report["rows"]) if "rows" in report else NOT_STATED,
        "Annotators": _annotators(report.get("annotators")),
        "Objective": report.get("objective") or NOT_STATED,
        "Architecture": _architecture(folder),
        "Date": report.get("date") or NOT_STATED,
        "Seed": str(report["seed"]) if "seed" in report else NOT_STATED,
        "trueup": f"{report['trueup']}, commit {commit}" if "trueup" in report else NOT_STATED,
        "Weights": _weights(folder),
    }


def _files(context: Context) -> list[dict[str, str]]:
    """Files that the world's settings name."""
    world = context.config.world
    names: list[str] = [] if world is None else _texts(world.model_dump(mode="json"))
    found = {n: context.base / n for n in dict.fromkeys(names)}
    return [{"file": Path(n).name, "sha256": file_sha256(p)} for n, p in found.items() if n and p.is_file()]


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return [text for one in inner for text in _texts(one)]


def _annotators(counts: Mapping[str, int] | None) -> str:
    if not counts or set(counts) == {NOT_STATED}:
        return NOT_STATED
    named = [f"{name} {n}" for name, n in list(counts.items())[:MOST_NAMES]]
    rest = len(counts) - len(named)
    return ", ".join(named) + (f", and {rest} more" if rest else "")


def _architecture(folder: Path) -> str:
    for name, field in (("config.json", "architectures"), ("reward.json", "embedder_name")):
        try:
            value = json.loads((folder / name).read_text(encoding="utf-8")).get(field)
        except (OSError, ValueError):
            continue
        if value:
            return f"head on embeddings {value}" if field == "embedder_name" else ", ".join(value)
    return NOT_STATED


def _weights(folder: Path) -> str:
    files = sorted(folder.glob("*.safetensors"))
    return "; ".join(f"{f.name} (sha256 {file_sha256(f)[:16]})" for f in files) or NOT_STATED
