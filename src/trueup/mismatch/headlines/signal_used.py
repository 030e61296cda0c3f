"""Reward model <-> evaluation in one number: how much of what orders two replies to one prompt the proxy knows.

(accuracy - 1/2) / (ceiling - 1/2), on replies that no optimisation has chosen: by gold and by evaluations on the pairs of the first
checkpoint, by labels on the held-out pairs of the preference set. The ceiling is 1 against gold and evaluations; against labels it is the
most that the votes of several annotators on the same pairs allow, so that the share is not overstated, and 1 where no pair has several.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from trueup.core.rng import Key
from trueup.mismatch.diagnosis import Link, shown
from trueup.mismatch.headlines.number import NAMES, Basis, Headline, HeadlineSettings, absent, bounded, quotient
from trueup.mismatch.pairs import Pairs, correct, offline_pairs, policy_pairs, scorer_of
from trueup.mismatch.panel import METHOD, Panel, panel_of
from trueup.mismatch.policy_evaluation.tracking import Tracking
from trueup.mismatch.reward_model.ceiling import ceiling
from trueup.stats.bootstrap import Array, cluster_weights, make_estimate
from trueup.stats.estimate import Estimate

LINK: Link = "reward_evaluation"
MIN_REPEATED = 30
"""Pairs with two votes or more, below which no ceiling is estimated."""


def signal_used(records: pd.DataFrame, panel: Panel, settings: HeadlineSettings, sides: Tracking, key: Key) -> Headline:
    """The number of one arm.

    Args:
        records: flat frame of sample records.
        panel: the arm's test rows, with ``proxy_fixed``.
        settings: basis and thresholds.
        sides: which side of an evaluation is better.
        key: random stream.
    """
    start = panel_of(records[records["step"] == panel.steps[0]], panel.arm)
    assert start is not None
    missing = []
    bases: tuple[Basis, ...] = ("gold", "labels", "evaluations")
    for basis in bases if settings.basis == "auto" else (b for b in bases if b == settings.basis):
        found = _by_labels(records, panel, settings, key) if basis == "labels" else _by_truth(start, basis, settings, sides, key)
        if isinstance(found, Headline):
            return found
        missing.append(found)
    return absent(LINK, panel.arm, "; ".join(missing))


def _by_truth(start: Panel, basis: Basis, settings: HeadlineSettings, sides: Tracking, key: Key) -> Headline | str:
    """Pairs of the first checkpoint's replies, ordered by gold or by the mean of the evaluations."""
    names = [n for n in start.evaluations() if sides.side(n)] if basis == "evaluations" else []
    truth = start.column("gold") if basis == "gold" else _composite(start, names, sides)
    pairs, proxy = policy_pairs(start), start.column("proxy_fixed")
    if truth is None or pairs is None or proxy is None:
        known = "no gold" if basis == "gold" else "no evaluation whose better side is known"
        return known if truth is None else "no prompt has two replies at the first checkpoint"
    side = np.sign(pairs.difference(truth))
    hits = correct(pairs.difference(proxy), np.where(side == 0, np.nan, (side + 1) / 2))
    known_hits, prompt = np.isfinite(hits), start.prompt[pairs.first]
    counts = np.bincount(prompt[known_hits], minlength=len(start.prompts)).astype(float)
    n = int((counts > 0).sum())
    if n < settings.min_prompts:
        return f"{basis} tells replies apart on {n} prompts of the first checkpoint, {settings.min_prompts} are needed"
    sums = np.bincount(prompt[known_hits], hits[known_hits], len(start.prompts))
    weights = start.weights(key / "prompts", settings.draws)
    value, draws = float(sums.sum() / counts.sum()), quotient(weights @ sums, weights @ counts)
    part = make_estimate("accuracy", value, draws, n, "share", method=METHOD)
    why = f"Before optimisation the proxy orders {shown(part)} of the pairs as {basis} does; one half is chance."
    return Headline(
        link=LINK,
        arm=start.arm,
        basis=basis,
        estimate=bounded(LINK, 2 * value - 1, 2 * draws - 1, n),
        parts=(part,),
        over=tuple(names),
        why=why,
    )


def _composite(panel: Panel, names: Sequence[str], sides: Tracking) -> Array | None:
    """[N] Mean of a reply's evaluations, each with its better side up and in its standard deviations; NaN where it has none."""
    columns = []
    for name in names:
        values = panel.column(f"evaluations.{name}")
        spread = 0.0 if values is None else float(np.nanstd(values))
        if values is not None and spread > 0:
            columns.append(sides.side(name) * values / spread)
    if not columns:
        return None
    known = np.isfinite(columns)
    return quotient(np.where(known, columns, 0.0).sum(axis=0), known.sum(axis=0))


