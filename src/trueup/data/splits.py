"""Splits that no prompt crosses: rows are grouped by opening turn, and whole groups are dealt out."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from trueup.core.errors import UserError
from trueup.core.rng import Key
from trueup.data.rows import Demonstration, Judged, Preference, Prompt, Split
from trueup.data.turns import opening_turn

R = TypeVar("R", bound=Prompt | Preference | Demonstration | Judged)
Rows = NDArray[np.int64]
DEFAULT_SHARES: Mapping[Split, float] = {"train": 0.8, "validation": 0.1, "test": 0.1}


def groups_of(rows: Sequence[Prompt | Preference | Demonstration | Judged]) -> list[str]:
    """The opening turn of each row's prompt."""
    return [opening_turn((row if isinstance(row, Prompt) else row.prompt).text) for row in rows]


def folds(groups: Sequence[str], k: int, key: Key) -> list[Rows]:
    """Row numbers of each of ``k`` test folds, for k-fold cross-validation; every row is in one fold, every group too.

    Groups are taken in a random order that depends on their names only, and each goes to the fold that has fewest rows so far.

    Args:
        groups: one name a row.
        k: number of folds, at least 2.
        key: the random stream.

    Raises:
        UserError: fewer groups than folds.
    """
    members = _members(groups, key)
    if k < 2 or len(members) < k:
        raise UserError(
            f"{k} folds need at least {max(k, 2)} different prompts, got {len(members)}. Use fewer folds (2 or more), or more data."
        )
    found: list[list[int]] = [[] for _ in range(k)]
    for rows in members:
        min(found, key=len).extend(rows)
    return [np.array(sorted(fold), dtype=np.int64) for fold in found]


def rest_of(fold: Rows, n: int) -> Rows:
    """The rows of ``range(n)`` that are not in the fold: its training rows."""
    return np.setdiff1d(np.arange(n, dtype=np.int64), fold)


def partition(groups: Sequence[str], key: Key, shares: Mapping[Split, float] = DEFAULT_SHARES) -> dict[Split, Rows]:
    """Row numbers of each split, near the given shares of all rows; no group is in two of them.

    Args:
        groups: one name a row.
        key: the random stream; the order of the groups depends on it and their names only.
        shares: wanted share of the rows a split; they sum to 1. A split with a share has at least one group.

    Raises:
        UserError: shares that do not sum to 1, or fewer groups than splits.
    """
    wanted = {split: share for split, share in shares.items() if share > 0}
    if any(share < 0 for share in shares.values()) or not np.isclose(sum(wanted.values()), 1.0, atol=1e-6):
        raise UserError(f"shares must be 0 or more and sum to 1, got {dict(shares)}.")
    members = _members(groups, key)
    if len(members) < len(wanted):
        raise UserError(
            f"{len(wanted)} splits need at least as many different prompts, got {len(members)}. Add data, or give fewer splits a share."
        )
    found: dict[Split, list[int]] = {split: [] for split in shares}
    left = len(members)
    for rows in members:
        empty = [split for split in wanted if not found[split]]
        # Each group goes where rows are missing most; the last groups are kept for splits that have none yet.
        choices = empty if len(empty) == left else list(wanted)
        split = max(choices, key=lambda s: wanted[s] * len(groups) - len(found[s]))
        found[split].extend(rows)
        left -= 1
    return {split: np.array(sorted(rows), dtype=np.int64) for split, rows in found.items()}


def split_rows(rows: Sequence[R], key: Key, shares: Mapping[Split, float] = DEFAULT_SHARES) -> dict[Split, list[R]]:
    """Rows by split, each prompt marked with its split.

    Raises:
        UserError: as `partition`.
    """
    return {split: [_marked(rows[i], split) for i in numbers] for split, numbers in partition(groups_of(rows), key, shares).items()}


def _marked(row: R, split: Split) -> R:
    if isinstance(row, Preference | Demonstration | Judged):
        return replace(row, prompt=replace(row.prompt, split=split))
    return replace(row, split=split)


def _members(groups: Sequence[str], key: Key) -> list[list[int]]:
    """Row numbers by group, groups in an order drawn from the key and their own names: adding rows moves no other group."""
    rows: dict[str, list[int]] = {}
    for i, name in enumerate(groups):
        rows.setdefault(name, []).append(i)
    prefix = repr(key.words()).encode()
    return [rows[name] for name in sorted(rows, key=lambda name: hashlib.sha256(prefix + name.encode()).digest())]
