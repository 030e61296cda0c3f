"""``--probes`` and ``--phrase``: how many replies are changed and scored again, or a file of such scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from trueup.core.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

    from trueup.core.rng import Key
    from trueup.data.rows import Judged
    from trueup.models.reward import RewardModel

REPLIES = 200
"""Changed unless told otherwise."""
WHERE = "--probes"


@dataclass(frozen=True, kw_only=True)
class Probing:
    """What was asked for."""

    replies: int = 0
    """0 for no probes of models."""
    phrases: tuple[str, ...] = ()
    """To append, beside the usual ones."""
    file: Path | None = None
    """Scores of changed copies, made elsewhere."""


def probing_of(value: str | None, phrases: Sequence[str], *, from_file: bool) -> Probing:
    """What ``--probes`` and ``--phrase`` ask for.

    Args:
        value: of ``--probes``.
        phrases: of ``--phrase``.
        from_file: scores come from a file, so probes must too.

    Raises:
        UserError: a number where a file is needed or the other way round, or phrases that nothing is appended to.
    """
    number = int(value) if value is not None and value.lstrip("-").isdecimal() else None
    if any(not p.strip() for p in phrases):
        raise UserError("is empty. Give the text to append.", where="--phrase")
    if from_file:
        if number is not None:
            raise UserError(f"{number} replies need a --reward-model to score them. Beside --scores give a file.", where=WHERE)
        if phrases:
            raise UserError("needs a --reward-model that scores it. Add rows of probe 'appended' to the file instead.", where="--phrase")
        return Probing(file=None if value is None else Path(value))
    if value is not None and (number is None or number < 0):
        raise UserError(f"must be a number of replies, 0 for none, got '{value}'. A file of probes goes with --scores.", where=WHERE)
    if number == 0 and phrases:
        raise UserError("needs replies to append to. Leave out --probes 0.", where="--phrase")
    return Probing(replies=REPLIES if number is None else number, phrases=tuple(phrases))


def made_probes(
    probing: Probing, models: Mapping[str, RewardModel], groups: Sequence[Judged], scores: pd.DataFrame, key: Key
) -> pd.DataFrame:
    """The table of probes of models; empty where none are asked for."""
    from trueup.evaluation.copies import PHRASES, ProbeSettings
    from trueup.mismatch.reward_model.question import NOTHING
    from trueup.pipeline.probes import probe_models

    if not probing.replies:
        return NOTHING
    phrases = tuple(dict.fromkeys((*PHRASES, *probing.phrases)))
    settings = ProbeSettings(replies=probing.replies, prompt_replies=5 * probing.replies, phrases=phrases)
    return probe_models(models, groups, scores, key, settings)
