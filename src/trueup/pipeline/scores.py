"""Scores that were made elsewhere, from a file. Neither models nor torch are needed."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from trueup.core.errors import UserError
from trueup.data.source import read_rows
from trueup.mismatch.reward_model.probes import checked_probes
from trueup.mismatch.reward_model.scores import checked


def read_scores(path: str | Path) -> pd.DataFrame:
    """A table of scores from a file of any format that rows are read from; columns as `trueup.mismatch.reward_model.scores` names them.

    Raises:
        UserError: missing or damaged file, or a table that cannot be read.
    """
    return checked(_table(path), str(path))


def read_probes(path: str | Path, scores: pd.DataFrame) -> pd.DataFrame:
    """A table of probes; columns as `trueup.mismatch.reward_model.probes` names them.

    Args:
        path: as above.
        scores: the table of scores that the probed replies are in.

    Raises:
        UserError: missing or damaged file, or a table that cannot be read or does not belong to the scores.
    """
    return checked_probes(_table(path), scores, str(path))


def _table(path: str | Path) -> pd.DataFrame:
    rows = [row.values for row in read_rows(path)]
    if not rows:
        raise UserError("holds no rows.", where=str(path))
    return pd.DataFrame(rows)
