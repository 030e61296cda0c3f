"""Coverage: does the policy still write what the reward model was shown?

1. Distance. A reply is covered where its nearest neighbour among the preference set's replies is as near as 95 % of that set's own
   replies have theirs at other prompts. Nearness is the cosine of hashed words and pairs of words, weighted by rarity (TF-IDF) in
   the preference set and the first checkpoint.
2. Density. Of n replies of the reference, 1 / E_policy[policy / reference] n speak for the policy (Kish's effective size of the
   importance weights; 1 where they are one). It is the mean over prompts of each one's own; as the largest ratios are the least likely
   to be sampled, it is rather an upper bound (1 at most), and means what it says for replies sampled at temperature 1.

A policy that learns leaves the data; that alone hurts nobody. It alarms where the policy has also become worse.

Deviations:
1. At most `max_texts` replies of the preference set, and of each checkpoint, drawn at random, are compared; every prompt keeps
   its place. The interval takes the set, and the radius read off it, as given.

Series, one entry a checkpoint: ``step``; ``covered`` (share) and ``similarity`` (mean cosine to the nearest neighbour), with ``_low`` and
``_high``; ``effective_share`` with ``_low`` and ``_high``, None without log-probabilities; ``kl_nats``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field
from scipy import special
from scipy.sparse import vstack

from trueup.core.config import Config
from trueup.core.record import OFFLINE_ARM
from trueup.core.rng import Key
from trueup.mismatch.diagnosis import Diagnosis, not_enough, shown
from trueup.mismatch.harm import harm_of
from trueup.mismatch.panel import METHOD, Panel, absent_columns, curve_columns, panel_of, plain
from trueup.stats.bootstrap import DRAWS, Array, make_estimate

NAME = "coverage"
QUESTION = "Does the policy still write what the reward model was shown?"
READS_TEXTS = True
HASHED = 2**16
"""Places that words and pairs of words are hashed to."""
ROUNDING = 1e-9
"""Equal texts have a cosine of 1 up to this."""


class Coverage(Config):
    """Thresholds of the coverage diagnosis."""

    radius_quantile: float = Field(default=0.95, gt=0.5, lt=1)
    """Share of the preference set's replies that are covered by its other prompts' ones."""
    max_lost: float = Field(default=0.2, ge=0, le=1)
    """Share of the replies that may lose their cover between the first and the last checkpoint."""
    min_texts: int = Field(default=20, ge=4)
    """Fewer replies of the preference set are not enough data."""
    min_prompts: int = Field(default=10, ge=4)
    """Fewer prompts are not enough data."""
    max_texts: int = Field(default=2000, ge=100)
    """Replies of the preference set, and of each checkpoint, that are compared at most."""
    draws: int = Field(default=DRAWS, ge=100)
    """Bootstrap resamples."""


def diagnose(records: pd.DataFrame, arm: str, settings: Coverage, key: Key) -> Diagnosis:
    """Nearness to the preference set and effective size along checkpoints; alarm where cover is lost and the policy became worse.

    Args:
        records: flat frame of sample records, offline rows included.
        arm: name of the arm.
        settings: thresholds.
        key: random stream of the subsample and the bootstrap.
    """
    panel = panel_of(records, arm)
    if panel is None:
        return not_enough("reward_policy", NAME, QUESTION, arm, "the arm has no test rows")
    offline = records[(records["arm"] == OFFLINE_ARM) & records["response"].notna()].sort_values("sample_id", kind="stable")
    if len(offline) < settings.min_texts or len(panel.prompts) < settings.min_prompts or offline["prompt_id"].nunique() < 2:
        why = f"the preference set has {len(offline)} replies and the arm {len(panel.prompts)} prompts"
        needed = f"{settings.min_texts} (at two prompts or more) and {settings.min_prompts} are needed"
        return not_enough("reward_policy", NAME, QUESTION, arm, f"{why}; {needed}")
    offline = offline.iloc[np.sort(_some(len(offline), settings.max_texts, key / "offline"))]
    similarity, radius = _similarity(panel, offline, settings, key / "texts")
    weights = panel.weights(key / "prompts", settings.draws)
    columns = {"covered": np.where(np.isnan(similarity), np.nan, similarity >= radius), "similarity": similarity}
    cells = {name: panel.cells(values.astype(float)) for name, values in columns.items()}
    effective = _effective(panel)
    n, count = len(panel.prompts), len(panel.steps)
    series: dict[str, list[Any]] = {"step": panel.steps.tolist()}
    for name, found in cells.items():
        series |= curve_columns(name, found.mean(), found.resampled(weights), n)
    shares = panel.cells(effective) if effective is not None else None
    series |= curve_columns("effective_share", shares.mean(), shares.resampled(weights), n) if shares else {}
    series |= {} if shares else absent_columns("effective_share", count)
    kl = panel.column_cells("kl_nats")
    series["kl_nats"] = plain(kl.mean()) if kl else [None] * count
    share, drawn = cells["covered"].mean(), cells["covered"].resampled(weights)
    estimates = [
        make_estimate("covered_first", float(share[0]), drawn[:, 0], n, "share", method=METHOD),
        make_estimate("covered_last", float(share[-1]), drawn[:, -1], n, "share", method=METHOD),
        make_estimate("covered_lost", float(share[0] - share[-1]), drawn[:, 0] - drawn[:, -1], n, "share", method=METHOD),
    ]
    if shares is not None:
        value, draws = shares.mean()[-1], shares.resampled(weights)[:, -1]
        estimates.append(make_estimate("effective_share_last", float(value), draws, n, "share of the reference's replies", method=METHOD))
    lost, harm = estimates[2], harm_of(panel, key, draws=settings.draws)
    left = lost.low is not None and lost.low > settings.max_lost
    density = f" Of the reference's replies {shown(estimates[3])} speak for the last checkpoint." if shares is not None else ""
    rule = (
        f"Alarm when the share of replies with a neighbour in the preference set (cosine {radius:.2f} or more, as "
        f"{settings.radius_quantile:.0%} of the set's own have) fell by more than {settings.max_lost:g} and harm is shown: {shown(lost)}, "
        f"from {shown(estimates[0])}. At most {settings.max_texts} replies of the set and of each checkpoint were "
        f"compared.{density} {harm.said()}"
    )
    return Diagnosis(
        link="reward_policy",
        name=NAME,
        question=QUESTION,
        arm=arm,
        verdict="alarm" if left and harm.shown else "quiet",
        rule=rule,
        estimates=tuple(estimates),
        series=series,
        samples=_furthest(panel, similarity),
    )


def _similarity(panel: Panel, offline: pd.DataFrame, settings: Coverage, key: Key) -> tuple[Array, float]:
    """[N] Cosine of each drawn reply to its nearest one of the preference set, NaN for others; and the least cosine that covers."""
    from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer

    drawn = [_drawn(panel, s, settings.max_texts, key / s) for s in range(len(panel.steps))]
    rows = np.concatenate(drawn)
    # policies repeat themselves: every text is looked up once
    code, texts = pd.factorize(panel.rows["response"].to_numpy()[rows].astype(str))
    words = HashingVectorizer(n_features=HASHED, ngram_range=(1, 2), alternate_sign=False, norm=None, token_pattern=r"\S+")
    own, written = words.transform(offline["response"].astype(str)), words.transform(texts)
    rarity = TfidfTransformer(sublinear_tf=True)
    rarity.fit(vstack([own, written[code[: len(drawn[0])]]]))
    set_ = rarity.transform(own)
    among = np.asarray((set_ @ set_.T).todense())
    prompt = pd.factorize(offline["prompt_id"])[0]
    among[prompt[:, None] == prompt[None, :]] = -np.inf
    radius = float(np.quantile(among.max(axis=1), 1 - settings.radius_quantile)) - ROUNDING
    found = np.full(len(panel.rows), np.nan)
    found[rows] = (rarity.transform(written) @ set_.T).max(axis=1).toarray()[:, 0][code]
    return found, radius


def _drawn(panel: Panel, step: int, most: int, key: Key) -> NDArray[np.int64]:
    """Rows of a checkpoint, at most so many, prompts in turn."""
    rows = np.flatnonzero(panel.step == step)
    if len(rows) <= most:
        return rows
    order = rows[key.permutation(len(rows))]
    turn = pd.Series(panel.prompt[order]).groupby(panel.prompt[order]).cumcount().to_numpy()
    return np.sort(order[np.argsort(turn, kind="stable")[:most]])


def _some(count: int, most: int, key: Key) -> NDArray[np.int64]:
    return np.arange(count) if count <= most else key.permutation(count)[:most]


def _effective(panel: Panel) -> Array | None:
    """[N] Effective share of the reference's replies, at the first reply of each prompt and checkpoint; None without log-probabilities."""
    policy, reference = panel.column("logp_policy_nats"), panel.column("logp_ref_nats")
    if policy is None or reference is None:
        return None
    gap = policy - reference
    known = np.flatnonzero(np.isfinite(gap))
    if not len(known):
        return None
    found = np.full(len(gap), np.nan)
    code = panel.step[known] * len(panel.prompts) + panel.prompt[known]
    starts = np.flatnonzero(np.r_[True, code[1:] != code[:-1]])
    for rows in np.split(known, starts[1:]):
        found[rows[0]] = np.exp(min(np.log(len(rows)) - special.logsumexp(gap[rows]), 0.0))
    return found


def _furthest(panel: Panel, similarity: Array, count: int = 5) -> tuple[str, ...]:
    """Replies of the last checkpoint that are least like the preference set."""
    here = np.flatnonzero((panel.step == len(panel.steps) - 1) & np.isfinite(similarity))
    ids = panel.rows["sample_id"].to_numpy()
    return tuple(str(ids[i]) for i in here[np.argsort(similarity[here], kind="stable")[:count]])
