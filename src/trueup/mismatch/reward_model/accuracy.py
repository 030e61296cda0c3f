"""How often the better rated reply gets the higher score: over all, by domain, in the worst domain, best of several.

Every item counts the same however many replies it has; equal scores count as half; equally rated replies do not count. Intervals
resample prompts. Best of several after RewardBench 2 (Malik et al. 2025, arXiv:2506.01937).

A domain is broken where accuracy is shown to be well below that of all others, or the score means much less: its slope in the regression of
labels on score differences is less than half of that of all others. Either may also come from labels that are hard to guess there; the
ceiling of the domain (several labels a pair) tells.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from trueup.core.rng import Key
from trueup.mismatch.diagnosis import shown
from trueup.mismatch.reward_model.question import Answer, Evidence, Question, named
from trueup.mismatch.reward_model.scores import ScoredPairs
from trueup.stats.bootstrap import Array, ratio, statistic_estimate
from trueup.stats.estimate import Estimate
from trueup.stats.logistic import logistic, wald

DRAWS = 4000
"""Resamples: the intervals of alarms need thin tails."""
BROKEN = 0.5
"""Slope of a domain, as a share of that of the others, below which the score is said to be broken there."""


def accuracy(pairs: ScoredPairs, key: Key) -> list[Estimate]:
    """``accuracy``; with several domains also ``accuracy DOMAIN`` of each, ``domain_mean`` and ``worst_domain``.

    The worst domain's interval is that of the minimum, whichever domain it is in a resample; it is biased down where domains are small.
    """
    found = [share_right("accuracy", pairs, key)]
    domains = sorted(set(pairs.domain.tolist()) - {""})
    if len(domains) > 1:
        found += [share_right(f"accuracy {name}", pairs.take(pairs.domain == name), key) for name in domains]
        rows = np.concatenate([sums_of(pairs, pairs.domain == name) for name in domains], axis=1)
        for name, join in (("domain_mean", np.mean), ("worst_domain", np.min)):
            found.append(statistic_estimate(rows, lambda t, j=join: j(_ratios(t), axis=-1), name, "share", key / name))  # type: ignore[misc]
    return found


def best_of_several(frame: pd.DataFrame, key: Key) -> Estimate | None:
    """How often the highest score belongs to a best rated reply, in items of three or more; scores that tie for highest share the pick.

    Args:
        frame: rows of one model.
        key: random stream.

    Returns:
        None where no item has three replies of which some are better than others.
    """
    rows, prompts = [], []
    for _, item in frame.groupby("item", sort=False):
        rating, score = item["rating"].to_numpy(), item["score"].to_numpy()
        if len(item) >= 3 and rating.min() < rating.max():
            picked = score == score.max()
            rows.append((rating[picked] == rating.max()).mean())
            prompts.append(item["prompt_id"].iloc[0])
    if not rows:
        return None
    sums = pd.DataFrame({"p": prompts, "v": rows}).groupby("p")["v"].agg(["sum", "count"]).to_numpy(dtype=float)
    return statistic_estimate(sums, ratio, "best_of_several", "share", key / "best_of_several")


def accuracy_difference(first: ScoredPairs, second: ScoredPairs, name: str, key: Key) -> Estimate:
    """Accuracy of one model minus another's on the same pairs, with a paired interval."""
    everything = np.ones(len(first.delta), dtype=bool)
    rows = np.concatenate([sums_of(first, everything), sums_of(second, everything)], axis=1)
    return statistic_estimate(rows, lambda t: ratio(t[..., :2]) - ratio(t[..., 2:]), name, "share", key / name)


def slopes(pairs: ScoredPairs, level: float) -> list[Estimate]:
    """``slope DOMAIN``: the domain's slope of labels on score differences minus half of that of all others, over the latter.

    Args:
        pairs: of one model; ties count as half a win.
        level: coverage of each interval (delta method, clusters are prompts).

    Returns:
        an estimate a domain, 1/2 where slopes are equal, below 0 where the domain's is less than half; domains in which the score
        separates the labels, or of one prompt, are left out.
    """
    found = []
    weight = np.where(pairs.tied, 1.0, pairs.share)
    for name in sorted(set(pairs.domain.tolist()) - {""}):
        inside = pairs.domain == name
        clusters = len(set(pairs.prompt[inside].tolist()))
        if inside.all() or clusters < 2:
            continue
        x = np.stack([pairs.delta * inside, pairs.delta * ~inside], axis=1)
        fit = logistic(x, np.where(pairs.tied, 0.5, 1.0), pairs.prompt, weight)
        if fit is None or fit.coefficient[1] <= 0:
            continue
        own, others = fit.coefficient
        value = own / others - BROKEN
        found.append(wald(f"slope {name}", value, np.array([1 / others, -own / others**2]), fit, "ratio", level, units=clusters))
    return found


