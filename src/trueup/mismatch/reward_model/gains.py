"""What optimising a score will gain, from noisy comparisons of reference replies: neither a policy is trained nor gold known.

A score r moves the reference towards reference x exp(r / beta), which on K sampled replies are the weights w of `trueup.stats.tilting`.
The gain is the chance that a reply of the moved reference beats another reply of the reference to the same prompt, less 1/2:

    gain = mean over prompts of sum over pairs i < j of (w_i - w_j) (P(i beats j) - 1/2) / (K - 1)

1. counted: the sum over the compared pairs, each divided by the probability with which it was chosen. Without bias, with much noise.
2. modelled: P(i beats j) = sigmoid(u_i - u_j), with the utility u a logistic regression of the outcomes on the mean score of all models,
   the score of each, the weight w of each, and named features; the data choose the width of the prior of each of these four
   (`stats.ridge_logistic`). With little noise: all models and prompts share the comparisons. With a bias towards each other where few
   comparisons must tell many models apart, or where no column can say what annotators want.
3. robust: modelled by utilities fitted on other prompts, plus the counted sum of what they leave unexplained (doubly robust). Without the
   bias; hardly less noise than counted. Its intervals of differences hold what they claim.
4. combined: modelled, plus the share of its gap to robust that noise does not explain, after James and Stein (1961), apart for the mean
   of all models and for their differences. To order models by.

Pairs to have compared are best those on whose weights the models disagree: the variance of the counted difference of two models is
least where the probability of a pair is in proportion to the difference of theirs in w_i - w_j.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special
from scipy.stats import chi2

from trueup.core.rng import Key
from trueup.stats.bootstrap import DRAWS, LEVEL, Array, cluster_weights, make_estimate
from trueup.stats.estimate import Estimate
from trueup.stats.ridge_logistic import RidgeFit, fit_by_evidence, ridge_logistic
from trueup.stats.tilting import tilt
from trueup.stats.unequal_sampling import inclusion, systematic

Ints = NDArray[np.int64]

BETA = 0.5
"""Tilt at which models are told apart, standard deviations of the score a nat."""
FLOOR = 0.2
"""Share of the budget spent on all pairs alike, so that no pair weighs too much when models or betas are other ones later."""
FOLDS = 5
IMPLAUSIBLE = 0.1
"""Chance below which so little doubt would be seen, were it larger in truth."""
METHODS = ("counted", "modelled", "robust", "combined")


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """Pairs of replies of one prompt, C of them."""

    prompt: Ints
    """[C] number of the prompt."""
    first: Ints
    """[C] number of a reply."""
    second: Ints
    """[C] number of another."""
    probability: Array
    """[C] with which the pair was chosen."""


@dataclass(frozen=True, kw_only=True)
class Compared(Chosen):
    """Pairs that were labelled."""

    outcome: Array
    """[C] 1 the first won, 0 it lost, 1/2 a tie; means of several labels are allowed."""


@dataclass(frozen=True, kw_only=True)
class Gains:
    """Predicted gains of M models by each of `METHODS`, with resamples that all models share."""

    value: dict[str, Array]
    """[M]"""
    draws: dict[str, Array]
    """[R, M]"""
    prompts: int

    def estimate(self, model: int, method: str = "combined", name: str = "gain", level: float = LEVEL) -> Estimate:
        """Of one model: win rate against the reference less 1/2."""
        value, draws = self.value[method][model], self.draws[method][:, model]
        return make_estimate(name, float(value), draws, self.prompts, "share", method=f"{method}, prompt bootstrap", level=level)

    def difference(self, first: int, second: int, method: str = "combined", name: str = "difference") -> Estimate:
        """First model less second, on common resamples."""
        value, draws = self.value[method], self.draws[method]
        gap = draws[:, first] - draws[:, second]
        return make_estimate(name, float(value[first] - value[second]), gap, self.prompts, "share", method=f"{method}, prompt bootstrap")


def choose_comparisons(score: Array, budget: int, key: Key, *, betas: Sequence[float] = (BETA,), floor: float = FLOOR) -> Chosen:
    """The pairs of reference replies to have labelled so that the models' gains are told apart best.

    Args:
        score: [M, P, K] standardised scores of the models; NaN where there is no reply. One model is told apart from the reference.
        budget: pairs; fewer where there are not as many.
        key: random stream.
        betas: tilts of interest, standard deviations a nat.
        floor: share of the budget spent on all pairs alike.

    Returns:
        distinct pairs with the probabilities of their choice, which undo the choice; the side shown first is random.
    """
    rows, columns = np.triu_indices(score.shape[2], 1)
    here = ~np.isnan(score[0])
    known = (here[:, rows] & here[:, columns]).ravel()
    total, square, count = np.zeros(known.size), np.zeros(known.size), 0
    for one in score:
        for beta in betas:
            weight = tilt(one, beta)
            lead = (weight[:, rows] - weight[:, columns]).ravel()
            total, square, count = total + lead, square + lead**2, count + 1
    spread = np.sqrt(np.maximum(square - (total**2 / count if len(score) > 1 else 0.0), 0.0)) * known
    alike = known / max(known.sum(), 1)
    size = alike if spread.sum() == 0 else (1 - floor) * spread / spread.sum() + floor * alike
    probability = inclusion(size, budget)
    pair = systematic(probability, key / "pairs")
    prompt, place = np.divmod(pair, len(rows))
    swap = (key / "sides").generator().random(len(pair)) < 0.5
    a, b = rows[place], columns[place]
    return Chosen(prompt=prompt, first=np.where(swap, b, a), second=np.where(swap, a, b), probability=probability[pair])


def predicted_gains(weight: Array, score: Array, features: Array, compared: Compared, key: Key, draws: int = DRAWS) -> Gains:
    """Predicted gains of M models.

    Args:
        weight: [M, P, K] of each model's tilt, such as ``tilt(score, beta)``; 0 where there is no reply.
        score: [S, P, K] scores that may explain the outcomes, of these models or more; NaN where there is no reply.
        features: [F, P, K] named features of the replies; F may be 0.
        compared: labelled pairs.
        key: random stream.
        draws: resamples R.
    """
    here = ~np.isnan(score[0])
    others = here.sum(axis=1) - 1.0
    prompts = int((others > 0).sum())
    x, group = columns_of(score, features, weight)
    fit = fit_by_evidence(_differences(x, compared), compared.outcome, group)
    modelled, slope = _moved(weight, x, fit.coefficient, here)
    apart, chance = _held_out(weight, x, here, compared, fit, group, key)
    counted = _counted(weight, compared, compared.outcome - 0.5, others)
    correction = _counted(weight, compared, compared.outcome - chance, others)
    robust = apart + correction
    doubt = robust.sum(1) / prompts - modelled.sum(1) / prompts
    trusts = (
        _trust(doubt.mean()[None], correction.mean(0)[None], 1),
        _trust(doubt - doubt.mean(), correction - correction.mean(0), len(doubt) - 1),
    )

    resampled = cluster_weights(weight.shape[1], draws, key / "prompts") / prompts
    noise = (key / "utility").generator().standard_normal((draws, len(group))) @ np.linalg.cholesky(fit.covariance).T
    drawn = {"counted": resampled @ counted.T, "modelled": resampled @ modelled.T + noise @ (slope / prompts).T}
    drawn["robust"] = resampled @ robust.T
    drawn["combined"] = (
        drawn["modelled"] + _believed(doubt, trusts) + _believed(resampled @ (robust - modelled).T - doubt, trusts, spread=True)
    )
    value = {"counted": counted.sum(1) / prompts, "modelled": modelled.sum(1) / prompts}
    value["robust"] = robust.sum(1) / prompts
    value["combined"] = value["modelled"] + _believed(doubt, trusts)
    return Gains(value=value, draws=drawn, prompts=prompts)


def columns_of(score: Array, features: Array, weight: Array) -> tuple[Array, Ints]:
    """What utilities may depend on: [D, P, K] columns, centred within prompts and scaled, 0 where there is no reply; [D] their groups.

    The mean score of all models is a group, the scores are one, the features are one. Columns that never differ are left out.
    """
    here = ~np.isnan(score[0])
    own = _scaled(score, here)
    parts = [
        _scaled(own.mean(axis=0, keepdims=True), here),
        own if len(own) > 1 else own[:0],
        _scaled(weight, here),
        _scaled(features, here),
    ]
    parts = [part for part in parts if len(part)]
    if not parts:
        raise ValueError("no score differs within any prompt")
    return np.concatenate(parts), np.concatenate([np.full(len(part), k) for k, part in enumerate(parts)])


def _scaled(columns: Array, here: NDArray[np.bool_]) -> Array:
    """[D, P, K] -> [D', P, K] deviations from the prompt's mean, in units of their size over all replies."""
    filled = np.where(here, columns, 0.0)
    mean = filled.sum(axis=2, keepdims=True) / here.sum(axis=1)[:, None]
    gap = np.where(here, filled - mean, 0.0)
    size = np.sqrt((gap**2).sum(axis=(1, 2)) / here.sum())
    kept = size > 1e-9 * np.maximum(np.abs(filled).max(axis=(1, 2), initial=0.0), 1e-300)
    return np.asarray(gap[kept] / size[kept, None, None])


def _differences(x: Array, pairs: Chosen) -> Array:
    """[C, D] of the columns, first less second."""
    return np.asarray((x[:, pairs.prompt, pairs.first] - x[:, pairs.prompt, pairs.second]).T)


def _moved(weight: Array, x: Array, coefficient: Array, here: NDArray[np.bool_]) -> tuple[Array, Array]:
    """[M, P] modelled gain of each prompt, and [M, D] the derivative of their sum by the coefficients."""
    gain, slope = np.zeros(weight.shape[:2]), np.zeros((len(weight), len(x)))
    utility = np.tensordot(coefficient, x, axes=1)
    for p, place in enumerate(here):
        if place.sum() < 2:
            continue
        u, w, columns = utility[p, place], weight[:, p, place], x[:, p, place]
        chance = special.expit(u[:, None] - u[None, :])
        gain[:, p] = w @ (chance - 0.5).sum(axis=1) / (len(u) - 1)
        steep = chance * (1 - chance)
        slope += w @ (steep.sum(axis=1)[:, None] * columns.T - steep @ columns.T) / (len(u) - 1)
    return gain, slope


def _held_out(
    weight: Array, x: Array, here: NDArray[np.bool_], compared: Compared, fit: RidgeFit, group: Ints, key: Key
) -> tuple[Array, Array]:
    """[M, P] modelled gains and [C] chances of the compared pairs, by utilities fitted on other prompts with the same penalties."""
    prompts = weight.shape[1]
    fold = np.empty(prompts, dtype=np.int64)
    fold[(key / "folds").permutation(prompts)] = np.arange(prompts) % FOLDS
    difference = _differences(x, compared)
    gain, chance = np.zeros(weight.shape[:2]), np.full(len(compared.outcome), 0.5)
    for k in range(FOLDS):
        inside = fold[compared.prompt] == k
        coefficient, _ = ridge_logistic(difference[~inside], compared.outcome[~inside], fit.penalty[group], fit.coefficient)
        chance[inside] = special.expit(difference[inside] @ coefficient)
        gain[:, fold == k] = _moved(weight[:, fold == k], x[:, fold == k], coefficient, here[fold == k])[0]
    return gain, chance


def _counted(weight: Array, pairs: Chosen, excess: Array, others: Array) -> Array:
    """[M, P] sum over each prompt's pairs of (w_i - w_j) excess / probability / (K - 1)."""
    share = excess / pairs.probability / others[pairs.prompt]
    terms = (weight[:, pairs.prompt, pairs.first] - weight[:, pairs.prompt, pairs.second]) * share
    found = np.zeros(weight.shape[:2])
    np.add.at(found.T, pairs.prompt, terms.T)
    return found


@dataclass(frozen=True, kw_only=True)
class _Trust:
    """In the doubt that comparisons cast on modelled gains."""

    share: float
    """That noise does not explain."""
    spread: float
    """Of the doubt's noise that stays: the root of the greatest share that is not implausible."""


def _trust(doubt: Array, rows: Array, freedom: int) -> _Trust:
    """Trust in ``doubt`` [M], which has ``freedom`` independent parts, from the terms [M, P] whose mean over prompts it is."""
    prompts, size = rows.shape[1], float((doubt**2).sum())
    noise = float(((rows - rows.mean(axis=1, keepdims=True)) ** 2).sum()) / (prompts * max(prompts - 1, 1))
    if freedom == 0 or size == 0:
        return _Trust(share=0.0, spread=0.0)
    least = float(chi2.ppf(IMPLAUSIBLE, freedom)) / freedom
    return _Trust(share=max(0.0, 1 - noise / size), spread=float(np.sqrt(max(0.0, 1 - least * noise / size))))


def _believed(doubt: Array, trusts: tuple[_Trust, _Trust], *, spread: bool = False) -> Array:
    """[..., M] what is kept of the doubt of all models, and of that of each; with ``spread`` of its noise."""
    of_all, of_each = (max(t.spread, t.share) if spread else t.share for t in trusts)
    whole = doubt.mean(axis=-1, keepdims=True)
    return np.asarray(of_all * whole + of_each * (doubt - whole))
