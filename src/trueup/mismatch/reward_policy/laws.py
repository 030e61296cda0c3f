"""What the curves of proxy and gold over KL say in a few numbers: the laws of Gao et al. (2022), which of them fits, and how far apart
the two curves are.

    aic_bon_minus_rl   above 0 the RL law fits better, below 0 the best-of-n law; said so where its prompt-bootstrap interval
                       excludes 0 and it is at least 2, below which criteria differ for nothing (Burnham and Anderson 2002)
    gamma              degree of over-optimisation (Kim et al. 2025): the integral of |gold - proxy| over that of gold, over KL from 0
                       to the largest, both as fitted best-of-n laws
    area               the integral of proxy less gold over KL, as measured, over that of a proxy which had all its gain from the start

For the last two, gains of both are in deviations of their scores on the first checkpoint's replies; this scale, and for the area
the KL of each checkpoint, are taken as given by the intervals.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trueup.mismatch.diagnosis import shown
from trueup.mismatch.panel import METHOD, Cells, Panel, plain
from trueup.stats import curves
from trueup.stats.bootstrap import Array, make_estimate
from trueup.stats.curves import BEST_OF_N, LOG1P, RL, Law
from trueup.stats.estimate import Estimate

CLEAR = 2.0
"""Least difference of Akaike's criterion."""


@dataclass(frozen=True, kw_only=True)
class _Points:
    """Gains [S] and of the resamples [R, S] at d = sqrt(KL), those that are fitted."""

    d: Array
    d_draws: Array
    gain: Array
    gain_draws: Array
    precision: Array


def laws(
    panel: Panel, gold: Cells, proxy: Cells, weights: Array, min_sqrt_kl: float
) -> tuple[list[Estimate], dict[str, list[float | None]]]:
    """Coefficients and peaks of both laws, their comparison, gamma and area; and the fitted curves for a figure.

    Args:
        panel: the arm's test rows.
        gold: its gold, at all checkpoints.
        proxy: the score that was optimised.
        weights: [R, P] prompt weights of the resamples.
        min_sqrt_kl: checkpoints nearer to the start are left out of the fits, square root of nats.

    Returns:
        estimates, none without KL or with fewer than three checkpoints that far away; columns ``gold_fit_bon`` and ``gold_fit_rl``.
    """
    kl = panel.column_cells("kl_nats")
    columns: dict[str, list[float | None]] = {f"gold_fit_{law.name}": [None] * len(panel.steps) for law in (BEST_OF_N, RL)}
    if kl is None:
        return [], columns
    d, d_draws = np.sqrt(np.maximum(kl.mean(), 0)), np.sqrt(np.maximum(kl.resampled(weights), 0))
    kept = (d >= min_sqrt_kl) & (np.arange(len(d)) > 0)  # the same points for all laws: their AIC must compare
    points, estimates, n = _points(gold, d, d_draws, weights, kept), [], len(panel.prompts)
    chi2: dict[str, tuple[float, Array]] = {}
    for law in (BEST_OF_N, RL, LOG1P):
        found = curves.fit(law, points.d, points.gain, 1 / np.sqrt(points.precision), min_d=0.0)
        if found is None:
            continue
        estimates.append(
            Estimate(name=f"aic_{law.name}", value=found.aic, low=None, high=None, n=found.n, unit="", method="weighted least squares")
        )
        if law is LOG1P:
            continue
        alphas, betas = curves.coefficients(law, points.d_draws, points.gain_draws, points.precision)
        estimates.append(make_estimate(f"alpha_{law.name}", found.alpha, alphas, n, "score / sqrt(nats)", method=METHOD))
        estimates.append(make_estimate(f"beta_{law.name}", found.beta, betas, n, "", method=METHOD))
        estimates.append(_peak(law, found, alphas, betas, n))
        missed = points.gain_draws - law.gain(points.d_draws, alphas[:, None], betas[:, None])
        chi2[law.name] = found.chi2, (points.precision * missed**2).sum(axis=1)
        fitted = gold.mean()[0] + law.gain(d, found.alpha, found.beta)
        columns[f"gold_fit_{law.name}"] = plain(np.where(kept, fitted, np.nan))
    if len(chi2) == 2:
        (bon, bon_draws), (rl, rl_draws) = chi2["bon"], chi2["rl"]  # both have two coefficients
        estimates.append(make_estimate("aic_bon_minus_rl", bon - rl, bon_draws - rl_draws, n, "", method=METHOD))
        estimates += _apart(panel, gold, proxy, d, d_draws, weights, kept)
    return estimates, columns


def which_fits(estimates: list[Estimate]) -> str:
    """A sentence on which law fits better."""
    found = next((e for e in estimates if e.name == "aic_bon_minus_rl"), None)
    if found is None:
        return "Too few checkpoints for a law."
    better = "The RL law" if (found.value or 0) > 0 else "The best-of-n law"
    told = f"(AIC of best-of-n less that of RL {shown(found)})"
    clear = found.excludes(0) and abs(found.value or 0) >= CLEAR
    return f"{better} fits better {told}." if clear else f"Neither law is shown to fit better {told}."


