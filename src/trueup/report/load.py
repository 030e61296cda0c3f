"""Reads a run folder and computes what the report says, from its records alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from trueup.core.errors import UserError
from trueup.core.record import OFFLINE_ARM
from trueup.core.rng import Key
from trueup.mismatch.decision import Decision
from trueup.mismatch.diagnosis import Diagnosis
from trueup.mismatch.headline import headlines
from trueup.mismatch.headlines.number import Headline
from trueup.mismatch.learned import Phrase, learned_phrases
from trueup.mismatch.panel import keeping
from trueup.mismatch.reward_policy import realignment
from trueup.mismatch.series import CheckpointRow, checkpoint_table
from trueup.mismatch.verdict import MismatchSettings, diagnose_all
from trueup.report.reliability import reliability_table
from trueup.report.roles import Arm, arms_of, comparisons
from trueup.store.records import frame
from trueup.store.run import Run


@dataclass(frozen=True, kw_only=True)
class Findings:
    """Everything known of one run."""

    name: str
    manifest: Mapping[str, Any]
    records: pd.DataFrame
    """Checkpoint rows (test prompts) of all arms, with ``kl_nats``."""
    named: pd.DataFrame
    """Rows that a diagnosis names and that are no checkpoint rows: of the preference set, or of a variant."""
    offline: int
    """Replies of the preference set among the records."""
    arms: tuple[Arm, ...]
    main_arm: str | None
    checkpoints: Mapping[str, list[CheckpointRow]]
    diagnoses: tuple[Diagnosis, ...]
    decisions: Mapping[str, Decision]
    comparisons: tuple[tuple[str, str, Diagnosis], ...]
    """(arm, baseline, answer): the realignment diagnoses again, with whom they compare."""
    decided_by: str
    """Name of the estimate that gives a comparison its verdict."""
    headlines: Mapping[str, list[Headline]]
    """The numbers of the three links, by arm."""
    phrases: Mapping[str, list[Phrase]]
    reliability: Mapping[str, dict[str, Any] | None]
    """Reliability diagrams of each arm's pairs; None where no truth is known."""
    reward: tuple[dict[str, Any], ...] | None
    """Held-out accuracy of reward models fitted alone; None where the run has none."""


def load_run(root: Path, key: Key, settings: MismatchSettings | None = None) -> Findings:
    """Read a run and compute its findings.

    Args:
        root: the run folder.
        key: random stream of every interval.
        settings: thresholds of the diagnoses; the defaults if None.

    Raises:
        UserError: no such folder, or one without records and without reward results, or damaged files.
    """
    if not root.is_dir():
        raise UserError("no such run folder. Give the folder that `trueup run` wrote.", where=str(root))
    run = Run(root)
    reward = _reward(root / "reward.json")
    records = _records(run)
    if records.empty and reward is None:
        raise UserError(
            "holds neither records nor reward.json, so there is nothing to report. Let the run reach its first checkpoint.", where=str(root)
        )
    manifest = run.manifest()
    rows = _checkpoint_rows(records)
    arms = arms_of(manifest, list(dict.fromkeys(rows["arm"])))
    names, pairs = [a.name for a in arms], comparisons(arms)
    main = str(manifest.get("main_arm") or "")
    s = settings or MismatchSettings()
    with keeping(records):
        diagnoses, decisions = diagnose_all(records, names, key / "diagnoses", settings=s, comparisons=pairs)
        compared = [d for d in diagnoses if d.name == realignment.NAME]
        return Findings(
            name=str(manifest.get("name") or root.resolve().name),
            manifest=manifest,
            records=rows,
            named=_named(records, rows, diagnoses, decisions),
            offline=int((records["arm"] == OFFLINE_ARM).sum()),
            arms=arms,
            main_arm=main if main in names else next(iter(names), None),
            checkpoints={n: checkpoint_table(records, n, key / "checkpoints" / n) for n in names},
            diagnoses=tuple(diagnoses),
            decisions=decisions,
            comparisons=tuple((arm, other, d) for (arm, other), d in zip(pairs, compared, strict=True)),
            decided_by=s.realignment.decides,
            headlines={n: headlines(records, n, s.headline, s.tracking, key / "headline" / n) for n in names},
            phrases={n: learned_phrases(rows[rows["arm"] == n]) for n in names},
            reliability={n: reliability_table(records, n) for n in names},
            reward=reward,
        )


def _records(run: Run) -> pd.DataFrame:
    """The run's records; an empty frame where it wrote none, since a run may fit reward models only."""
    written = run.records_dir.is_dir() and any(p.suffix in (".parquet", ".jsonl") for p in run.records_dir.rglob("*"))
    return frame(run.root) if written else pd.DataFrame(columns=["arm", "split", "step", "prompt_id", "sample_id", "prompt", "response"])


def _checkpoint_rows(records: pd.DataFrame) -> pd.DataFrame:
    """Test rows with a step, each with the KL that is known of it: exact, else the log-ratio of the reply."""
    here = (records["split"] == "test") & records["step"].notna() & (records["arm"] != OFFLINE_ARM)
    rows = records[here & records["variant"].isna()].copy() if "variant" in records else records[here].copy()
    for name in ("proxy_fixed", "proxy_current", "gold", "kl_policy_ref_exact_nats", "logp_policy_nats", "logp_ref_nats"):
        rows[name] = pd.to_numeric(rows[name]) if name in rows else float("nan")
    exact = rows["kl_policy_ref_exact_nats"]
    rows["kl_nats"] = exact if exact.notna().any() else rows["logp_policy_nats"] - rows["logp_ref_nats"]
    rows["step"] = rows["step"].astype("int64")
    return rows


def _named(records: pd.DataFrame, rows: pd.DataFrame, diagnoses: Sequence[Diagnosis], decisions: Mapping[str, Decision]) -> pd.DataFrame:
    wanted = {sample for d in diagnoses for sample in d.samples}
    wanted |= {sample for d in decisions.values() for a in d.actions for sample in a.samples}
    here = records["sample_id"].isin(wanted)
    return records[here & ~records["sample_id"].isin(rows["sample_id"])] if wanted else records[:0]


def _reward(path: Path) -> tuple[dict[str, Any], ...] | None:
    if not path.exists():
        return None
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"is damaged ({error}). Remove it to report the run without it.", where=str(path)) from error
    if not isinstance(rows, list) or not all(isinstance(r, dict) and "name" in r for r in rows):
        raise UserError("must be a list of objects with a name and an accuracy. Remove it to report the run without it.", where=str(path))
    return tuple(rows)
