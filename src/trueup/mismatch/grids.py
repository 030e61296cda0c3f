"""One checkpoint's replies as prompts x replies, and what several diagnoses read off such a table."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from trueup.mismatch.pairs import correct
from trueup.mismatch.panel import Panel
from trueup.stats.bootstrap import Array


def grid(panel: Panel, step: int, columns: Sequence[Array]) -> list[Array]:
    """Columns of one checkpoint as [P, K] tables, the same reply at the same place in each; rows that lack any of them are left out.

    Args:
        panel: the arm's test rows.
        step: position among the panel's steps.
        columns: [N] each, NaN where missing.

    Returns:
        one table a column, K the most replies of a prompt; NaN where there is no reply. Every prompt of the panel has a row.
    """
    here = np.flatnonzero((panel.step == step) & np.all([np.isfinite(c) for c in columns], axis=0))
    prompt = panel.prompt[here]
    place = np.arange(len(here)) - np.searchsorted(prompt, prompt)  # rows are sorted by step, then prompt
    found = []
    for column in columns:
        table = np.full((len(panel.prompts), int(place.max(initial=-1)) + 1), np.nan)
        table[prompt, place] = column[here]
        found.append(table)
    return found


def replies(table: Array) -> Array:
    """[P] How many replies each prompt has."""
    return np.asarray(np.isfinite(table).sum(axis=1), dtype=float)


def pair_hits(score: Array, truth: Array) -> tuple[Array, Array]:
    """Pairs of each prompt that the score orders as the truth does, a tied score counting half, and pairs whose truth is no tie: [P], [P].

    Args:
        score: [P, K] as `grid` gives it.
        truth: [P, K]
    """
    hits, pairs = np.zeros(len(score)), np.zeros(len(score))
    for lag in range(1, score.shape[1]):
        side = np.sign(truth[:, lag:] - truth[:, :-lag])
        right = correct(score[:, lag:] - score[:, :-lag], np.where(side == 0, np.nan, (side + 1) / 2))
        hits += np.nansum(right, axis=1)
        pairs += np.isfinite(right).sum(axis=1)
    return hits, pairs
