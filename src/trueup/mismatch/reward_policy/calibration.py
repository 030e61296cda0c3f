"""Calibration: is sigma(score difference) the probability of winning, offline and on the current policy's pairs?

The reward model in force is followed (`proxy_current`, else `proxy_fixed`), on its raw scores where records hold them, since its own
scale is what its training made log-odds. One temperature fitted on its offline held-out pairs takes out a wrong scale; what then is
left on the policy's pairs came with the policy; it alarms unless the policy is known to have become no worse. Samples are paired
disjointly, so that the outcomes are independent as the consistency band assumes.

Series, one entry a checkpoint, on the policy's pairs: ``step``; ``ece`` after the offline temperature; ``ece_band_high``: what ECE would
stay below, were the forecasts right; ``ece_raw``, ``brier``, ``nll_nats``: without the temperature; ``temperature``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from pydantic import Field
from scipy import special

from trueup.core.config import Config
from trueup.core.rng import Key
from trueup.mismatch.diagnosis import Diagnosis, not_enough
from trueup.mismatch.harm import harm_of
from trueup.mismatch.pairs import Pairs, Truth, TruthSetting, common_truth, disjoint, offline_pairs, policy_pairs, scorer_of
from trueup.mismatch.panel import Panel, panel_of
from trueup.stats import calibration as stats
from trueup.stats.bootstrap import DRAWS, Array, mean_estimate
from trueup.stats.estimate import Estimate

NAME = "calibration"
QUESTION = "Is sigma(score difference) the probability of winning, on the current policy's pairs as on the offline ones?"


class Calibration(Config):
    """Thresholds of the calibration diagnosis."""

    truth: TruthSetting = "auto"
    """What says which reply is better: ``labels``, ``gold``, or ``auto``: labels where both kinds of pair have them, else gold."""
    bins: int = Field(default=10, ge=2, le=100)
    """Bins of equal mass for the expected calibration error (two forecasts a pair)."""
    min_pairs: int = Field(default=50, ge=10)
    """Fewer pairs of either kind with a known truth are not enough data."""
    band_level: float = Field(default=0.975, gt=0.5, lt=1)
    """Quantile of the consistency band that an error must exceed."""
    min_rise: float = Field(default=0.02, ge=0, lt=1)
    """An error on the policy's pairs that is not this much above the offline one raises no alarm."""
    band_draws: int = Field(default=500, ge=100)
    """Simulations of the consistency band."""
    draws: int = Field(default=DRAWS, ge=100)
    """Bootstrap resamples."""


@dataclass(frozen=True, kw_only=True)
class _Forecast:
    """Judged pairs of one kind with their log-odds."""

    prompt: Any
    delta: Array
    outcome: Array

    def __len__(self) -> int:
        return len(self.delta)


@dataclass(frozen=True, kw_only=True)
class _Measured:
    """Calibration at one checkpoint."""

    ece: float
    ece_band_mean: float
    ece_band_high: float
    ece_offline: float
    ece_raw: float
    ece_raw_offline: float
    brier: float
    nll_nats: float
    temperature: float | None


def diagnose(records: pd.DataFrame, arm: str, settings: Calibration, key: Key) -> Diagnosis:
    """Calibration offline and along checkpoints; alarm when the last one's ECE is off and harm not refuted.

    Args:
        records: flat frame of sample records, offline rows included.
        arm: name of the arm.
        settings: thresholds.
        key: random stream.
    """
    panel, offline = panel_of(records, arm), offline_pairs(records)
    policy = policy_pairs(panel) if panel else None
    if panel is None or offline is None or policy is None:
        why = "pairs of both kinds are needed: held-out offline ones, and two samples a prompt"
        return not_enough("reward_policy", NAME, QUESTION, arm, why)
    truth = common_truth(offline, policy, settings.truth)
    if truth is None:
        return not_enough("reward_policy", NAME, QUESTION, arm, "no labels on both kinds of pair and no gold on both")
    proxy, forecasts = _followed(panel, offline, policy, truth, settings)
    chances = _claimed(panel, offline, proxy, truth, settings)
    last = forecasts[-1]
    if last is None or min(map(len, last)) < settings.min_pairs:
        sizes = [len(f) for f in last] if last else [0, 0]
        why = (
            f"{sizes[0]} offline pairs and {sizes[1]} of the last checkpoint are judged and scored, {settings.min_pairs} of each are needed"
        )
        return not_enough("reward_policy", NAME, QUESTION, arm, why)
    points = [_measure(f, settings, key / "band" / s) if f and min(map(len, f)) else None for s, f in enumerate(forecasts)]
    series: dict[str, list[Any]] = {"step": panel.steps.tolist()}
    for name in ("ece", "ece_band_high", "ece_raw", "brier", "nll_nats", "temperature"):
        series[name] = [None if p is None else getattr(p, name) for p in points]
    now = points[-1]
    assert now is not None
    off, harm = now.ece > now.ece_band_high and now.ece - now.ece_offline >= settings.min_rise, harm_of(panel, key, draws=settings.draws)
    rule = (
        f"Alarm when the expected calibration error on the policy's pairs at the last checkpoint, after the temperature that suits the "
        f"offline pairs, is above the {settings.band_level:.1%} quantile of what calibrated forecasts give, and at least "
        f"{settings.min_rise:g} above the offline error, unless nothing recorded as true has fallen: {now.ece:.3g}, "
        f"band up to {now.ece_band_high:.3g}, offline {now.ece_offline:.3g}. "
        f"Reward model: {proxy}; truth: {truth}; {settings.bins} bins of equal mass; both orders of each pair. {harm.said()}"
    )
    return Diagnosis(
        link="reward_policy",
        name=NAME,
        question=QUESTION,
        arm=arm,
        verdict="alarm" if off and not harm.refuted else "quiet",
        rule=rule,
        estimates=(*_estimates(last, now, settings, key), *chances),
        series=series,
    )


