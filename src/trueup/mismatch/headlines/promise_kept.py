"""Reward model <-> policy in one number: of the gain in gold that the proxy's rise promised, the share that came.

The promise is the slope of gold on proxy between replies to one prompt at the first checkpoint, times what the proxy rose by the last.
Where gold is linear in the proxy (as when both are normal), every tilt of the first policy towards the proxy keeps it exactly: what
counts is what optimisation broke, and not how good the reward model was before.

Without gold, labels promise: the chance that the later of two replies wins, by a logistic curve of the proxy's difference that was fitted
to labels of the preference set (or of the first checkpoint), beside the share of comparisons with the first checkpoint that the last won;
both less one half.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import expit

from trueup.core.rng import Key
from trueup.mismatch.diagnosis import Link, shown
from trueup.mismatch.headlines.number import Headline, HeadlineSettings, absent, bounded, quotient
from trueup.mismatch.pairs import Pairs, labelled_pairs, offline_pairs, scorer_of
from trueup.mismatch.panel import METHOD, Panel
from trueup.stats.bootstrap import Array, cluster_weights, make_estimate
from trueup.stats.estimate import Estimate

LINK: Link = "reward_policy"
NEWTON_STEPS = 25
STEEPEST = 20.0
"""Bound of the fitted slope, in log-odds per standard deviation of the differences: labels without a single miss have no finite slope."""


def promise_kept(records: pd.DataFrame, panel: Panel, settings: HeadlineSettings, key: Key) -> Headline:
    """The number of one arm, from its first and its last checkpoint.

    Args:
        records: flat frame of sample records, for the offline rows.
        panel: the arm's test rows, with ``proxy_fixed``.
        settings: basis and thresholds.
        key: random stream.
    """
    if len(panel.steps) < 2:
        return absent(LINK, panel.arm, "one checkpoint, a gain needs two")
    gold, missing = panel.column("gold"), []
    if settings.basis in ("auto", "gold"):
        if gold is not None:
            return _by_gold(panel, gold, settings, key)
        missing.append("no gold")
    if settings.basis in ("auto", "labels"):
        found = _by_labels(records, panel, settings, key)
        if isinstance(found, Headline):
            return found
        missing.append(found)
    return absent(LINK, panel.arm, " and ".join(missing) or "evaluations have no slope on the proxy that could promise a gain")


def _by_gold(panel: Panel, gold: Array, settings: HeadlineSettings, key: Key) -> Headline:
    proxy = panel.column("proxy_fixed")
    assert proxy is not None
    both = np.isfinite(proxy) & np.isfinite(gold)
    golds, proxies = (panel.cells(np.where(both, x, np.nan)) for x in (gold, proxy))
    prompts = golds.prompts()[[0, -1]]
    if prompts.min() < settings.min_prompts:
        return absent(
            LINK, panel.arm, f"{prompts.min()} prompts have gold at the first and last checkpoint, {settings.min_prompts} are needed"
        )
    weights, n = panel.weights(key / "prompts", settings.draws), int(prompts.min())
    across, along = _within_first(panel, gold, proxy, both)
    slope, slopes = quotient(across.sum(), along.sum()), quotient(weights @ across, weights @ along)
    gain, rise = (float(c.mean()[-1] - c.mean()[0]) for c in (golds, proxies))
    gains, rises = (d[:, -1] - d[:, 0] for d in (golds.resampled(weights), proxies.resampled(weights)))
    parts = (
        make_estimate("slope_of_gold_on_proxy", float(slope), slopes, n, "gold / proxy", method=METHOD),
        make_estimate("proxy_gain", rise, rises, n, "score", method=METHOD),
        make_estimate("gain_promised", float(slope) * rise, slopes * rises, n, "score", method=METHOD),
        make_estimate("gain", gain, gains, n, "score", method=METHOD),
    )
    if not above_zero(parts[0]):
        return absent(LINK, panel.arm, f"gold is not shown to rise with the proxy at the first checkpoint (slope {shown(parts[0])})")
    if not above_zero(parts[1]):
        return absent(LINK, panel.arm, f"the proxy is not shown to have risen ({shown(parts[1])})")
    estimate = bounded(LINK, float(quotient(gain, float(slope) * rise)), quotient(gains, slopes * rises), n)
    return Headline(link=LINK, arm=panel.arm, basis="gold", estimate=estimate, parts=parts, why=_said("Gain of gold", parts))


def _within_first(panel: Panel, gold: Array, proxy: Array, both: NDArray[np.bool_]) -> tuple[Array, Array]:
    """[P], [P] Sums over a prompt's replies at the first checkpoint of proxy x gold and proxy x proxy, both less the prompt's mean."""
    here = np.flatnonzero(both & (panel.step == 0))
    prompt, size = panel.prompt[here], len(panel.prompts)
    counts = np.maximum(np.bincount(prompt, minlength=size), 1)
    g, p = (x[here] - (np.bincount(prompt, x[here], size) / counts)[prompt] for x in (gold, proxy))
    across, along = np.bincount(prompt, g * p, size), np.bincount(prompt, p * p, size)
    return across.astype(float), along.astype(float)


def _by_labels(records: pd.DataFrame, panel: Panel, settings: HeadlineSettings, key: Key) -> Headline | str:
    """The number, or what is missing."""
    pairs, proxy = labelled_pairs(panel), panel.column("proxy_fixed")
    assert proxy is not None
    last = len(panel.steps) - 1
    # rows are sorted by step, so only the second of a pair can be the later one
    ends = None if pairs is None else pairs.take((panel.step[pairs.first] == 0) & (panel.step[pairs.second] == last))
    if ends is None or len(set(ends.prompts())) < settings.min_prompts:
        return f"no labels that compare replies of the last checkpoint with the first one's on {settings.min_prompts} prompts"
    taught = _taught(records, panel, pairs, proxy)
    if taught is None or len(set(taught[2])) < settings.min_prompts:
        return f"no labels of {settings.min_prompts} prompts, scored by the same proxy, that say what a difference of the proxy is worth"
    x, won, names = taught
    codes, prompts = pd.factorize(names)
    own = cluster_weights(len(prompts), settings.draws, key / "taught")[:, codes]
    slope, slopes = _slopes(x, won, np.ones((1, len(x))))[0], _slopes(x, won, own)
    rise, later = -ends.difference(proxy), 1 - ends.preference
    places, n_prompts = pd.factorize(ends.prompts())
    weights, n = cluster_weights(len(n_prompts), settings.draws, key / "prompts")[:, places], len(n_prompts)
    total = weights.sum(axis=1)
    promised, came = float(expit(slope * rise).mean() - 0.5), float(later.mean() - 0.5)
    promises = (weights * expit(slopes[:, None] * rise)).sum(axis=1) / total - 0.5
    comings = weights @ later / total - 0.5
    parts = (
        make_estimate("slope_of_labels_on_proxy", slope, slopes, len(prompts), "log-odds / proxy", method=METHOD),
        make_estimate("gain_promised", promised, promises, n, "win share less one half", method=METHOD),
        make_estimate("gain", came, comings, n, "win share less one half", method=METHOD),
    )
    if not above_zero(parts[1]):
        return f"no win promised by the labels that the proxy learned from ({shown(parts[1])})"
    estimate = bounded(LINK, float(quotient(came, promised)), quotient(comings, promises), n)
    return Headline(link=LINK, arm=panel.arm, basis="labels", estimate=estimate, parts=parts, why=_said("Win share less one half", parts))


def _taught(records: pd.DataFrame, panel: Panel, pairs: Pairs | None, proxy: Array) -> tuple[Array, Array, NDArray[np.object_]] | None:
    """Difference of the proxy, preference and prompt of the labelled pairs that the promise is read from: offline ones where scored."""
    offline = offline_pairs(records)
    scorer = None if offline is None else scorer_of(panel, "proxy_fixed", 0, offline)
    if offline is not None and scorer is not None:
        source, scores, scale = offline, offline.column(scorer.column), scorer.gain
    elif pairs is not None:
        source, scores, scale = pairs.take((panel.step[pairs.first] == 0) & (panel.step[pairs.second] == 0)), proxy, 1.0
    else:
        return None
    assert scores is not None
    x = scale * source.difference(scores)
    known = np.isfinite(x) & np.isfinite(source.preference)
    return x[known], source.preference[known], source.prompts()[known]


def _slopes(x: Array, won: Array, weight: Array) -> Array:
    """[R] Slope through the origin of a logistic curve of ``won`` [N] on ``x`` [N], one a row of weights [R, N]; Newton's method."""
    limit = STEEPEST / max(float(x.std()), 1e-12)
    slope = np.zeros(len(weight))
    for _ in range(NEWTON_STEPS):
        p = expit(slope[:, None] * x)
        information = (weight * p * (1 - p)) @ x**2
        step = np.divide((weight * (won - p)) @ x, information, out=np.zeros(len(weight)), where=information > 0)
        slope = np.clip(slope + step, -limit, limit)
    return np.asarray(slope)


def above_zero(estimate: Estimate) -> bool:
    """Whether the interval lies above 0."""
    return estimate.low is not None and estimate.low > 0


def _said(what: str, parts: Sequence[Estimate]) -> str:
    return f"{what}: {shown(parts[-1])} came of {shown(parts[-2])} promised."
