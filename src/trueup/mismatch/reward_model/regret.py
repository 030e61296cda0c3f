"""What optimising the score gains of gold, and what it loses against optimising gold itself, without optimising anything.

On K samples of the reference, with R the score and R* gold, both with deviation 1 over the reference samples (Chaudhari et al. 2024,
section 6.2, with the partition functions kept):

    gain(beta) = sum softmax(R / beta) R* - mean R*
    regret(beta) = sum softmax(R* / beta) R* - sum softmax(R / beta) R*

Without bias these are those of soft best-of-K, which draws one of K samples by these weights. For the optimum of the KL-regularised
objective they have a bias of order 1/K towards 0; ``gain_of_optimum`` and ``regret_of_optimum`` remove that order
(`stats.tilting.unbiased_mean`), and are to be trusted where the effective number of samples is not near 1.
"""

from __future__ import annotations

import numpy as np

from trueup.mismatch.diagnosis import shown
from trueup.mismatch.reward_model.question import Answer, Evidence, Question, unknown
from trueup.mismatch.reward_model.samples import REFERENCE, grid_of
from trueup.stats.bootstrap import Array, mean_estimate
from trueup.stats.estimate import Estimate
from trueup.stats.tilting import effective_size, kl_nats, standardised, tilt, tilted_mean, unbiased_mean

BETAS = (2.0, 1.0, 0.5, 0.25, 0.1)
"""Strengths of the KL penalty, deviations of the score a nat."""


def answer(evidence: Evidence) -> Answer:
    """Alarm where some tilt is shown to lose gold."""
    settings = evidence.settings
    grid = grid_of(evidence.samples, REFERENCE)
    if min(grid.shape) == 0 or "gold" not in grid.rows or not grid.rows["gold"].notna().any():
        return unknown("no gold of samples of the reference is known")
    score, gold = _known(grid.column("score"), grid.column("gold"))
    if len(score) < settings.min_prompts:
        return unknown(f"{len(score)} prompts have two samples with gold or more, {settings.min_prompts} are needed")
    score, gold = standardised(score), standardised(gold)
    level = 1 - 2 * (1 - settings.alarm_level) / len(BETAS)
    swept = {beta: _gain(score, gold, beta, evidence, level) for beta in BETAS}
    costs = [beta for beta, gain in swept.items() if gain.high is not None and gain.high < 0]
    gain = _gain(score, gold, settings.tilt_beta, evidence, level)
    found = (gain, *_others(score, gold, settings.tilt_beta, evidence))
    told = f"At beta {settings.tilt_beta:g} it gains {shown(gain)} deviations of gold, {shown(found[1])} less than gold itself would."
    series = _series(score, gold, swept)
    if costs:
        lost = "; ".join(f"at beta {beta:g}: {shown(swept[beta])}" for beta in costs)
        return Answer(verdict="alarm", rule=f"Optimising it costs gold: {lost}. {told}", estimates=found, series=series)
    clear = gain.low is not None and gain.low > 0
    return Answer(verdict="quiet" if clear else "no difference shown", rule=told, estimates=found, series=series)


def _known(score: Array, gold: Array) -> tuple[Array, Array]:
    """Replies with both, of prompts with two of them or more."""
    both = np.isfinite(score) & np.isfinite(gold)
    kept = both.sum(axis=1) > 1
    return np.where(both, score, np.nan)[kept], np.where(both, gold, np.nan)[kept]


def _gain(score: Array, gold: Array, beta: float, evidence: Evidence, level: float) -> Estimate:
    values = tilted_mean(score, gold, beta) - np.nanmean(gold, axis=1)
    return mean_estimate(values, np.arange(len(values)), "gain", "gold sd", evidence.key / "gain", level=level)


def _others(score: Array, gold: Array, beta: float, evidence: Evidence) -> list[Estimate]:
    """Regret, and gain and regret of the optimum."""
    base = np.nanmean(gold, axis=1)
    best, optimum = unbiased_mean(gold, gold, beta), unbiased_mean(score, gold, beta)
    values = {
        "regret": tilted_mean(gold, gold, beta) - tilted_mean(score, gold, beta),
        "gain_of_optimum": optimum - base,
        "regret_of_optimum": best - optimum,
    }
    units = np.arange(len(base))
    found = [mean_estimate(v, units, name, "gold sd", evidence.key / name) for name, v in values.items()]
    samples = effective_size(tilt(score, beta))
    return [*found, mean_estimate(samples, units, "effective_samples", "samples", evidence.key / "effective")]


def _series(score: Array, gold: Array, swept: dict[float, Estimate]) -> dict[str, list[float | None]]:
    oracle = {beta: float((tilted_mean(gold, gold, beta) - np.nanmean(gold, axis=1)).mean()) for beta in BETAS}
    return {
        "beta": list(BETAS),
        "kl_nats": [float(kl_nats(score, beta).mean()) for beta in BETAS],
        "gain": [swept[beta].value for beta in BETAS],
        "gain_low": [swept[beta].low for beta in BETAS],
        "gain_high": [swept[beta].high for beta in BETAS],
        "oracle_gain": [oracle[beta] for beta in BETAS],
        "effective_samples": [float(effective_size(tilt(score, beta)).mean()) for beta in BETAS],
    }


QUESTION = Question(
    name="regret",
    title="Softmax regret",
    ask="Does optimising it gain gold, as far as samples of the reference can say?",
    lede="Mean gold of reference samples weighted by softmax(score / beta), over their plain mean; and how much more weights by gold "
    "itself would give. In deviations of gold on the reference samples, as beta is in deviations of the score.",
    answer=answer,
)
