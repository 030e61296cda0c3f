"""Pairs of replies to one prompt: those of the offline preference set, and those that two samples of a checkpoint make.

Which reply is better is read from labels, or from gold; both kinds of pair are judged by the same of the two, since accuracy against
noisy labels and against the truth are not comparable. Pairs whose truth is a tie have no right answer and are left out; a tie of the
score counts half. Of very many samples some pairs stand for all: `MOST_PAIRS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from trueup.core.record import OFFLINE_ARM
from trueup.core.rng import Key
from trueup.mismatch.panel import Panel, kept, numbers
from trueup.stats.bootstrap import Array

Truth = Literal["labels", "gold"]
TruthSetting = Literal["auto", "labels", "gold"]
MOST_PAIRS = 2_000_000
"""Pairs of a policy's samples; where there would be more, each reply is paired with the same number of others, drawn at random."""


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Two rows of a frame each; N pairs."""

    rows: pd.DataFrame
    first: NDArray[np.int64]
    """[N] Positions in ``rows``."""
    second: NDArray[np.int64]
    preference: Array
    """[N] Share of the annotators that preferred the first; NaN where nobody was asked."""

    def __len__(self) -> int:
        return len(self.first)

    def column(self, name: str) -> Array | None:
        """[rows] A numeric column, None where absent or empty."""
        return numbers(self.rows[name]) if name in self.rows else None

    def difference(self, values: Array) -> Array:
        """[N] First minus second of row values."""
        return values[self.first] - values[self.second]

    def prompts(self) -> NDArray[np.object_]:
        """[N] prompt_id of each pair."""
        return np.asarray(self.rows["prompt_id"], dtype=object)[self.first]

    def outcome(self, truth: Truth) -> Array:
        """[N] 1 where the first reply is truly better, 0 where the second is, NaN for ties and where unknown."""
        if truth == "labels":
            side = np.sign(self.preference - 0.5)
        else:
            gold = self.column("gold")
            side = np.full(len(self), np.nan) if gold is None else np.sign(self.difference(gold))
        return np.where(side == 0, np.nan, (side + 1) / 2)

    def take(self, kept: NDArray[np.bool_]) -> Pairs:
        """The pairs of a mask [N]."""
        return replace(self, first=self.first[kept], second=self.second[kept], preference=self.preference[kept])


def correct(score_difference: Array, outcome: Array) -> Array:
    """[N] 1 where the score orders a pair as its outcome does, 1/2 where the score ties, 0 otherwise; NaN where either is unknown."""
    agreement = (np.sign(score_difference) * (2 * outcome - 1) + 1) / 2
    return np.asarray(agreement, dtype=float)


def offline_pairs(records: pd.DataFrame) -> Pairs | None:
    """Held-out pairs of the preference set: those that labels name; without labels, all pairs of one prompt. None where there are none."""
    return kept(records, "offline pairs", lambda: _offline_pairs(records))


def _offline_pairs(records: pd.DataFrame) -> Pairs | None:
    rows = records[(records["arm"] == OFFLINE_ARM) & (records["split"] != "train")]
    if rows.empty:
        return None
    rows = rows.sort_values(["prompt_id", "sample_id"], kind="stable", ignore_index=True)
    labels = _label_table(rows)
    if len(labels):
        return Pairs(
            rows=rows,
            first=labels["first"].to_numpy(),
            second=labels["second"].to_numpy(),
            preference=labels["preference"].to_numpy(dtype=float),
        )
    first, second = _within(pd.factorize(rows["prompt_id"])[0])
    return Pairs(rows=rows, first=first, second=second, preference=np.full(len(first), np.nan)) if len(first) else None


def policy_pairs(panel: Panel) -> Pairs | None:
    """Pairs of samples of one checkpoint for the same prompt, all of them up to `MOST_PAIRS`; None where no prompt has two samples at one
    step. Pairs with labels are always among them."""
    if "pairs" not in panel.memory:
        panel.memory["pairs"] = _policy_pairs(panel)
    found: Pairs | None = panel.memory["pairs"]
    return found


def _policy_pairs(panel: Panel) -> Pairs | None:
    cell = panel.step * len(panel.prompts) + panel.prompt
    labels = _label_table(panel.rows)
    first, second = _within(cell)
    if len(labels):
        one, other = (labels[c].to_numpy(dtype=np.int64) for c in ("first", "second"))
        asked = (cell[one] == cell[other]) & ~np.isin(one * len(cell) + other, first * len(cell) + second)
        first, second = np.concatenate([first, one[asked]]), np.concatenate([second, other[asked]])
    if not len(first):
        return None
    preference = np.full(len(first), np.nan)
    if len(labels):
        known = dict(zip(zip(labels["first"], labels["second"], strict=True), labels["preference"], strict=True))
        preference = np.array([known.get(p, np.nan) for p in zip(first.tolist(), second.tolist(), strict=True)])
    return Pairs(rows=panel.rows, first=first, second=second, preference=preference)


def labelled_pairs(panel: Panel) -> Pairs | None:
    """All pairs of an arm's rows that somebody compared, also across checkpoints; None where there are none."""
    labels = _label_table(panel.rows)
    if not len(labels):
        return None
    first, second = labels["first"].to_numpy(), labels["second"].to_numpy()
    return Pairs(rows=panel.rows, first=first, second=second, preference=labels["preference"].to_numpy(dtype=float))