_Forecasts = tuple[_Forecast, _Forecast]


def _followed(panel: Panel, offline: Pairs, policy: Pairs, truth: Truth, settings: Calibration) -> tuple[str, list[_Forecasts | None]]:
    """The proxy to follow and its forecasts at each checkpoint: the model in force where offline rows hold its scores, else the first."""
    if truth == "gold":
        offline, policy = (disjoint(p.take(np.isfinite(p.outcome("gold")))) for p in (offline, policy))

    def along(proxy: str) -> list[_Forecasts | None]:
        return [_forecasts(panel, offline, policy, proxy, s, truth) for s in range(len(panel.steps))]

    current = along("proxy_current")
    last = current[-1]
    if last is not None and min(map(len, last)) >= settings.min_pairs:
        return "proxy_current", current
    return "proxy_fixed", along("proxy_fixed")


def _forecasts(panel: Panel, offline: Pairs, policy: Pairs, proxy: str, step: int, truth: Truth) -> _Forecasts | None:
    """Offline and policy pairs in the log-odds of the reward model behind the proxy at a checkpoint."""
    scorer = scorer_of(panel, proxy, step, offline)
    column = scorer.column if scorer else proxy if proxy == "proxy_fixed" else None
    if column is None:
        return None
    own, now = offline.column(column), panel.column(column)
    if own is None or now is None:
        return None
    here = policy.take(panel.step[policy.first] == step)
    return _judged(offline, own, truth), _judged(here, now, truth)


def _claimed(panel: Panel, offline: Pairs, proxy: str, truth: Truth, settings: Calibration) -> list[Estimate]:
    """The error of the chances that the last reward model claims of the offline pairs after its calibration, where records hold them."""
    scorer = scorer_of(panel, proxy, len(panel.steps) - 1, offline)
    column = f"win_probability.{scorer.column.removeprefix('scores.')}" if scorer is not None and scorer.raw else None
    chance = offline.column(column) if column is not None else None
    if chance is None:
        return []
    odds = special.logit(np.clip(chance[offline.first], 1e-9, 1 - 1e-9))
    outcome = offline.preference if truth == "labels" else offline.outcome("gold")
    kept = np.isfinite(odds) & np.isfinite(outcome)
    if not kept.any():
        return []
    error = stats.reliability(odds[kept], outcome[kept], settings.bins, "mass").ece
    n = len(np.unique(offline.prompts()[kept]))
    return [Estimate(name="ece_claimed_offline", value=error, low=None, high=None, n=n, unit="", method="")]


def _judged(pairs: Pairs, scores: Array, truth: Truth) -> _Forecast:
    # a share of annotators is a legitimate outcome of a forecast, ties included; gold only orders
    outcome = pairs.preference if truth == "labels" else pairs.outcome("gold")
    delta = pairs.difference(scores)
    kept = np.isfinite(outcome) & np.isfinite(delta)
    return _Forecast(prompt=pairs.prompts()[kept], delta=delta[kept], outcome=outcome[kept])


def _measure(forecasts: _Forecasts, settings: Calibration, key: Key) -> _Measured:
    own, now = forecasts
    fitted = stats.fit_temperature(own.delta, own.outcome)
    temperature = fitted if fitted is not None else 1.0
    scaled = now.delta / temperature
    band = stats.ece_under_calibration(scaled, key, bins=settings.bins, edges="mass", draws=settings.band_draws)
    return _Measured(
        ece=stats.reliability(scaled, now.outcome, settings.bins, "mass").ece,
        ece_band_mean=float(band.mean()),
        ece_band_high=float(np.quantile(band, settings.band_level)),
        ece_offline=stats.reliability(own.delta / temperature, own.outcome, settings.bins, "mass").ece,
        ece_raw=stats.reliability(now.delta, now.outcome, settings.bins, "mass").ece,
        ece_raw_offline=stats.reliability(own.delta, own.outcome, settings.bins, "mass").ece,
        brier=float(stats.brier(now.delta, now.outcome).mean()),
        nll_nats=float(stats.nll_nats(now.delta, now.outcome).mean()),
        temperature=fitted,
    )


def _estimates(forecasts: _Forecasts, now: _Measured, settings: Calibration, key: Key) -> list[Estimate]:
    sizes = [len(np.unique(f.prompt)) for f in forecasts]

    def bare(name: str, value: float | None, n: int) -> Estimate:
        return Estimate(name=name, value=value, low=None, high=None, n=n, unit="", method="")

    found = [
        bare("ece_policy", now.ece, sizes[1]),
        Estimate(
            name="ece_if_calibrated",
            value=now.ece_band_mean,
            low=0.0,
            high=now.ece_band_high,
            n=sizes[1],
            unit="",
            level=settings.band_level,
            method="simulated outcomes (one-sided)",
        ),
        bare("ece_offline", now.ece_offline, sizes[0]),
        bare("ece_raw_policy", now.ece_raw, sizes[1]),
        bare("ece_raw_offline", now.ece_raw_offline, sizes[0]),
        bare("temperature", now.temperature, sizes[0]),
    ]
    for name, side in zip(("offline", "policy"), forecasts, strict=True):
        for measure, values, unit in (("brier", stats.brier, ""), ("nll", stats.nll_nats, "nats")):
            rows = values(side.delta, side.outcome)
            found.append(mean_estimate(rows, side.prompt, f"{measure}_{name}", unit, key / measure / name, draws=settings.draws))
    return found
