"""Predicted regret: what would optimising the proxy gain of gold, judged from the first checkpoint's replies alone?

A policy at the optimum of E[proxy] - beta KL is the reference tilted by exp(proxy / beta). On the first checkpoint's K replies a prompt
that is a weighted mean (`trueup.stats.tilting`), so that gold on the same replies predicts, before any training, what each strength of the
penalty gains; regret is what tilting by gold itself would have gained more. Where comparisons of the first checkpoint's replies are
all there is, the gain is predicted as a win rate (`trueup.mismatch.reward_model.predicted_gain`).

The prediction is then held against what training did at the same KL. A policy is less thrifty with KL than the tilt, so it usually
gains less; the difference is shown and alarms never.

Deviations:
1. beta is in standard deviations of the proxy on the first checkpoint's replies a nat. Predictions of gold have their bias of order
   1/K removed (Chaudhari et al. 2024, section 6.2, keep it); with few effective replies they rest on little.

Series, one entry a checkpoint: ``step``; ``kl_nats``; ``beta`` whose tilt has that KL; ``predicted`` and ``realised`` gain of gold, with
``_low`` and ``_high``; ``effective_replies`` of that tilt. None where K replies cannot show so much KL, and at the first checkpoint.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from pydantic import Field

from trueup.core.config import Config
from trueup.core.rng import Key
from trueup.mismatch.diagnosis import Diagnosis, not_enough, shown
from trueup.mismatch.grids import grid, replies
from trueup.mismatch.harm import ROUNDING
from trueup.mismatch.pairs import policy_pairs
from trueup.mismatch.panel import METHOD, Panel, absent_columns, curve_columns, panel_of
from trueup.mismatch.reward_model.predicted_gain import MIN_COMPARISONS, pooled_gains
from trueup.mismatch.reward_model.regret import BETAS
from trueup.stats.bootstrap import DRAWS, LEVEL, Array, cluster_weights, make_estimate
from trueup.stats.estimate import Estimate
from trueup.stats.tilting import beta_for_kl, effective_size, kl_nats, standardised, tilt, unbiased_mean

NAME = "predicted_regret"
QUESTION = "Would optimising the proxy gain gold, judged from the first checkpoint's replies alone?"


class PredictedRegret(Config):
    """Thresholds of the predicted-regret diagnosis."""

    betas: tuple[float, ...] = BETAS
    """Strengths of the KL penalty that are looked at, deviations of the proxy a nat."""
    min_replies: int = Field(default=4, ge=2)
    """Prompts with fewer replies at the first checkpoint are left out."""
    min_prompts: int = Field(default=10, ge=4)
    """Fewer prompts are not enough data."""
    min_effective: float = Field(default=1.5, ge=1)
    """Tilts that rest on fewer replies of a prompt, in the mean, raise no alarm."""
    draws: int = Field(default=DRAWS, ge=100)
    """Bootstrap resamples."""


def diagnose(records: pd.DataFrame, arm: str, settings: PredictedRegret, key: Key) -> Diagnosis:
    """Predicted gain over beta, and against the realised one at equal KL; alarm where a tilt is shown to lose gold.

    Args:
        records: flat frame of sample records.
        arm: name of the arm.
        settings: thresholds.
        key: random stream.
    """
    panel = panel_of(records, arm)
    proxy = panel.column("proxy_fixed") if panel else None
    if panel is None or proxy is None:
        missing = "the arm has no test rows" if panel is None else "proxy_fixed was not recorded"
        return not_enough("reward_policy", NAME, QUESTION, arm, missing)
    gold = panel.column("gold")
    if gold is None:
        return _by_labels(panel, proxy, arm, settings, key)
    score, value = grid(panel, 0, (proxy, gold))
    kept = replies(score) >= settings.min_replies
    if kept.sum() < settings.min_prompts or not np.nanmax(score[kept]) > np.nanmin(score[kept]):
        why = f"{kept.sum()} prompts have {settings.min_replies} replies with gold and proxy at the first checkpoint"
        return not_enough("reward_policy", NAME, QUESTION, arm, f"{why}; {settings.min_prompts}, and scores that differ, are needed")
    score, value = standardised(score[kept]), value[kept]
    weights = cluster_weights(len(score), settings.draws, key / "prompts")
    level = 1 - (1 - LEVEL) / len(settings.betas)
    estimates, losing = [], []
    for beta in settings.betas:
        found = _swept(score, value, beta, weights, level)
        estimates += found
        if (
            found[0].high is not None
            and found[0].high < -ROUNDING * np.nanmax(np.abs(value))
            and (found[3].value or 0) >= settings.min_effective
        ):
            losing.append(beta)
    series, against = _realised(panel, score, value, np.flatnonzero(kept), weights)
    told = "; ".join(f"{beta:g}: {shown(e)}" for beta, e in zip(settings.betas, estimates[::4], strict=True))
    rule = (
        f"Alarm when the gold gained by tilting the first checkpoint's replies is shown to be below 0 at some beta, where at least "
        f"{settings.min_effective:g} replies of a prompt carry weight; intervals at {level:.1%}, for all betas together. By beta: {told}. "
        f"Realised less predicted at the last checkpoint within reach of the replies: {shown(against) if against else 'none is'}."
    )
    return Diagnosis(
        link="reward_policy",
        name=NAME,
        question=QUESTION,
        arm=arm,
        verdict="alarm" if losing else "quiet",
        rule=rule,
        estimates=(*estimates, *([against] if against else [])),
        series=series,
    )


def _swept(score: Array, value: Array, beta: float, weights: Array, level: float) -> list[Estimate]:
    """Gain, regret, KL and effective replies at one beta."""
    gain, best = unbiased_mean(score, value, beta), unbiased_mean(standardised(value), value, beta)
    rows = {
        "gain": (gain - np.nanmean(value, axis=1), "score"),
        "regret": (best - gain, "score"),
        "kl": (kl_nats(score, beta), "nats"),
        "effective": (effective_size(tilt(score, beta)), "replies"),
    }
    return [
        make_estimate(
            f"{name}_beta_{beta:g}",
            float(v.mean()),
            weights @ v / len(v),
            len(v),
            unit,
            method=METHOD,
            level=level if name == "gain" else LEVEL,
        )
        for name, (v, unit) in rows.items()
    ]


def _realised(
    panel: Panel, score: Array, value: Array, kept: np.ndarray[Any, Any], weights: Array
) -> tuple[dict[str, list[Any]], Estimate | None]:
    """Predicted and realised gain at each checkpoint's KL, on the same prompts; and their difference at the last one within reach."""
    kl, gold = panel.column_cells("kl_nats"), panel.column_cells("gold")
    count, n = len(panel.steps), len(score)
    columns: dict[str, list[Any]] = {
        "step": panel.steps.tolist(),
        **absent_columns("predicted", count),
        **absent_columns("realised", count),
    }
    columns |= {"kl_nats": [None] * count, "beta": [None] * count, "effective_replies": [None] * count}
    if kl is None or gold is None:
        return columns, None
    base, against = np.nanmean(value, axis=1), None
    nats = kl.mean(kept)
    sums, counts = gold.sums[kept], gold.counts[kept]
    level = np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0)
    columns["kl_nats"] = [float(v) if np.isfinite(v) else None for v in nats]
    for s in range(1, count):
        beta = beta_for_kl(score, float(nats[s])) if nats[s] > 0 else None
        sides = {"realised": level[:, s] - base}
        if beta is not None:
            sides["predicted"] = unbiased_mean(score, value, beta) - base
            columns["beta"][s] = beta
            columns["effective_replies"][s] = float(effective_size(tilt(score, beta)).mean())
        for name, v in sides.items():
            found = curve_columns(name, np.array([v.mean()]), (weights @ v / n)[:, None], n)
            for column, entry in found.items():
                columns[column][s] = entry[0]
        if "predicted" in sides and np.isfinite(sides["realised"]).all():
            gap = sides["realised"] - sides["predicted"]
            against = make_estimate("realised_less_predicted", float(gap.mean()), weights @ gap / n, n, "score", method=METHOD)
    return columns, against