def disjoint(pairs: Pairs) -> Pairs:
    """A subset in which no reply occurs twice, so that the outcomes are independent of each other; earlier pairs go first."""
    left = np.arange(len(pairs))
    kept = np.zeros(len(pairs), dtype=bool)
    while len(left):
        # the earliest pair of both of its replies is taken; pairs that share a reply with it are not asked again
        earliest = np.full(len(pairs.rows), len(pairs))
        for side in (pairs.first, pairs.second):
            np.minimum.at(earliest, side[left], left)
        here = (earliest[pairs.first[left]] == left) & (earliest[pairs.second[left]] == left)
        taken = np.zeros(len(pairs.rows), dtype=bool)
        taken[pairs.first[left[here]]] = taken[pairs.second[left[here]]] = True
        kept[left[here]] = True
        left = left[~(taken[pairs.first[left]] | taken[pairs.second[left]])]
    return pairs.take(kept)


def common_truth(offline: Pairs, policy: Pairs, wanted: TruthSetting) -> Truth | None:
    """What judges both kinds of pair: labels where both have them, else gold where both have it; None where neither judges both."""
    options: tuple[Truth, ...] = ("labels", "gold") if wanted == "auto" else (wanted,)
    return next((t for t in options if all(np.isfinite(p.outcome(t)).any() for p in (offline, policy))), None)


@dataclass(frozen=True, kw_only=True)
class Scorer:
    """The reward model behind a score column, found on the offline rows: ``score = gain * column + shift``, gain > 0."""

    column: str
    gain: float
    shift: float

    @property
    def raw(self) -> bool:
        """Whether the column holds the model's own scores, whose differences are log-odds."""
        return self.column.startswith("scores.")


def scorer_of(panel: Panel, proxy: str, step: int, offline: Pairs, *, tolerance: float = 1e-3) -> Scorer | None:
    """Which of the scores recorded on offline rows the proxy of a checkpoint is, up to a positive affine rescaling.

    Refits are rescaled on reference samples, so `proxy_current` is an increasing affine function of one reward model's raw score;
    that model's raw score on the offline pairs then says how the model in force does there.

    Args:
        panel: the arm's test rows.
        proxy: ``proxy_fixed`` or ``proxy_current``.
        step: position among the panel's steps.
        offline: the offline pairs.
        tolerance: largest residual allowed, relative to the proxy's standard deviation.

    Returns:
        None where no score recorded on both kinds of row matches.
    """
    target = panel.column(proxy)
    if target is None:
        return None
    here = (panel.step == step) & np.isfinite(target)
    names = [str(c) for c in offline.rows.columns if str(c).startswith("scores.")]
    best, least = None, tolerance
    for name in [*sorted(names), "proxy_fixed"]:
        source = panel.column(name)
        if source is None or offline.column(name) is None:
            continue
        both = here & np.isfinite(source)
        if both.sum() < 3 or not source[both].std() > 0 or not target[both].std() > 0:
            continue
        gain, shift = np.polyfit(source[both], target[both], 1)
        residual = float(np.abs(target[both] - gain * source[both] - shift).max() / target[both].std())
        if gain > 0 and residual < least:
            best, least = Scorer(column=name, gain=float(gain), shift=float(shift)), residual
    return best


