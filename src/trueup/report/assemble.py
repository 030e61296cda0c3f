"""The content of report.json: findings as plain values. docs/report.md and schema.json say what each field means."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from trueup.mismatch.diagnosis import Diagnosis
from trueup.mismatch.series import CheckpointRow
from trueup.report.load import Findings

SCHEMA_VERSION = 1


def report_data(found: Findings) -> dict[str, Any]:
    """Findings as the document that report.json holds; every number that is not finite is null."""
    decisions = {name: {"arm": name, **d.to_dict()} for name, d in found.decisions.items()}
    arms = [
        {
            "name": arm.name,
            "role": arm.role,
            "checkpoints": [_checkpoint(row) for row in found.checkpoints[arm.name]],
            "reliability": found.reliability[arm.name],
            "learned": [p.to_dict() for p in found.phrases[arm.name]],
        }
        for arm in found.arms
    ]
    roles = {a.name: a.role for a in found.arms}
    compared = [{"arm": arm, "against": other, "roles": [roles[arm], roles[other]], **_answer(d)} for arm, other, d in found.comparisons]
    data = {
        "schema_version": SCHEMA_VERSION,
        "name": found.name,
        "main_arm": found.main_arm,
        "arms": arms,
        "scale": _scale(found),
        "headlines": {name: [h.to_dict() for h in of] for name, of in found.headlines.items()},
        "diagnoses": [d.to_dict() for d in found.diagnoses],
        "decision": decisions.get(found.main_arm or ""),
        "decisions": decisions,
        "comparison": {"verdict": _headline_verdict(compared), "decided_by": found.decided_by, "contrasts": compared},
        "reward": None if found.reward is None else list(found.reward),
        "records": {
            "checkpoint_replies": len(found.records),
            "offline_replies": found.offline,
            "prompts": int(found.records["prompt_id"].nunique()),
        },
        "run": dict(found.manifest),
    }
    clean: dict[str, Any] = finite(data)
    return clean


def finite(value: Any) -> Any:
    """The same value with None for every number that JSON cannot hold, and with keys as text."""
    if isinstance(value, Mapping):
        return {str(k): finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [finite(v) for v in value]
    if isinstance(value, bool | int | str) or value is None:
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if hasattr(value, "item"):
        return finite(value.item())
    raise TypeError(f"a report holds plain values only, got {type(value).__name__}")


def _checkpoint(row: CheckpointRow) -> dict[str, Any]:
    return row.to_dict()


def _scale(found: Findings) -> dict[str, Any]:
    """Standard deviations over single replies at the main arm's first checkpoint: the unit of the first figure."""
    rows = found.records[found.records["arm"] == found.main_arm]
    start = rows[rows["step"] == rows["step"].min()] if len(rows) else rows
    return {"arm": found.main_arm, "proxy_sd": _spread(start["proxy_fixed"]), "gold_sd": _spread(start["gold"])}


def _spread(column: pd.Series) -> float | None:
    known = column.dropna()
    spread = float(known.std(ddof=1)) if len(known) > 1 else 0.0
    return spread if spread > 0 else None


_TOLD = {"quiet": "better", "alarm": "worse"}


def _answer(diagnosis: Diagnosis) -> dict[str, Any]:
    """A comparison's verdict in its own words."""
    return {
        "verdict": _TOLD.get(diagnosis.verdict, diagnosis.verdict),
        "rule": diagnosis.rule,
        "estimates": [e.to_dict() for e in diagnosis.estimates],
    }


def _headline_verdict(compared: Sequence[Mapping[str, Any]]) -> str | None:
    """About realignment against the random refit; None where the run has not both."""
    return next((str(c["verdict"]) for c in compared if c["roles"] == ["realigned", "random refit"]), None)
