"""Which checkpoint to keep, from a small budget of fresh comparisons: what to ask, and what the answers say.

Two replies to one prompt, from two checkpoints, are shown to an annotator. `utility` turns the answers into a belief about the mean
utility of every checkpoint; the pairs of checkpoints to ask about next are those whose answers would say most about which is the best;
prompts and replies of the pair are drawn at random, no pair of replies twice. Two replies of the same text are a tie that nobody has to
be asked about. The checkpoint of the highest posterior mean is kept. Labels that the records hold already count first, those within a
checkpoint as well: they say what the covariates are worth. The proxy is a covariate inside checkpoints and nothing else. Without any
label the law of the prior decides, by KL alone.

All is a pure function of records, answers and key.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import pandas as pd
from pydantic import Field
from scipy.special import ndtri

from trueup.core.config import Config
from trueup.core.rng import Key
from trueup.mismatch.pairs import labelled_pairs
from trueup.mismatch.panel import Panel, panel_of
from trueup.mismatch.utility import Comparisons, Posterior, UtilityPrior, informative, posterior
from trueup.stats.bootstrap import Array
from trueup.stats.estimate import Estimate

Ask = Callable[[str, str], float | None]
"""Asks an annotator about two sample_ids: 1 the first reply is better, 0 the second, 0.5 a tie, None where nobody answers."""


class KeepRule(Config):
    """How comparisons are bought, and what is believed before."""

    budget: int = Field(default=200, ge=0, le=1_000_000)
    """Comparisons to buy at most."""
    batch: int = Field(default=20, ge=1)
    """Comparisons between two updates of the belief."""
    draws: int = Field(default=200, ge=50)
    """Draws of the belief behind a choice of pairs and behind chances."""
    rivals: int = Field(default=4, ge=1)
    """Pairs of checkpoints that a batch is dealt out over: those that say most."""
    covariates: tuple[str, ...] = ("proxy_current", "n_tokens", "disagreement", "logp_ref_nats")
    """Columns that may explain why one reply of a checkpoint is better than another; those that were not recorded are left out."""
    prior: UtilityPrior = UtilityPrior()
    """What is believed before any label."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One comparison."""

    first: str
    """sample_id."""
    second: str
    preference: float
    """1 the first reply is better, 0 the second, 0.5 a tie."""


@dataclass(frozen=True, kw_only=True)
class Kept:
    """The checkpoint to keep."""

    step: int
    position: int
    """Its place among the arm's checkpoints."""
    chance: float
    """That it is the best of all, as believed."""
    utility: tuple[Estimate, ...]
    """Of every checkpoint over the first one: log-odds that an annotator prefers an average reply; intervals are posterior ones."""
    gain: Estimate
    """``gain_of_kept``: its utility over the first checkpoint's."""
    loss: Estimate
    """``loss_after_kept``: its utility over the last checkpoint's."""
    n_labels: int
    """Comparisons used: recorded and bought, ties of equal texts not counted."""
    bought: tuple[Answer, ...] = ()
    """In the order they were asked."""
    wanted: tuple[tuple[str, str], ...] = ()
    """sample_ids that should be compared next."""
    steps: tuple[int, ...] = field(default=())
    """The arm's checkpoints."""


def keep(records: pd.DataFrame, arm: str, settings: KeepRule, key: Key, ask: Ask | None = None) -> Kept | None:
    """Buy comparisons, and name the checkpoint to keep.

    Args:
        records: flat frame of sample records.
        arm: name of the arm.
        settings: budget, covariates, prior.
        key: random stream of the choices.
        ask: the annotators; without them only recorded labels are used, and ``wanted`` says what to ask next.

    Returns:
        None where the arm has fewer than two checkpoints with a KL.
    """
    panel = panel_of(records, arm)
    table = None if panel is None else _Table.of(panel, settings)
    if table is None:
        return None
    bought: list[Answer] = []
    asked = 0
    while ask is not None and asked < settings.budget:
        size = min(settings.batch, settings.budget - asked)
        got = table.buy(_next_pairs(table, settings, key / "choice" / asked, size), ask)
        if not got:
            break
        bought += got
        asked += len(got)
    belief = table.belief(settings.prior)
    draws = belief.draws(4 * settings.draws, key / "belief")
    best = int(belief.utility().argmax())
    wanted = islice(_next_pairs(table, settings, key / "choice" / asked, settings.batch), settings.batch)
    return Kept(
        step=int(table.panel.steps[best]),
        position=best,
        chance=float((draws.argmax(axis=1) == best).mean()),
        utility=_estimates(belief, table.n_labels),
        gain=_difference("gain_of_kept", belief, best, 0, table.n_labels),
        loss=_difference("loss_after_kept", belief, best, belief.steps - 1, table.n_labels),
        n_labels=table.n_labels,
        bought=tuple(bought),
        wanted=tuple((table.ids[i], table.ids[j]) for i, j in wanted),
        steps=tuple(int(s) for s in table.panel.steps),
    )


def _estimates(belief: Posterior, n: int) -> tuple[Estimate, ...]:
    return tuple(_difference("utility", belief, s, 0, n) for s in range(belief.steps))


def _difference(name: str, belief: Posterior, first: int, second: int, n: int) -> Estimate:
    """Utility of one checkpoint less that of another, with its posterior interval."""
    mean = belief.utility()
    rows = np.concatenate([np.zeros((1, belief.root.shape[1])), belief.root[: belief.steps - 1]])
    value, wide = float(mean[first] - mean[second]), float(ndtri(0.975) * np.linalg.norm(rows[first] - rows[second]))
    return Estimate(name=name, value=value, low=value - wide, high=value + wide, n=n, unit="log-odds", method="posterior, Laplace")