def _points(cells: Cells, d: Array, d_draws: Array, weights: Array, kept: NDArray[np.bool_]) -> _Points:
    level, drawn = cells.mean(), cells.resampled(weights)
    gain, gain_draws = level - level[0], drawn - drawn[:, :1]
    precision = curves.precision_of(gain_draws.std(axis=0)[kept], (int(kept.sum()),))
    return _Points(d=d[kept], d_draws=d_draws[:, kept], gain=gain[kept], gain_draws=gain_draws[:, kept], precision=precision)


def _peak(law: Law, found: curves.Fit, alphas: Array, betas: Array, n: int) -> Estimate:
    """Where the fitted law turns over; absent where it does not, its interval where it does not in over 10 % of the resamples."""
    places = [curves.peak(law, float(a), float(b)) for a, b in zip(alphas, betas, strict=True)]
    draws = np.array([p[0] if p else np.nan for p in places])
    here = curves.peak(law, found.alpha, found.beta)
    return make_estimate(f"peak_sqrt_kl_{law.name}", here[0] if here else np.nan, draws, n, "sqrt(nats)", method=METHOD)


def _apart(panel: Panel, gold: Cells, proxy: Cells, d: Array, d_draws: Array, weights: Array, kept: NDArray[np.bool_]) -> list[Estimate]:
    """Gamma and area."""
    sizes = [_spread(panel, name) for name in ("gold", "proxy_fixed")]
    if not all(size > 0 for size in sizes):
        return []
    n, far = len(panel.prompts), float(d.max())
    fits = []
    for cells, size in zip((gold, proxy), sizes, strict=True):
        p = _points(cells, d, d_draws, weights, kept)
        whole, drawn = (curves.coefficients(BEST_OF_N, x, y / size, p.precision) for x, y in ((p.d, p.gain), (p.d_draws, p.gain_draws)))
        fits.append((whole, drawn))
    value, draws = (degree(*fits[0][i], *fits[1][i], far) for i in (0, 1))
    gaps, gap_draws = _area(gold, proxy, sizes, d, weights)
    return [
        make_estimate("gamma", float(value), draws, n, "", method=METHOD),
        make_estimate("area", gaps, gap_draws, n, "share of the proxy's gain", method=METHOD),
    ]


def _spread(panel: Panel, name: str) -> float:
    values = panel.column(name)
    return 0.0 if values is None else float(np.nanstd(values[panel.step == 0]))


def degree(gold_alpha: Array, gold_beta: Array, proxy_alpha: Array, proxy_beta: Array, far: float) -> Array:
    """Gamma of two best-of-n laws d (alpha - beta d), any shape; NaN where the integral of gold is not positive.

    The integral of d (a - b d) over KL = d^2 from 0 to x^2 is 2 a x^3 / 3 - b x^4 / 2; the difference of two such laws changes its sign at
    d = a / b at most.

    Args:
        gold_alpha: score / sqrt(nats).
        gold_beta: score / nats.
        proxy_alpha: as of gold, scores on one scale.
        proxy_beta: the same.
        far: largest d, sqrt(nats).
    """

    def upto(a: Array, b: Array, x: Array) -> Array:
        return np.asarray(2 * a * x**3 / 3 - b * x**4 / 2)

    a, b, end = np.asarray(proxy_alpha - gold_alpha), np.asarray(proxy_beta - gold_beta), np.asarray(far)
    turn = np.clip(np.divide(a, b, out=np.full(np.shape(a), far), where=b != 0), 0, far)
    apart = np.abs(upto(a, b, turn)) + np.abs(upto(a, b, end) - upto(a, b, turn))
    below = upto(np.asarray(gold_alpha), np.asarray(gold_beta), end)
    return np.divide(apart, below, out=np.full(np.shape(below), np.nan), where=below > 0)


def _area(gold: Cells, proxy: Cells, sizes: list[float], d: Array, weights: Array) -> tuple[float, Array]:
    """Integral of standardised proxy less gold gain over KL, over KL times the proxy's last gain; NaN where it gained nothing."""
    order = np.argsort(d, kind="stable")
    nats = d[order] ** 2

    def read(g: Array, p: Array) -> Array:
        g, p = (g - g[..., :1]) / sizes[0], (p - p[..., :1]) / sizes[1]
        last = p[..., -1]
        apart = np.trapezoid((p - g)[..., order], nats, axis=-1)
        below = (nats[-1] - nats[0]) * last
        return np.divide(apart, below, out=np.full(np.shape(below), np.nan), where=below > 0)

    return float(read(gold.mean(), proxy.mean())), read(gold.resampled(weights), proxy.resampled(weights))
