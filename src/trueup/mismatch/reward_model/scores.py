"""The table of scores that every examination reads, and the pairs in it.

One row a model, item and reply:

| column | meaning |
|---|---|
| ``model`` | which reward model |
| ``item`` | the group of replies that were judged together |
| ``prompt_id`` | the request; items of one prompt are not independent |
| ``reply`` | number of the reply in its item |
| ``rating`` | what annotators said, higher is better, equal is a tie |
| ``score`` | what the model said, raw |
| ``domain`` | part of the data set; optional |
| ``style`` | ``concise``, ``detailed`` or ``markdown``; optional |
| ``n_characters`` | length of the reply; optional |
| ``feature_NAME`` | count of a named feature of the reply, such as ``feature_politeness``; optional, any number of them |
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from trueup.core.errors import UserError, did_you_mean
from trueup.mismatch.features import PREFIX
from trueup.stats.bootstrap import Array

REQUIRED = ("model", "item", "prompt_id", "reply", "rating", "score")
OPTIONAL = {"domain": "", "style": "", "n_characters": np.nan}


@dataclass(frozen=True, kw_only=True)
class ScoredPairs:
    """All pairs of replies of one item, N over all items, the better rated reply first; ties of rating stand in their order."""

    first: NDArray[np.int64]
    """[N] row of the first reply in the model's table."""
    second: NDArray[np.int64]
    """[N] row of the second."""
    delta: Array
    """[N] score of the first minus that of the second."""
    tied: NDArray[np.bool_]
    """[N] equally rated."""
    longer: Array
    """[N] length of the first minus that of the second, characters; NaN where unknown."""
    item: NDArray[np.int64]
    """[N] number of the item."""
    share: Array
    """[N] weight, so that the untied pairs of an item weigh 1 together; 0 for ties."""
    prompt: NDArray[np.str_]
    """[N]"""
    domain: NDArray[np.str_]
    """[N]"""
    first_style: NDArray[np.str_]
    """[N]"""
    second_style: NDArray[np.str_]
    """[N]"""

    def take(self, kept: NDArray[np.bool_]) -> ScoredPairs:
        """The pairs where ``kept``; weights stay."""
        return ScoredPairs(**{name: value[kept] for name, value in vars(self).items()})

    @property
    def correct(self) -> Array:
        """[N] 1 where the better rated reply has the higher score, 1/2 where scores are equal; NaN for ties of rating."""
        return np.where(self.tied, np.nan, (np.sign(self.delta) + 1) / 2)


def checked(frame: pd.DataFrame, where: str | None = None) -> pd.DataFrame:
    """The table with optional columns filled in, sorted by model, item and reply.

    Args:
        frame: as described above.
        where: its file, for messages.

    Raises:
        UserError: a column is missing, a number is none, or models were given different replies.
    """
    missing = [c for c in REQUIRED if c not in frame.columns]
    if missing:
        near = did_you_mean(missing[0], [str(c) for c in frame.columns])
        raise UserError(
            f"lacks the column '{missing[0]}'.{near} Needed: {', '.join(REQUIRED)}; optional: {', '.join(OPTIONAL)}.", where=where
        )
    found = frame.assign(**{c: v for c, v in OPTIONAL.items() if c not in frame.columns})
    for name in ("rating", "score", "n_characters", *[str(c) for c in found.columns if str(c).startswith(PREFIX)]):
        number = pd.to_numeric(found[name], errors="coerce")
        bad = number.isna() if name in REQUIRED else number.isna() & found[name].notna()
        if bad.any():
            row = int(np.flatnonzero(bad.to_numpy())[0])
            raise UserError(f"'{name}' must be a number, got {found[name].iloc[row]!r} in row {row + 1}.", where=where)
        found[name] = number.astype(float)
    for name in ("model", "item", "prompt_id", "domain", "style"):
        found[name] = found[name].fillna("").astype(str)
    found = found.sort_values(["model", "item", "reply"], kind="stable").reset_index(drop=True)
    twice = found.duplicated(["model", "item", "reply"])
    if twice.any():
        row = found[twice].iloc[0]
        raise UserError(f"reply {row['reply']} of item '{row['item']}' has two scores of model '{row['model']}'.", where=where)
    sets = {name: set(zip(rows["item"], rows["reply"], strict=True)) for name, rows in found.groupby("model")}
    first = next(iter(sets))
    for name, given in sets.items():
        if given != sets[first]:
            item = sorted(given ^ sets[first])[0][0]
            raise UserError(f"models '{first}' and '{name}' have scores of different replies, such as in item '{item}'.", where=where)
    return found


def pairs_of(frame: pd.DataFrame) -> ScoredPairs:
    """All pairs of one model's rows; see `checked` for the table.

    Args:
        frame: rows of one model, sorted by item.
    """
    items = pd.factorize(frame["item"], sort=False)[0]
    starts = np.flatnonzero(np.r_[True, np.diff(items) != 0])
    ends = np.r_[starts[1:], len(items)]
    parts = [np.stack(np.triu_indices(end - start, 1)) + start for start, end in zip(starts, ends, strict=True)]
    first, second = np.concatenate(parts, axis=1) if parts else np.empty((2, 0), dtype=int)
    rating = frame["rating"].to_numpy()
    swap = rating[first] < rating[second]
    first, second = np.where(swap, second, first), np.where(swap, first, second)
    tied = rating[first] == rating[second]
    item = items[first]
    untied = np.bincount(item[~tied], minlength=int(items.max(initial=-1)) + 1)
    score, length = frame["score"].to_numpy(), frame["n_characters"].to_numpy()

    def text(name: str, at: NDArray[np.int64]) -> NDArray[np.str_]:
        return frame[name].to_numpy().astype(str)[at]

    return ScoredPairs(
        first=first,
        second=second,
        delta=score[first] - score[second],
        tied=tied,
        longer=length[first] - length[second],
        item=item,
        share=np.where(tied, 0.0, 1.0 / np.maximum(untied[item], 1)),
        prompt=text("prompt_id", first),
        domain=text("domain", first),
        first_style=text("style", first),
        second_style=text("style", second),
    )
