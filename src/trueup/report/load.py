"""Reads a run folder and computes what the report says, from its records alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from trueup.core.errors import UserError
from trueup.core.record import OFFLINE_ARM
from trueup.core.rng import Key
from trueup.mismatch.diagnosis import Diagnosis
from trueup.mismatch.series import CheckpointRow, checkpoint_table
from trueup.mismatch.verdict import Decision, decide, diagnose_all
from trueup.report.compare import Contrast, contrasts
from trueup.report.roles import Arm, arms_of
from trueup.report.words import Phrase, learned_phrases
from trueup.store.records import frame
from trueup.store.run import Run


@dataclass(frozen=True, kw_only=True)
class Findings:
    """Everything known of one run."""

    name: str
    manifest: Mapping[str, Any]
    records: pd.DataFrame
    """Checkpoint rows (test prompts) of all arms, with ``kl_nats``."""
    offline: int
    """Replies of the preference set among the records."""
    arms: tuple[Arm, ...]
    main_arm: str | None
    checkpoints: Mapping[str, list[CheckpointRow]]
    diagnoses: tuple[Diagnosis, ...]
    decisions: Mapping[str, Decision]
    contrasts: tuple[Contrast, ...]
    phrases: Mapping[str, list[Phrase]]
    reward: tuple[dict[str, Any], ...] | None
    """Held-out accuracy of reward models fitted alone; None where the run has none."""


def load_run(root: Path, key: Key) -> Findings:
    """Read a run and compute its findings.

    Args:
        root: the run folder.
        key: random stream of every interval.

    Raises:
        UserError: no such folder, or one without records and without reward results, or damaged files.
    """
    if not root.is_dir():
        raise UserError("no such run folder. Give the folder that `trueup run` wrote.", where=str(root))
    run = Run(root)
    reward = _reward(root / "reward.json")
    has_records = run.records_dir.is_dir() and any(run.records_dir.rglob("*.parquet")) or any(run.records_dir.rglob("*.jsonl"))
    if not has_records and reward is None:
        raise UserError("holds neither records nor reward.json, so there is nothing to report. Let the run reach its first checkpoint.", where=str(root))
    records = frame(root) if has_records else _no_records()
    manifest = run.manifest()
    rows = _checkpoint_rows(records)
    arms = arms_of(manifest, list(dict.fromkeys(rows["arm"])))
    names = [a.name for a in arms]
    main = str(manifest.get("main_arm") or "")
    diagnoses = tuple(diagnose_all(records, key / "diagnoses"))
    return Findings(
        name=str(manifest.get("name") or root.resolve().name),
        manifest=manifest,
        records=rows,
        offline=int((records["arm"] == OFFLINE_ARM).sum()),
        arms=arms,
        main_arm=main if main in names else next(iter(names), None),
        checkpoints={n: checkpoint_table(records, n, key / "checkpoints" / n) for n in names},
        diagnoses=diagnoses,
        decisions={n: decide(records, n, key / "decision" / n) for n in names},
        contrasts=tuple(contrasts(records, arms, key / "contrasts")),
        phrases={n: learned_phrases(rows[rows["arm"] == n]) for n in names},
        reward=reward,
    )


def _checkpoint_rows(records: pd.DataFrame) -> pd.DataFrame:
    """Test rows with a step, each with the KL that is known of it: exact, else the log-ratio of the reply."""
    rows = records[(records["split"] == "test") & records["step"].notna() & (records["arm"] != OFFLINE_ARM)].copy()
    for name in ("proxy_fixed", "proxy_current", "gold", "kl_policy_ref_exact_nats", "logp_policy_nats", "logp_ref_nats"):
        rows[name] = pd.to_numeric(rows[name]) if name in rows else float("nan")
    exact = rows["kl_policy_ref_exact_nats"]
    rows["kl_nats"] = exact if exact.notna().any() else rows["logp_policy_nats"] - rows["logp_ref_nats"]
    rows["step"] = rows["step"].astype("int64")
    return rows


def _no_records() -> pd.DataFrame:
    return pd.DataFrame(columns=["arm", "split", "step", "prompt_id", "sample_id", "prompt", "response"])


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
