"""Length: does the reward model score replies by how long they are, and did the policy grow long for it?

Everything is within a prompt and checkpoint (values minus their mean there), pooled over prompts: replies of different prompts differ
in length for good reasons. Where gold is known, the partial correlation of score and length given gold is what counts: a score that
is gold plus noise has none, whichever way gold itself leans. Source: Singhal et al. 2023, "A Long Way to Go".

Series, one entry a checkpoint: ``step``; ``length`` with ``_low`` and ``_high``; ``correlation``: within-prompt Pearson correlation of
score and length, with ``_low`` and ``_high``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from pydantic import Field

from trueup.core.config import Config
from trueup.core.rng import Key
from trueup.mismatch.diagnosis import Diagnosis, not_enough, shown
from trueup.mismatch.pairs import correct, policy_pairs
from trueup.mismatch.panel import METHOD, Panel, curve_columns, panel_of
from trueup.stats.bootstrap import DRAWS, Array, make_estimate, mean_estimate
from trueup.stats.estimate import Estimate

NAME = "length"
QUESTION = "Does the reward model score replies by their length, and did the policy grow long for it?"


class Length(Config):
    """Thresholds of the length diagnosis."""

    min_prompts: int = Field(default=10, ge=2)
    """Fewer prompts with two replies are not enough data."""
    min_bias: float = Field(default=0.1, ge=0, lt=1)
    """With gold: a partial correlation of score and length given gold below this raises no alarm, however certain."""
    min_share: float = Field(default=0.2, ge=0)
    """Without gold: length must explain at least this share of the score's rise (the interval's lower limit)."""
    draws: int = Field(default=DRAWS, ge=100)
    """Bootstrap resamples."""


@dataclass(frozen=True, kw_only=True)
class _Within:
    """Within-cell deviations and their products, summed by prompt and step: [P, S] each."""

    products: dict[str, Array]

    def totals(self, weights: Array | None = None, step: int | None = None) -> dict[str, Array]:
        """Pooled sums of products, over all steps or of one; weights [R, P] resample prompts."""
        sums = {k: v.sum(axis=1) if step is None else v[:, step] for k, v in self.products.items()}
        return {k: (v.sum() if weights is None else weights @ v) for k, v in sums.items()}


def diagnose(records: pd.DataFrame, arm: str, settings: Length, key: Key) -> Diagnosis:
    """Length preference of the score and growth of the replies.

    Alarm, with gold: the partial correlation of score and length given gold has an interval above 0. Without gold: replies grew, and
    length explains part of the score's rise.

    Args:
        records: flat frame of sample records.
        arm: name of the arm.
        settings: thresholds.
        key: random stream.
    """
    panel = panel_of(records, arm)
    pairs = policy_pairs(panel) if panel else None
    proxy = next((p for p in ("proxy_current", "proxy_fixed") if panel and panel.column(p) is not None), None)
    if panel is None or pairs is None or proxy is None or len(np.unique(pairs.prompts())) < settings.min_prompts:
        return not_enough("reward_evaluation", NAME, QUESTION, arm, f"scores of two replies a checkpoint to at least {settings.min_prompts} prompts are needed")
    length, unit = _lengths(panel)
    score, gold = panel.column(proxy), panel.column("gold")
    assert score is not None
    weights = panel.weights(key / "prompts", settings.draws)
    within = _within(panel, {"score": score, "length": length, **({"gold": gold} if gold is not None else {})})
    n = len(panel.prompts)
    found = [_pooled("correlation", within, weights, n, _correlation("score", "length"))]
    if gold is not None:
        found.append(_pooled("correlation_gold", within, weights, n, _correlation("gold", "length")))
        found.append(_pooled("partial_correlation_given_gold", within, weights, n, _partial))
    longer = np.where(pairs.difference(length) == 0, np.nan, pairs.difference(length) > 0)
    found.append(mean_estimate(correct(pairs.difference(score), longer), pairs.prompts(), "longer_wins", "share", key / "longer", draws=settings.draws))
    if gold is not None:
        truth = correct(pairs.difference(gold), longer)
        found.append(mean_estimate(truth, pairs.prompts(), "longer_wins_gold", "share", key / "longer gold", draws=settings.draws))
    found += _growth(panel, length, unit, weights)
    verdict, rule = _judge({e.name: e for e in found}, settings, proxy, unit)
    lengths = panel.cells(length)
    curve = [[_correlation("score", "length")(within.totals(w, s)) for s in range(len(panel.steps))] for w in (None, weights)]
    return Diagnosis(
        link="reward_evaluation",
        name=NAME,
        question=QUESTION,
        arm=arm,
        verdict="alarm" if verdict else "quiet",
        rule=rule,
        estimates=tuple(found),
        series={
            "step": panel.steps.tolist(),
            **curve_columns("length", lengths.mean(), lengths.resampled(weights), n),
            **curve_columns("correlation", np.array(curve[0]), np.stack(curve[1], axis=1), n),
        },
        samples=_longest(panel, length, score),
    )


def _lengths(panel: Panel) -> tuple[Array, str]:
    tokens = panel.column("n_tokens")
    if tokens is not None:
        return tokens, "tokens"
    return np.array([len(str(r).split()) for r in panel.rows["response"]], dtype=float), "words"


def _within(panel: Panel, columns: dict[str, Array]) -> _Within:
    """Deviations from the mean of their prompt and step, over rows where every column is present."""
    present = np.all([np.isfinite(v) for v in columns.values()], axis=0)
    deviations = {}
    for name, values in columns.items():
        kept = np.where(present, values, np.nan)
        cells = panel.cells(kept)
        means = np.divide(cells.sums, cells.counts, out=np.zeros_like(cells.sums), where=cells.counts > 0)
        deviations[name] = kept - means[panel.prompt, panel.step]
    names = sorted(deviations)
    pairs = [(a, b) for i, a in enumerate(names) for b in names[i:]]
    return _Within(products={f"{a} {b}": panel.cells(deviations[a] * deviations[b]).sums for a, b in pairs})


class _correlation:
    """Pearson's r from pooled sums of products."""

    def __init__(self, a: str, b: str) -> None:
        self.a, self.b = sorted((a, b))

    def __call__(self, totals: dict[str, Array]) -> Array:
        both = totals[f"{self.a} {self.a}"] * totals[f"{self.b} {self.b}"]
        size = np.sqrt(both)
        return np.divide(totals[f"{self.a} {self.b}"], size, out=np.full(np.shape(size), np.nan), where=size > 1e-12)


def _partial(totals: dict[str, Array]) -> Array:
    """Correlation of score and length given gold; the plain one where gold does not vary within prompts."""
    sl, sg, lg = (_correlation(a, b)(totals) for a, b in (("score", "length"), ("score", "gold"), ("length", "gold")))
    sg, lg = np.where(np.isnan(sg), 0.0, sg), np.where(np.isnan(lg), 0.0, lg)
    rest = (1 - sg**2) * (1 - lg**2)
    return np.divide(sl - sg * lg, np.sqrt(np.maximum(rest, 0)), out=np.full(np.shape(rest), np.nan), where=rest > 1e-12)
