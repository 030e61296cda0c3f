"""Diversity: did the policy collapse onto a few replies (Kirk et al. 2023, arXiv:2310.06452)?

Four measures, each within a prompt (its K samples, averaged over prompts) or across prompts (one sample of each): ``distinct`` (share of
different n-grams among all), ``ead`` (the same corrected for length: different n-grams over those that as many draws from a vocabulary
would give, Liu et al. 2022), both averaged over n; ``unlikeness`` within and across: 1 - mean cosine of pairs of replies.

Every policy that is optimised narrows, and saying the best thing again and again may be right. So only a collapse is an alarm: hardly
anything is left of the first checkpoint's unlikeness, within prompts or across them.

Deviations:

1. Likeness is the cosine of hashed TF-IDF vectors of words and bigrams, not of sentence embeddings, so that no model is needed.
2. At most ``max_replies`` replies are read, evenly from all prompts and checkpoints; the rule says how many.

Series, one entry a checkpoint: ``step``; ``unlikeness_within``, ``unlikeness_across``, ``distinct_within``, ``ead_within``, each with
``_low`` and ``_high``.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field
from scipy import sparse
from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer

from trueup.core.config import Config
from trueup.core.rng import Key
from trueup.mismatch.diagnosis import Diagnosis, not_enough, shown
from trueup.mismatch.panel import METHOD, Panel, curve_columns, panel_of
from trueup.stats.bootstrap import DRAWS, Array, make_estimate
from trueup.stats.estimate import Estimate

NAME = "diversity"
QUESTION = "Did the policy collapse onto a few replies?"
READS_TEXTS = True

_WORD = re.compile(r"\w+|[^\w\s]")
NGRAMS = (1, 2, 3, 4, 5)


class Diversity(Config):
    """Thresholds of the diversity diagnosis."""

    min_prompts: int = Field(default=10, ge=3)
    """Fewer prompts are not enough data."""
    min_left: float = Field(default=0.1, gt=0, lt=1)
    """A collapse: no more than this share of the first checkpoint's unlikeness is left (the interval's upper limit)."""
    vocabulary: int = Field(default=50_257, ge=2)
    """Words that the EAD corrects for (Kirk et al. take GPT-2's)."""
    max_replies: int = Field(default=6_000, ge=100)
    """Replies read; more are thinned out by prompt and sample."""
    max_across: int = Field(default=400, ge=3)
    """Prompts compared with each other."""
    draws: int = Field(default=DRAWS, ge=100)
    """Bootstrap resamples."""


@dataclass(frozen=True, kw_only=True)
class _Curve:
    """A measure along the checkpoints: [S] and its resamples [R, S]."""

    values: Array
    draws: Array


def diagnose(records: pd.DataFrame, arm: str, settings: Diversity, key: Key) -> Diagnosis:
    """Diversity along the checkpoints; alarm when unlikeness within or across prompts has collapsed.

    Args:
        records: flat frame of sample records.
        arm: name of the arm.
        settings: thresholds.
        key: random stream.
    """
    panel = panel_of(records, arm)
    if panel is None or len(panel.steps) < 2 or len(panel.prompts) < settings.min_prompts:
        why = f"test replies to at least {settings.min_prompts} prompts at two checkpoints are needed"
        return not_enough("policy_evaluation", NAME, QUESTION, arm, why)
    rows = _thinned(panel, settings.max_replies, key / "thin")
    prompt, step = panel.prompt[rows], panel.step[rows]
    texts = panel.rows["response"].to_numpy(dtype=object)[rows]
    vectors, n = _vectors([str(t) for t in texts]), len(panel.prompts)
    weights = panel.weights(key / "prompts", settings.draws)
    curves = {"unlikeness_across": _across(vectors, prompt, step, panel, weights, settings, key / "across")}
    for name, cells in _within(vectors, texts, prompt, step, panel, settings).items():
        known = np.isfinite(cells)
        level = np.where(known, cells, 0.0)
        curves[name] = _Curve(values=_over(level.sum(0), known.sum(0)), draws=_over(weights @ level, weights @ known))
    left = [_left(name, curves[name], n) for name in ("unlikeness_within", "unlikeness_across") if name in curves]
    collapsed = [e for e in left if e.high is not None and e.high < settings.min_left]
    estimates = [
        make_estimate(f"{name}_{end}", float(c.values[at]), c.draws[:, at], n, "", method=METHOD)
        for name, c in curves.items()
        for end, at in (("first", 0), ("last", -1))
    ]
    series: dict[str, list[float | None]] = {}
    for name, c in curves.items():
        series |= curve_columns(name, c.values, c.draws, n)
    read = f"{len(rows)} of {len(panel.rows)} replies read"
    rule = (
        f"Alarm when of the first checkpoint's unlikeness of replies, within prompts or across them, no more than {settings.min_left:.0%} "
        f"is left at the last (upper limit): {'; '.join(f'{e.name} {shown(e)}' for e in left)}. {read}."
    )
    return Diagnosis(
        link="policy_evaluation",
        name=NAME,
        question=QUESTION,
        arm=arm,
        verdict="alarm" if collapsed else "quiet",
        rule=rule,
        estimates=(*left, *estimates),
        series={"step": panel.steps.tolist(), **series},
        samples=_commonest(panel) if collapsed else (),
    )


def ead(distinct: int, total: int, vocabulary: int) -> float:
    """Expectation-adjusted distinct n-grams: different ones over those expected of as many draws; NaN of none.

    Args:
        distinct: different n-grams N.
        total: n-grams C.
        vocabulary: V; N / (V (1 - ((V - 1) / V)^C)).
    """
    return distinct / (vocabulary * -np.expm1(total * np.log1p(-1 / vocabulary))) if total else float("nan")


def _thinned(panel: Panel, most: int, key: Key) -> NDArray[np.int64]:
    """Positions of the replies that are read: the first samples of every prompt and checkpoint, of fewer prompts if need be."""
    place = panel.prompt * len(panel.steps) + panel.step
    number = pd.Series(place).groupby(place).cumcount().to_numpy()
    if len(place) <= most:
        return np.arange(len(place))
    cells = len(panel.prompts) * len(panel.steps)
    samples = max(2, most // cells)
    prompts = np.zeros(len(panel.prompts), dtype=bool)
    prompts[key.permutation(len(prompts))[: max(3, most // (samples * len(panel.steps)))]] = True
    return np.flatnonzero((number < samples) & prompts[panel.prompt])


def _vectors(texts: list[str]) -> sparse.csr_matrix:
    """[N, F] TF-IDF vectors of length 1 (0 of an empty text) of words and bigrams."""
    counts = HashingVectorizer(
        token_pattern=_WORD.pattern, ngram_range=(1, 2), alternate_sign=False, norm=None, n_features=2**18
    ).transform(texts)
    return TfidfTransformer().fit_transform(counts).tocsr()


def _within(
    vectors: sparse.csr_matrix,
    texts: NDArray[np.object_],
    prompt: NDArray[np.int64],
    step: NDArray[np.int64],
    panel: Panel,
    settings: Diversity,
) -> dict[str, Array]:
    """[P, S] measures within each prompt and checkpoint; NaN where there is one reply only."""
    shape = (len(panel.prompts), len(panel.steps))
    cell = prompt * shape[1] + step
    size = shape[0] * shape[1]
    member = sparse.csr_matrix((np.ones(len(cell)), (cell, np.arange(len(cell)))), shape=(size, len(cell)))
    sums = member @ vectors
    lengths = np.asarray(vectors.multiply(vectors).sum(axis=1)).ravel()
    own, count = np.bincount(cell, weights=lengths, minlength=size), np.bincount(cell, minlength=size)
    likeness = _over(np.asarray(sums.multiply(sums).sum(axis=1)).ravel() - own, count * (count - 1.0))
    words = [[w.lower() for w in _WORD.findall(str(t))] for t in texts]
    distinct, corrected = np.full(size, np.nan), np.full(size, np.nan)
    for at, rows in pd.Series(np.arange(len(cell))).groupby(cell):
        if len(rows) > 1:
            distinct[int(str(at))], corrected[int(str(at))] = _ngrams([words[i] for i in rows], settings.vocabulary)
    found = {"unlikeness_within": 1 - likeness, "distinct_within": distinct, "ead_within": corrected}
    return {name: values.reshape(shape) for name, values in found.items() if np.isfinite(values).any()}


def _ngrams(replies: list[list[str]], vocabulary: int) -> tuple[float, float]:
    """Share of different n-grams, and EAD, averaged over n; orders of which there are none are left out."""
    plain, corrected = [], []
    for n in NGRAMS:
        found = Counter(tuple(words[i : i + n]) for words in replies for i in range(len(words) - n + 1))
        total = sum(found.values())
        if total:
            plain.append(len(found) / total)
            corrected.append(ead(len(found), total, vocabulary))
    return (float(np.mean(plain)), float(np.mean(corrected))) if plain else (float("nan"), float("nan"))


def _across(
    vectors: sparse.csr_matrix,
    prompt: NDArray[np.int64],
    step: NDArray[np.int64],
    panel: Panel,
    weights: Array,
    settings: Diversity,
    key: Key,
) -> _Curve:
    """Unlikeness of the first samples of different prompts; a resample weighs pairs by how often it drew both."""
    chosen = np.sort(key.permutation(len(panel.prompts))[: settings.max_across])
    values, draws = [], []
    for s in range(len(panel.steps)):
        here = np.flatnonzero(step == s)
        first = here[np.unique(prompt[here], return_index=True)[1]]
        first = first[np.isin(prompt[first], chosen)]
        part = vectors[first]
        gram = np.asarray((part @ part.T).todense())
        np.fill_diagonal(gram, 0.0)
        w = np.concatenate([np.ones((1, len(first))), weights[:, prompt[first]]])
        pairs = w.sum(axis=1) ** 2 - (w**2).sum(axis=1)
        both = 1 - _over(((w @ gram) * w).sum(axis=1), pairs)
        values.append(both[0])
        draws.append(both[1:])
    return _Curve(values=np.array(values), draws=np.stack(draws, axis=1))


def _left(name: str, curve: _Curve, n: int) -> Estimate:
    """What is left at the last checkpoint, as a share of the first."""
    value = float(_over(curve.values[-1:], curve.values[:1])[0])
    return make_estimate(f"{name}_left", value, _over(curve.draws[:, -1], curve.draws[:, 0]), n, "share of the first", method=METHOD)


def _commonest(panel: Panel, count: int = 5) -> tuple[str, ...]:
    """One row of each of the commonest replies of the last checkpoint."""
    last = panel.rows[panel.step == len(panel.steps) - 1]
    tops = last["response"].value_counts(sort=True).index[:count]
    return tuple(str(last.loc[last["response"] == t, "sample_id"].iloc[0]) for t in tops)


def _over(above: Array, below: Array) -> Array:
    """Quotient, NaN where nothing is divided by."""
    above, below = np.asarray(above, dtype=float), np.asarray(below, dtype=float)
    return np.divide(above, below, out=np.full(np.broadcast(above, below).shape, np.nan), where=below > 0)
