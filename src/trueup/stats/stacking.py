"""Several scores of one pair made into one: weights on the scale of log-odds, none negative (Wolpert 1992; Breiman 1996).

The margins must be those of pairs that the members were not fitted to, or the member that remembers best gets all the weight.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, special

from trueup.stats.bootstrap import Array
from trueup.stats.calibration import fit_temperature


def fitted_weights(margins: ArrayLike) -> Array:
    """[M] weights of 0 or more that minimise the log-loss of the weighted sum: [M, N] margins of chosen minus rejected -> [M].

    All 0 where no member is better than chance. One optimum, since the loss is convex.
    """
    x = np.asarray(margins, dtype=float).T
    size = np.maximum(np.sqrt((x**2).mean(0)), 1e-300)
    scaled = x / size

    def loss(w: Array) -> tuple[float, Array]:
        margin = scaled @ w
        # the least bit of a penalty keeps weights finite where some order is always right
        return float(np.logaddexp(0, -margin).mean() + 1e-6 * w @ w), -(special.expit(-margin) @ scaled) / len(x) + 2e-6 * w

    found = optimize.minimize(loss, np.full(x.shape[1], 1e-3), jac=True, method="L-BFGS-B", bounds=[(0, None)] * x.shape[1])
    return np.asarray(found.x, dtype=float) / size


def equal_weights(margins: ArrayLike) -> Array:
    """[M] weights that calibrate each member by its own temperature and take the mean: [M, N] -> [M]; 0 where no finite one fits."""
    x = np.asarray(margins, dtype=float)
    found = [fit_temperature(row, np.ones(len(row))) for row in x]
    return np.array([0.0 if t is None else 1 / t for t in found]) / len(x)
