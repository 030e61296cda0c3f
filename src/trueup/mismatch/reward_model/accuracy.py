"""How often the better rated reply gets the higher score: over all, by domain, in the worst domain, best of several, against style.

Every item counts the same however many replies it has; equal scores count as half; equally rated replies do not count. Intervals
resample prompts. Layouts: RewardBench 2 (Malik et al. 2025, arXiv:2506.01937) for best of several; RM-Bench (Liu et al. 2024,
arXiv:2410.16184) for style: normal compares equal styles, hard a plainer right reply with a more polished wrong one, easy the other way.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from trueup.core.rng import Key
from trueup.mismatch.reward_model.scores import ScoredPairs
from trueup.stats.bootstrap import Array, ratio, statistic_estimate
from trueup.stats.estimate import Estimate

POLISH = {"concise": 0, "detailed": 1, "markdown": 2}
"""Styles from plain to polished."""


def accuracy(pairs: ScoredPairs, key: Key) -> list[Estimate]:
    """``accuracy``; with several domains also ``accuracy DOMAIN`` of each, ``domain_mean`` and ``worst_domain``.

    The worst domain's interval is that of the minimum, whichever domain it is in a resample; it is biased down where domains are small.
    """
    found = [_share("accuracy", pairs, key)]
    domains = sorted(set(pairs.domain.tolist()) - {""})
    if len(domains) > 1:
        found += [_share(f"accuracy {name}", pairs.take(pairs.domain == name), key) for name in domains]
        rows = np.concatenate([_sums(pairs, pairs.domain == name) for name in domains], axis=1)
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


def against_style(pairs: ScoredPairs, key: Key) -> list[Estimate]:
    """``style_easy``, ``style_normal`` and ``style_hard`` accuracy, and ``style_gap``, easy minus hard; empty where styles are unknown."""
    known = np.isin(pairs.first_style, list(POLISH)) & np.isin(pairs.second_style, list(POLISH)) & ~pairs.tied
    if not known.any():
        return []
    styled = pairs.take(known)
    first, second = (np.array([POLISH[s] for s in side]) for side in (styled.first_style, styled.second_style))
    kinds = {"style_easy": first > second, "style_normal": first == second, "style_hard": first < second}
    found = [_share(name, styled.take(kept), key) for name, kept in kinds.items() if kept.any()]
    if kinds["style_easy"].any() and kinds["style_hard"].any():
        rows = np.concatenate([_sums(styled, kinds["style_easy"]), _sums(styled, kinds["style_hard"])], axis=1)
        gap = statistic_estimate(rows, lambda t: ratio(t[..., :2]) - ratio(t[..., 2:]), "style_gap", "share", key / "style_gap")
        found.append(gap)
    return found


def accuracy_difference(first: ScoredPairs, second: ScoredPairs, name: str, key: Key) -> Estimate:
    """Accuracy of one model minus another's on the same pairs, with a paired interval."""
    everything = np.ones(len(first.delta), dtype=bool)
    rows = np.concatenate([_sums(first, everything), _sums(second, everything)], axis=1)
    return statistic_estimate(rows, lambda t: ratio(t[..., :2]) - ratio(t[..., 2:]), name, "share", key / name)


def _share(name: str, pairs: ScoredPairs, key: Key) -> Estimate:
    return statistic_estimate(_sums(pairs, np.ones(len(pairs.delta), dtype=bool)), ratio, name, "share", key / name)


def _sums(pairs: ScoredPairs, kept: NDArray[np.bool_]) -> Array:
    """[prompts, 2] weighted wins and weights of each prompt; all prompts, so that several sums can stand side by side."""
    prompt, names = pd.factorize(pairs.prompt, sort=True)
    weight = np.where(kept & ~pairs.tied, pairs.share, 0.0)
    wins = np.bincount(prompt, weights=weight * np.nan_to_num(pairs.correct), minlength=len(names))
    rows = np.stack([wins, np.bincount(prompt, weights=weight, minlength=len(names))], axis=1).astype(float)
    return rows[rows[:, 1] > 0] if kept.all() else rows


def _ratios(totals: Array) -> Array:
    """[..., 2 D] -> [..., D]"""
    return ratio(totals.reshape(*totals.shape[:-1], -1, 2))