class _Table:
    """The replies of an arm's checkpoints and what is known of their comparisons."""

    def __init__(self, panel: Panel, distance: Array, covariates: Array) -> None:
        self.panel, self.distance, self.covariates = panel, distance, covariates
        self.ids: list[str] = [str(s) for s in panel.rows["sample_id"]]
        self.texts: list[object] = panel.rows["response"].tolist() if "response" in panel.rows else list(range(len(self.ids)))
        self.place: dict[tuple[int, int], list[int]] = {}
        for row, at in enumerate(zip(panel.step.tolist(), panel.prompt.tolist(), strict=True)):
            self.place.setdefault(at, []).append(row)
        self.first: list[int] = []
        self.second: list[int] = []
        self.won: list[float] = []
        self.known: set[tuple[int, int]] = set()
        self.n_labels = 0
        labelled = labelled_pairs(panel)
        if labelled is not None:
            for i, j, p in zip(labelled.first.tolist(), labelled.second.tolist(), labelled.preference.tolist(), strict=True):
                self.add(i, j, p)
            self.n_labels = len(labelled)

    @classmethod
    def of(cls, panel: Panel, settings: KeepRule) -> _Table | None:
        """None where there are fewer than two checkpoints, or no KL."""
        kl = panel.column_cells("kl_nats")
        if kl is None or len(panel.steps) < 2 or not np.isfinite(kl.mean()).all():
            return None
        distance = np.sqrt(np.maximum(kl.mean(), 0.0))
        columns = [c for name in settings.covariates if (c := _centred(panel, name)) is not None]
        return cls(panel, distance - distance[0], np.stack(columns, axis=1) if columns else np.zeros((len(panel.rows), 0)))

    def add(self, i: int, j: int, preference: float) -> None:
        """A comparison becomes known."""
        self.known.add((min(i, j), max(i, j)))
        self.first.append(i)
        self.second.append(j)
        self.won.append(preference)

    def buy(self, pairs: Iterator[tuple[int, int]], ask: Ask) -> list[Answer]:
        """Answers to pairs until they end or nobody answers any more."""
        out = []
        for i, j in pairs:
            preference = ask(self.ids[i], self.ids[j])
            if preference is None:
                continue
            self.add(i, j, float(preference))
            self.n_labels += 1
            out.append(Answer(first=self.ids[i], second=self.ids[j], preference=float(preference)))
        return out

    def belief(self, prior: UtilityPrior) -> Posterior:
        """After all that is known."""
        steps, n = len(self.panel.steps), len(self.won)
        i, j = np.array(self.first, dtype=np.int64), np.array(self.second, dtype=np.int64)
        levels = np.zeros((n, steps))
        levels[np.arange(n), self.panel.step[i]] += 1
        levels[np.arange(n), self.panel.step[j]] -= 1
        design = np.concatenate([levels[:, 1:], self.covariates[i] - self.covariates[j]], axis=1)
        return posterior(self.distance, Comparisons(design=design, won=np.array(self.won)), prior)


def _centred(panel: Panel, name: str) -> Array | None:
    """[N] A column less its checkpoint's mean, in standard deviations of what is left; 0 where missing; None where it says nothing."""
    values = panel.column(name)
    if values is None:
        return None
    gap = values - panel.cells(values).mean()[panel.step]
    size = float(np.sqrt(np.nanmean(gap**2)))
    return np.nan_to_num(gap / size) if size > 0 else None


def _next_pairs(table: _Table, settings: KeepRule, key: Key, count: int) -> Iterator[tuple[int, int]]:
    """Rows of up to ``count`` comparisons that are worth their price, chosen under one belief; free ties are noted on the way."""
    belief = table.belief(settings.prior)
    draws = belief.draws(settings.draws, key / "draws")
    rivals = informative(draws, settings.rivals)
    found, chosen = 0, set[tuple[int, int]]()
    for turn in range(20 * count):
        if found == count:
            return
        pair = _fresh(table, rivals[turn % len(rivals)], chosen, key / turn)
        if pair is None:
            continue
        chosen.add(pair)
        if table.texts[pair[0]] == table.texts[pair[1]]:
            table.add(*pair, 0.5)
            continue
        found += 1
        yield pair


def _fresh(table: _Table, steps: tuple[int, int], chosen: set[tuple[int, int]], key: Key) -> tuple[int, int] | None:
    """Rows of two replies to one random prompt, one of each checkpoint, that have not been compared; None where a few tries find none."""
    generator = key.generator()
    for prompt in generator.permutation(len(table.panel.prompts))[:20].tolist():
        sides = [table.place.get((s, prompt), []) for s in steps]
        if not all(sides):
            continue
        rows: list[int] = [int(side[int(generator.integers(len(side)))]) for side in sides]
        pair = min(rows), max(rows)
        if pair not in table.known and pair not in chosen:
            return pair
    return None


def ask_file(labels: dict[tuple[str, str], float]) -> Ask:
    """Annotators whose answers are known: preferences for the first of two sample_ids, read in either order."""

    def ask(first: str, second: str) -> float | None:
        if (first, second) in labels:
            return labels[first, second]
        return 1 - labels[second, first] if (second, first) in labels else None

    return ask
