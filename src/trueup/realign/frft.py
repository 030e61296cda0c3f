"""What a refit learns from: filter the frozen policy's samples, select offline pairs, add replay (FRFT, arXiv:2412.10529)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from trueup.core.rng import Key
from trueup.data.rows import Preference
from trueup.models.embeddings import Embedder
from trueup.realign.config import RealignConfig
from trueup.realign.select.protocol import PolicySample


@dataclass(frozen=True, kw_only=True)
class RefitPlan:
    """The pairs of one refit and how they were found."""

    rows: tuple[int, ...]
    """Positions in the offline set: the selected ones, then replay."""
    selected: int
    """How many were selected; the rest is replay."""
    samples: int
    """Policy samples given."""
    dropped: int
    """Of those, left out by the pre-filter."""
    mean_similarity: float | None
    """Mean score of the selected rows, where the rule ranks."""
    mean_similarity_pool: float | None
    """Mean score of the whole offline set."""


def plan_refit(
    pool: Sequence[Preference], samples: Sequence[PolicySample], config: RealignConfig, embedder: Embedder | None, key: Key
) -> RefitPlan:
    """Choose the pairs of one refit.

    Args:
        pool: the offline preference set.
        samples: what the frozen policy wrote.
        config: every choice.
        embedder: for rules that compare texts.
        key: for rules that draw, and for replay.

    Raises:
        UserError: nothing is left to compare with.
    """
    # where the pre-filter would leave nothing (a policy that never ends), all samples still say more of the policy than none
    kept = [s for s in samples if not undesirable(s, config.drop)] or list(samples)
    selection = config.select.select(pool, kept, embedder, key / "select")
    rows = selection.rows
    rest = np.setdiff1d(np.arange(len(pool)), rows)
    replay = min(round(len(rows) * config.replay_share / (1 - config.replay_share)), len(rest))
    drawn = rest[(key / "replay").permutation(len(rest))[:replay]]
    scores = selection.scores
    return RefitPlan(
        rows=tuple(int(i) for i in [*rows, *drawn]),
        selected=len(rows),
        samples=len(samples),
        dropped=len(samples) - len(kept),
        mean_similarity=None if scores is None else float(scores[rows].mean()),
        mean_similarity_pool=None if scores is None else float(scores.mean()),
    )


def undesirable(sample: PolicySample, drop: Sequence[str]) -> bool:
    """Whether the pre-filter leaves a sample out."""
    if "unfinished" in drop and not sample.reply.finished:
        return True
    return "repetitive" in drop and repeated_share(sample.reply.text) > 0.5


def repeated_share(text: str) -> float:
    """Share of a text's word pairs that occurred before in it; 0 for texts of fewer than two words."""
    words = text.split()
    pairs = list(pairwise(words))
    return 1 - len(set(pairs)) / len(pairs) if pairs else 0.0