def gaps(pairs: ScoredPairs, level: float, key: Key) -> list[Estimate]:
    """``gap DOMAIN``: accuracy in the domain minus that in all others; domains of one prompt are left out."""
    found = []
    for name in sorted(set(pairs.domain.tolist()) - {""}):
        inside = pairs.domain == name
        rows = np.concatenate([sums_of(pairs, inside), sums_of(pairs, ~inside)], axis=1)
        if (rows[:, 1] > 0).sum() > 1 and (rows[:, 3] > 0).sum() > 1:
            gap = lambda t: ratio(t[..., :2]) - ratio(t[..., 2:])  # noqa: E731
            found.append(statistic_estimate(rows, gap, f"gap {name}", "share", key / "gap" / name, level=level, draws=DRAWS))
    return found


def answer(evidence: Evidence) -> Answer:
    """Alarm where accuracy is not shown to be above chance, or a domain is shown to be below it, or well below the others."""
    pairs, key = evidence.pairs, evidence.key
    best = best_of_several(evidence.rows, key)
    domains = len(set(pairs.domain.tolist()) - {""})
    # two chances to alarm a domain, each on one side only
    level = 1 - (1 - evidence.settings.alarm_level) / max(domains, 1)
    lines, behind = (slopes(pairs, level), gaps(pairs, level, key)) if domains > 1 else ([], [])
    found = (*accuracy(pairs, key), *([best] if best is not None else []), *behind, *lines)
    by_name = named(found)
    whole = by_name["accuracy"]
    if whole.low is None or whole.low <= 0.5:
        return Answer(verdict="alarm", rule=f"Accuracy {shown(whole)} is not above chance.", estimates=found)
    below = [e for n, e in by_name.items() if n.startswith("accuracy ") and e.high is not None and e.high < 0.5]
    flat = [e for e in lines if e.high is not None and e.high < 0]
    lower = [e for e in behind if e.high is not None and e.high < -evidence.settings.max_domain_gap]
    if below or flat or lower:
        told = [f"{e.name.removeprefix('accuracy ')} {shown(e)}" for e in below]
        told += [f"{e.name.removeprefix('slope ')}, where labels follow the score less than half as much as elsewhere" for e in flat]
        told += [f"{e.name.removeprefix('gap ')}, {shown(e)} against all others" for e in lower]
        return Answer(verdict="alarm", rule=f"Accuracy {shown(whole)} is above chance, but lower in {'; '.join(told)}.", estimates=found)
    worst = f"; worst domain {shown(by_name['worst_domain'])}" if "worst_domain" in by_name else ""
    rule = f"Accuracy {shown(whole)} is above chance, and in no domain shown to be below it{worst}."
    return Answer(verdict="quiet", rule=rule, estimates=found)


def share_right(name: str, pairs: ScoredPairs, key: Key) -> Estimate:
    """Accuracy on untied pairs under ``name``."""
    return statistic_estimate(sums_of(pairs, np.ones(len(pairs.delta), dtype=bool)), ratio, name, "share", key / name)


def sums_of(pairs: ScoredPairs, kept: NDArray[np.bool_]) -> Array:
    """[prompts, 2] weighted wins and weights of each prompt; all prompts, so that several sums can stand side by side."""
    prompt, names = pd.factorize(pairs.prompt, sort=True)
    weight = np.where(kept & ~pairs.tied, pairs.share, 0.0)
    wins = np.bincount(prompt, weights=weight * np.nan_to_num(pairs.correct), minlength=len(names))
    rows = np.stack([wins, np.bincount(prompt, weights=weight, minlength=len(names))], axis=1).astype(float)
    return rows[rows[:, 1] > 0] if kept.all() else rows


def _ratios(totals: Array) -> Array:
    """[..., 2 D] -> [..., D]"""
    return ratio(totals.reshape(*totals.shape[:-1], -1, 2))


QUESTION = Question(
    name="accuracy",
    title="Accuracy",
    ask="Does it order replies as annotators do, in every domain?",
    lede="Share of pairs in which the better rated reply has the higher score; every item counts the same, equal scores as half. A gap is "
    "the accuracy in a domain minus that in all others; a slope is that of the labels on the score in a domain, over that of all others, "
    "minus a half.",
    answer=answer,
)
