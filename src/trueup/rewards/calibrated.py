"""A reward model's calibration, kept in its folder: applied where a probability is claimed, never to scores or ranks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from trueup.core.errors import UserError
from trueup.data.rows import Conversation, Reply
from trueup.models.reward import RewardModel
from trueup.rewards.learned import LearnedReward
from trueup.stats.bootstrap import Array
from trueup.stats.recalibration import Calibration
from trueup.store.atomic import write_text

CALIBRATION_FILE = "trueup_calibration.json"


def save_calibration(folder: Path, calibration: Calibration) -> None:
    """Write it beside the model's weights."""
    write_text(folder / CALIBRATION_FILE, json.dumps(calibration.to_dict(), indent=1) + "\n")


def read_calibration(folder: Path) -> Calibration | None:
    """The calibration stored with a reward model; None where there is none.

    Raises:
        UserError: the file is damaged.
    """
    path = folder / CALIBRATION_FILE
    if not path.exists():
        return None
    try:
        return Calibration.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise UserError(f"is no calibration ({error}). Remove it, or calibrate again.", where=str(path)) from error


def win_probability(
    model: RewardModel,
    calibration: Calibration,
    prompts: Sequence[Conversation],
    first: Sequence[Reply],
    second: Sequence[Reply],
    domain: Sequence[str] | None = None,
) -> Array:
    """Calibrated chance that each first reply is preferred to the second: [B].

    Args:
        model: gives raw scores; calibration is of their differences.
        calibration: fitted on pairs held out.
        prompts: one a row.
        first: one a row.
        second: one a row.
        domain: one a row, for domains with a map of their own.
    """
    reward = LearnedReward(model)
    delta = (reward.raw(prompts, first) - reward.raw(prompts, second)).double().numpy()
    return calibration.probability(delta, domain)
