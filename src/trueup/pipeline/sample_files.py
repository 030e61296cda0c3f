"""Samples and comparisons from files, and pairs of samples to have labelled. Neither models nor torch are needed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from trueup.core.errors import UserError
from trueup.core.rng import Key
from trueup.data.source import read_rows
from trueup.mismatch.reward_model.gains import BETA, choose_comparisons
from trueup.mismatch.reward_model.predicted_gain import followed
from trueup.mismatch.reward_model.samples import REFERENCE, REQUIRED, checked_comparisons, checked_samples, grid_of


def read_table(path: str | Path) -> pd.DataFrame:
    """Rows of a file of any format that rows are read from.

    Raises:
        UserError: missing, damaged or empty file.
    """
    rows = [row.values for row in read_rows(path)]
    if not rows:
        raise UserError("holds no rows.", where=str(path))
    return pd.DataFrame(rows)


def read_samples(path: str | Path, models: Sequence[str]) -> pd.DataFrame:
    """Scored samples from a file, of the models that are examined.

    Raises:
        UserError: a table that cannot be read, or that lacks one of the models.
    """
    table = read_table(path)
    if "score" not in table and {"prompt", "reply"} <= set(table.columns):
        raise UserError(
            f"holds texts, no scores. Give --reward-model to score them, or the columns {', '.join(REQUIRED)}.", where=str(path)
        )
    found = checked_samples(table, str(path))
    known = sorted(set(found["model"]))
    lacking = sorted(set(models) - set(known))
    if lacking:
        raise UserError(f"has no scores of model '{lacking[0]}', only of {', '.join(known)}.", where=str(path))
    return found[found["model"].isin(list(models))].reset_index(drop=True)


def read_comparisons(path: str | Path, samples: pd.DataFrame) -> pd.DataFrame:
    """Labelled comparisons from a file; see `trueup.mismatch.reward_model.samples.checked_comparisons`."""
    return checked_comparisons(read_table(path), samples, str(path))


def pairs_to_label(samples: pd.DataFrame, budget: int, key: Key, beta: float = BETA) -> list[dict[str, Any]]:
    """Pairs of reference samples to have labelled, in random order, so that any first part of them may be labelled.

    Args:
        samples: scored by all models.
        budget: pairs.
        key: random stream.
        beta: strength of the KL penalty at which models are to be told apart, standard deviations of the score a nat.

    Returns:
        rows with an empty ``outcome`` to fill in: 1 where the first reply is better, 0 where the second is, 0.5 where neither.

    Raises:
        UserError: there are no samples of the reference.
    """
    grids = [grid_of(rows, REFERENCE) for _, rows in samples.groupby("model", sort=True)]
    if not grids or min(grids[0].shape) == 0 or grids[0].shape[1] < 2:
        raise UserError("there are no two samples of the reference to a prompt. Give --reference, or more --samples.", where="--ask")
    chosen = choose_comparisons(followed(grids), budget, key, betas=(beta,))
    first = grids[0]
    index = np.full(first.shape, -1)
    index[first.prompt, first.place] = np.arange(len(first.rows))
    rows = []
    for c in (key / "order").permutation(len(chosen.prompt)):
        a, b = (first.rows.iloc[index[chosen.prompt[c], side[c]]] for side in (chosen.first, chosen.second))
        texts = (
            {"prompt": a["prompt"], "first_reply": a["reply"], "second_reply": b["reply"]} if {"prompt", "reply"} <= set(a.index) else {}
        )
        rows.append(
            {
                "prompt_id": a["prompt_id"], "policy": REFERENCE, "first": int(a["sample"]), "second": int(b["sample"]),
                "probability": float(chosen.probability[c]), **texts, "outcome": None,
            }
        )  # fmt: skip
    return rows
