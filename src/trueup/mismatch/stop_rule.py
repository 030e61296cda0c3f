"""When to stop: is some checkpoint worse than the best one before it, shown so that looking after every comparison does no harm?

At each checkpoint an annotator compares some of its replies with replies of the best checkpoint so far, to the same prompts. A comparison
is worth 1 (the newer reply won), -1 (it lost) or 0 (a tie). The null hypothesis is that no checkpoint so far is worse than the one it was
compared with; a capital bets against it (`stats.eprocess.restarted`, one part beginning at each checkpoint) and training is stopped when
that reaches 1 / alpha. Under the null hypothesis the chance of ever stopping is at most alpha, however often one looks.

That the best so far is chosen by the same comparisons does no harm: it is chosen before the comparisons in which it serves, and no reply
serves twice, so each comparison is fair given all before it. It changes to the newest checkpoint where that won more than it lost. For
this the prompts must be drawn independently of the outcomes, as `next_comparisons` does: with replacement from the arm's prompts, so that
the hypothesis is about their mean.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from pydantic import Field

from trueup.core.config import Config
from trueup.core.rng import Key
from trueup.mismatch.pairs import labelled_pairs
from trueup.mismatch.panel import Panel, panel_of
from trueup.stats.eprocess import restarted


class StopRule(Config):
    """When evidence against going on is enough."""

    alpha: float = Field(default=0.05, gt=0, lt=1)
    """Chance of stopping, ever, although no checkpoint is worse than the best before it."""
    margin: float = Field(default=0.0, ge=0, lt=1)
    """A checkpoint may lose this much more often than it wins (a share of the comparisons) without counting as worse."""
    looks: int = Field(default=10, ge=1)
    """Checkpoints after the first at which a part of the capital begins to bet; later ones only add to it. To be fixed before looking."""


@dataclass(frozen=True, kw_only=True)
class Look:
    """What was known after the comparisons of one checkpoint."""

    step: int
    against: int
    """The best checkpoint so far, as it was chosen before."""
    n: int
    """Comparisons of this checkpoint that count."""
    difference: float
    """Share won less share lost."""
    capital: float
    """After them; 1 at the beginning of training."""


@dataclass(frozen=True, kw_only=True)
class Watch:
    """A run watched so far."""

    looks: tuple[Look, ...]
    best_step: int
    stop_step: int | None
    """First checkpoint in the course of whose comparisons the capital reached 1 / alpha; None while it has not."""
    stop_after: int | None
    """Comparisons until then."""
    n: int
    """Comparisons that count."""


def watch(records: pd.DataFrame, arm: str, settings: StopRule) -> Watch | None:
    """All looks at an arm's checkpoints, from the labels in its records.

    Args:
        records: flat frame of sample records; a comparison counts where it is between a checkpoint and the best before it and both replies
            are used for the first time.
        arm: name of the arm.
        settings: error and margin.

    Returns:
        None where the arm has no checkpoint.
    """
    panel = panel_of(records, arm)
    if panel is None:
        return None
    outcomes, against = _walk(panel)
    values = [v for found in outcomes.values() for v in found]
    ends = [int(n) for n in np.cumsum([len(found) for found in outcomes.values()])]
    starts = [0, *ends[:-1]]
    bound = 1 + settings.margin
    capital = restarted(np.array(values) + settings.margin, starts, settings.looks, bound)
    reached = np.flatnonzero(capital >= 1 / settings.alpha)
    looks = []
    for t, end in zip(outcomes, ends, strict=True):
        looks.append(
            Look(
                step=int(panel.steps[t]), against=int(panel.steps[against[t]]), n=len(outcomes[t]),
                difference=float(np.mean(outcomes[t])), capital=float(capital[end - 1]),
            )
        )  # fmt: skip
    stop = None if not len(reached) else next(t for t, end in zip(outcomes, ends, strict=True) if reached[0] < end)
    return Watch(
        looks=tuple(looks),
        best_step=int(panel.steps[_best(outcomes, against)]),
        stop_step=None if stop is None else int(panel.steps[stop]),
        stop_after=int(reached[0]) + 1 if len(reached) else None,
        n=len(values),
    )


def next_comparisons(records: pd.DataFrame, arm: str, count: int, key: Key) -> tuple[int, list[tuple[str, str]]]:
    """What to ask about an arm's newest checkpoint: its replies against those of the best one so far.

    Args:
        records: flat frame of sample records, the newest checkpoint included.
        arm: name of the arm, which has at least two checkpoints.
        count: comparisons wanted.
        key: random stream.

    Returns:
        step of the best so far, and pairs of sample_ids (newest, best). Prompts are drawn with replacement, and again where a prompt has no
        reply left that was never used; there may be fewer than ``count``.
    """
    panel = panel_of(records, arm)
    if panel is None or len(panel.steps) < 2:
        raise ValueError(f"arm {arm!r} has no two checkpoints to compare")
    newest = len(panel.steps) - 1
    outcomes, against = _walk(panel)
    best = _best({t: o for t, o in outcomes.items() if t < newest}, against)
    used = {row for pair in _counted(panel) for row in pair[1:]}
    free: dict[tuple[int, int], list[int]] = {}
    for row, at in enumerate(zip(panel.step.tolist(), panel.prompt.tolist(), strict=True)):
        if at[0] in (newest, best) and row not in used:
            free.setdefault(at, []).append(row)
    ids = panel.rows["sample_id"].tolist()
    pairs: list[tuple[str, str]] = []
    for prompt in key.generator().integers(len(panel.prompts), size=20 * count).tolist():
        new, old = free.get((newest, prompt), []), free.get((best, prompt), [])
        if new and old and len(pairs) < count:
            pairs.append((str(ids[new.pop(0)]), str(ids[old.pop(0)])))
    return int(panel.steps[best]), pairs


def _walk(panel: Panel) -> tuple[dict[int, list[float]], dict[int, int]]:
    """Position of a checkpoint -> its outcomes in order, and -> the best before it, for those with any comparison that counts."""
    outcomes: dict[int, list[float]] = {}
    against: dict[int, int] = {}
    for value, later, earlier in _counted(panel):
        t = int(panel.step[later])
        outcomes.setdefault(t, []).append(value)
        against[t] = int(panel.step[earlier])
    return outcomes, against


def _best(outcomes: dict[int, list[float]], against: dict[int, int]) -> int:
    """The best checkpoint after these comparisons."""
    best = 0
    for t, values in outcomes.items():
        best = t if float(np.sum(values)) > 0 else against[t]
    return best


def _counted(panel: Panel) -> Iterator[tuple[float, int, int]]:
    """Outcome, later row and earlier row of each comparison that counts, by checkpoint and then by row."""
    labelled = labelled_pairs(panel)
    if labelled is None:
        return
    order = np.lexsort((labelled.first, labelled.second))  # rows are sorted by step: the second of a pair is the later one
    best, newest, total = 0, -1, 0.0
    used: set[int] = set()
    for i in order.tolist():
        earlier, later = int(labelled.first[i]), int(labelled.second[i])
        t, b = int(panel.step[later]), int(panel.step[earlier])
        if t == b:
            continue
        if t != newest:
            best = newest if total > 0 else best
            newest, total = t, 0.0
        if b != best or later in used or earlier in used:
            continue
        used |= {later, earlier}
        value = 1 - 2 * float(labelled.preference[i])
        total += value
        yield value, later, earlier