def _by_labels(panel: Panel, proxy: Array, arm: str, settings: PredictedRegret, key: Key) -> Diagnosis:
    """The prediction from comparisons of the first checkpoint's replies."""
    samples, comparisons = _tables(panel, proxy)
    level = 1 - (1 - LEVEL) / len(settings.betas)
    gains = []
    for beta in settings.betas if len(comparisons) >= MIN_COMPARISONS else ():
        found = pooled_gains(samples, comparisons, beta, key / "gain", level).get("proxy_fixed")
        if found is not None:
            e = found[0]
            gains.append(
                Estimate(
                    name=f"win_gain_beta_{beta:g}", value=e.value, low=e.low, high=e.high, n=e.n, unit=e.unit, level=level, method=e.method
                )
            )
    if not gains or gains[0].n < settings.min_prompts:
        why = f"gold, or at least {MIN_COMPARISONS} labels that compare replies of the first checkpoint at {settings.min_prompts} prompts"
        return not_enough("reward_policy", NAME, QUESTION, arm, f"{why}, are needed; there are {len(comparisons)}")
    told = "; ".join(f"{b:g}: {shown(e)}" for b, e in zip(settings.betas, gains, strict=True))
    rule = (
        f"Alarm when the tilt of the first checkpoint's replies is predicted to lose against them at some beta, from {len(comparisons)} "
        f"compared pairs; win rate less one half, intervals at {level:.1%}, for all betas together. By beta: {told}."
    )
    lost = any(e.high is not None and e.high < 0 for e in gains)
    return Diagnosis(
        link="reward_policy",
        name=NAME,
        question=QUESTION,
        arm=arm,
        verdict="alarm" if lost else "quiet",
        rule=rule,
        estimates=tuple(gains),
    )


def _tables(panel: Panel, proxy: Array) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The first checkpoint's scored replies and their comparisons, as the examination of reward models reads them."""
    here = np.flatnonzero((panel.step == 0) & np.isfinite(proxy))
    prompt = panel.prompt[here]
    number = np.full(len(proxy), -1)
    number[here] = np.arange(len(here)) - np.searchsorted(prompt, prompt)
    ids = np.asarray(panel.rows["prompt_id"], dtype=object)
    texts = panel.rows["response"].to_numpy()
    samples = pd.DataFrame({"prompt_id": ids[here], "sample": number[here], "score": proxy[here], "reply": texts[here]})
    samples = samples.assign(model="proxy_fixed", policy="reference")
    pairs = policy_pairs(panel) if "labels" in panel.rows else None
    if pairs is None:
        return samples, pd.DataFrame()
    kept = np.isfinite(pairs.preference) & (number[pairs.first] >= 0) & (number[pairs.second] >= 0)
    first, second = pairs.first[kept], pairs.second[kept]
    judged = {"prompt_id": ids[first], "first": number[first], "second": number[second], "outcome": pairs.preference[kept]}
    return samples, pd.DataFrame(judged).assign(policy="reference", probability=np.nan)
