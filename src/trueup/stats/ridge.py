"""Bradley-Terry regression with a quadratic penalty, fitted to its one optimum: few data, many features, no learning rate.

Minimises sum_i log(1 + exp(-x_i w)) + strength / 2 |w|^2 over pairs i, x_i the features of the chosen minus the rejected reply; strength 1
is a standard normal prior on each weight (Bradley & Terry 1952; le Cessie & van Houwelingen 1992). Convex, so the start does not matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, sparse, special

from trueup.stats.bootstrap import Array
from trueup.stats.calibration import nll_nats

Matrix: TypeAlias = "sparse.csr_array | Array"
STRENGTHS = tuple(float(x) for x in 10.0 ** np.arange(-1.0, 3.1, 0.5))
"""Penalties that are tried unless told otherwise; features are scaled first, so that one list serves all."""
GRADIENT = 1e-4
"""The largest entry of the gradient at which the search ends, in units of one pair."""


def fit_ridge(x: Matrix, strength: float, start: Array | None = None) -> Array:
    """The best weights: [N, D] feature differences -> [D].

    Args:
        x: chosen minus rejected, dense or sparse.
        strength: of the penalty, above 0.
        start: [D] where the search begins.

    Raises:
        ValueError: a penalty that is not above 0.
    """
    if not strength > 0:
        raise ValueError(f"the penalty must be above 0, got {strength}")
    turned = sparse.csr_array(x.T) if sparse.issparse(x) else x.T

    def loss(w: Array) -> tuple[float, Array]:
        margin = x @ w
        return float(np.logaddexp(0, -margin).sum() + strength / 2 * w @ w), strength * w - turned @ special.expit(-margin)

    first = np.zeros(x.shape[1]) if start is None else start
    found = optimize.minimize(
        loss, first, jac=True, method="L-BFGS-B", options={"maxiter": 1000, "gtol": GRADIENT, "ftol": 1e-12, "maxcor": 20}
    )
    return np.asarray(found.x, dtype=float)


def ridge_path(x: Matrix, strengths: Sequence[float]) -> Array:
    """[S, D] the best weights under each penalty; each search begins where that of the next larger penalty ended."""
    found: Array = np.zeros((len(strengths), int(x.shape[1])))
    start = None
    for place in np.argsort(-np.asarray(strengths)):
        start = found[place] = fit_ridge(x, strengths[int(place)], start)
    return found


def held_out_path(x: Matrix, folds: Sequence[NDArray[np.int64]], strengths: Sequence[float]) -> Array:
    """[S, N] margins of every pair under the weights that were fitted to the other folds, a penalty each."""
    n = x.shape[0]
    found: Array = np.full((len(strengths), n), np.nan)
    for rows in folds:
        rest = np.setdiff1d(np.arange(n), rows)
        found[:, rows] = (x[rows] @ ridge_path(x[rest], strengths).T).T
    return found


def best_scaled(margins: Array) -> int:
    """Which row of margins [S, N] has the smallest mean log-loss."""
    return int(np.argmin(nll_nats(margins, np.ones(margins.shape[-1])).mean(-1)))