def wins_over_first(panel: Panel) -> Array | None:
    """[N] Share of the labels that prefer a row's reply to one of the first checkpoint's; 1/2 at the first checkpoint itself.

    None where no label compares a later checkpoint with the first.
    """
    labels = _label_table(panel.rows)
    first, second, won = (labels[c].to_numpy() for c in ("first", "second", "preference"))
    # rows are sorted by step, so only the second of a pair can be the later one
    across = (panel.step[first] == 0) & (panel.step[second] > 0)
    if not across.any():
        return None
    sums = np.bincount(second[across], weights=1 - won[across].astype(float), minlength=len(panel.rows))
    counts = np.bincount(second[across], minlength=len(panel.rows))
    wins = np.divide(sums, counts, out=np.full(len(panel.rows), np.nan), where=counts > 0)
    return np.where(panel.step == 0, 0.5, wins)


def _within(cell: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs of positions in the same run of a sorted column [N]: all, or of each position the same number, up to `MOST_PAIRS`."""
    n = len(cell)
    starts = np.flatnonzero(np.r_[True, cell[1:] != cell[:-1]]) if n else np.zeros(0, dtype=np.int64)
    sizes = np.diff(np.r_[starts, n])
    place, size = np.arange(n) - np.repeat(starts, sizes), np.repeat(sizes, sizes)
    few = int((sizes * (sizes - 1) // 2).sum()) <= MOST_PAIRS
    # names of samples may follow their scores, so that neighbours would be alike: partners are drawn
    order = np.arange(n) if few else np.lexsort(((Key(0) / "pairs").permutation(n), cell))
    firsts, seconds, total = [], [], 0
    for k in range(1, int(sizes.max(initial=0))):
        here = np.flatnonzero(place + k < size)
        total += len(here)
        if not few and k > 1 and total > MOST_PAIRS:
            break
        firsts.append(order[here])
        seconds.append(order[here + k])
    if not firsts:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    first, second = np.concatenate(firsts), np.concatenate(seconds)
    return np.minimum(first, second), np.maximum(first, second)


def _label_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Labels of pairs that are both in ``rows``: positions first < second, and the mean preference for the first."""
    if "labels" not in rows:
        return pd.DataFrame({"first": np.zeros(0, np.int64), "second": np.zeros(0, np.int64), "preference": np.zeros(0)})
    filled = [(i, given) for i, value in enumerate(rows["labels"].tolist()) if (given := _labels(value))]
    place = {sample: i for i, sample in enumerate(rows["sample_id"].tolist())} if filled else {}
    found = [
        (i, place[label["other_sample_id"]], label["annotator"], float(label["preference"]))
        for i, given in filled
        for label in given
        if label["other_sample_id"] in place
    ]
    table = pd.DataFrame(found, columns=["this", "other", "annotator", "preference"])
    flip = table["this"] > table["other"]
    table["first"] = np.where(flip, table["other"], table["this"]).astype(np.int64)
    table["second"] = np.where(flip, table["this"], table["other"]).astype(np.int64)
    table["preference"] = np.where(flip, 1 - table["preference"], table["preference"])
    # the same comparison may be written on both of its replies: one annotator counts once
    once = table.groupby(["first", "second", "annotator"], as_index=False)["preference"].mean()
    return once.groupby(["first", "second"], as_index=False)["preference"].mean()


def _labels(value: Any) -> list[Mapping[str, Any]]:
    if value is None or isinstance(value, float) or not len(value):
        return []
    return [label if isinstance(label, Mapping) else vars(label) for label in value]