def _by_labels(records: pd.DataFrame, panel: Panel, settings: HeadlineSettings, key: Key) -> Headline | str:
    """Held-out pairs of the preference set against single votes, and the ceiling that repeated votes allow."""
    offline = offline_pairs(records)
    scorer = None if offline is None else scorer_of(panel, "proxy_fixed", 0, offline)
    scores = None if offline is None or scorer is None else offline.column(scorer.column)
    if offline is None or scores is None:
        return "no held-out pairs of the preference set that the proxy scored"
    repeated = _repeated(offline, scores, settings, key)
    if repeated is not None:
        estimate, parts = repeated
        why = f"Accuracy {shown(parts[0])} against single votes, of at most {shown(parts[1])}."
        return Headline(link=LINK, arm=panel.arm, basis="labels", estimate=estimate, parts=parts, why=why)
    sign = np.sign(offline.difference(scores))
    hits = (1 + sign * (2 * offline.preference - 1)) / 2
    known = np.isfinite(hits)
    codes, prompts = pd.factorize(offline.prompts()[known])
    if len(prompts) < settings.min_prompts:
        return f"labelled pairs of {len(prompts)} prompts, {settings.min_prompts} are needed"
    weights = cluster_weights(len(prompts), settings.draws, key / "prompts")
    sums, counts = np.bincount(codes, hits[known]), np.bincount(codes).astype(float)
    value, draws = float(hits[known].mean()), quotient(weights @ sums, weights @ counts)
    part = make_estimate("accuracy", value, draws, len(prompts), "share", method=METHOD)
    why = (
        f"Accuracy {shown(part)} against single votes; how much of that is noise cannot be told from one vote a pair, so 1 is the ceiling."
    )
    estimate = bounded(LINK, 2 * value - 1, 2 * draws - 1, len(prompts))
    return Headline(link=LINK, arm=panel.arm, basis="labels, no ceiling", estimate=estimate, parts=(part,), why=why)


def _repeated(offline: Pairs, scores: Array, settings: HeadlineSettings, key: Key) -> tuple[Estimate, tuple[Estimate, ...]] | None:
    """The share with its accuracy and ceiling; None where too few pairs have two votes."""
    votes = _votes(offline)
    several = votes.groupby("item")["annotator"].nunique()
    if int((several >= 2).sum()) < MIN_REPEATED:
        return None
    item, ends = np.arange(len(offline)), (offline.first, offline.second)
    table = pd.concat(
        [pd.DataFrame({"item": item, "reply": i, "score": scores[end], "prompt_id": offline.prompts()}) for i, end in enumerate(ends)],
        ignore_index=True,
    )
    found = {e.name: e for e in ceiling(table, votes, key / "ceiling")}
    share = found["attainable_share_low"]
    if share.value is None or share.n < settings.min_prompts:
        return None

    def cut(v: float | None) -> float | None:
        return None if v is None else min(max(v, 0.0), 1.0)

    bounds = {end: cut(getattr(share, end)) for end in ("value", "low", "high")}
    return replace(share, name=NAMES[LINK], unit="share", **bounds), (found["accuracy_one_label"], found["ceiling_high"])  # type: ignore[arg-type]


def _votes(pairs: Pairs) -> pd.DataFrame:
    """One row an annotator and pair: item, annotator, vote (1 for the first reply, -1 for the second, 0 for a tie)."""
    ids = pairs.rows["sample_id"].tolist()
    place = {(ids[a], ids[b]): (i, 1.0) for i, (a, b) in enumerate(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True))}
    place |= {(b, a): (i, -1.0) for (a, b), (i, _) in place.items()}
    said: dict[tuple[int, str], float] = {}
    column = pairs.rows["labels"] if "labels" in pairs.rows else [()] * len(ids)
    for this, labels in zip(ids, column, strict=True):
        for label in _labels(labels):
            found = place.get((this, label["other_sample_id"]))
            if found is not None:
                said[found[0], str(label["annotator"])] = found[1] * (2 * float(label["preference"]) - 1)
    return pd.DataFrame([(i, a, np.sign(v)) for (i, a), v in said.items()], columns=["item", "annotator", "vote"])


def _labels(value: object) -> Iterable[Mapping[str, Any]]:
    return [] if value is None or isinstance(value, float) else list(value)  # type: ignore[call-overload]
