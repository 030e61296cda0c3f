"""From score differences to probabilities that mean what they say: temperature, Platt, isotonic; pooled or per domain.

Ranks never change: each map is non-decreasing in the difference. Sources: Guo et al. 2017 (arXiv:1706.04599), Platt 1999, Zadrozny &
Elkan 2002. Malik et al. 2019's recalibration of forecasts reduces to the isotonic map where outcomes are wins and losses.

Temperature and isotonic maps see every pair in both orders and so are antisymmetric, P(a over b) + P(b over a) = 1; Platt's intercept is a
preference for the place and is fitted in the order given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, special

from trueup.stats.bootstrap import Array
from trueup.stats.calibration import both_orders, fit_temperature, nll_nats

Method = Literal["temperature", "platt", "isotonic"]
LEAST_PAIRS = 50
"""Pairs that a domain needs for a map of its own."""


@dataclass(frozen=True, kw_only=True)
class Calibrator:
    """One fitted map."""

    method: Method
    slope: float = 1.0
    """Of ``temperature`` (one over it) and ``platt``."""
    intercept: float = 0.0
    """Of ``platt``."""
    knots: tuple[float, ...] = ()
    """Differences of ``isotonic``, rising."""
    levels: tuple[float, ...] = ()
    """Probabilities at the knots; between them straight lines, beyond them the ends."""
    n: int = 0
    """Pairs it was fitted to."""

    def probability(self, delta: ArrayLike) -> Array:
        """Chance that the first reply wins: [N] score differences -> [N]."""
        d = np.asarray(delta, dtype=float)
        if self.method == "isotonic":
            return np.interp(d, self.knots, self.levels)
        return np.asarray(special.expit(self.slope * d + self.intercept))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "method": self.method,
            "slope": self.slope,
            "intercept": self.intercept,
            "knots": list(self.knots),
            "levels": list(self.levels),
            "n": self.n,
        }


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """A pooled map, and one for each domain that had enough pairs."""

    pooled: Calibrator
    domains: dict[str, Calibrator] = field(default_factory=dict)

    def probability(self, delta: ArrayLike, domain: Sequence[str] | None = None) -> Array:
        """Chance that the first reply wins, under its domain's map where there is one: [N] -> [N]."""
        d = np.asarray(delta, dtype=float)
        found = self.pooled.probability(d)
        if domain is not None:
            names = np.asarray(domain)
            for name, map_ in self.domains.items():
                here = names == name
                found[here] = map_.probability(d[here])
        return found

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"pooled": self.pooled.to_dict(), "domains": {name: c.to_dict() for name, c in self.domains.items()}}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Calibration:
        """The inverse of `to_dict`."""
        return cls(pooled=_read(values["pooled"]), domains={str(k): _read(v) for k, v in values["domains"].items()})


def fit_calibration(
    delta: ArrayLike, outcome: ArrayLike, method: Method = "temperature", domain: Sequence[str] | None = None
) -> Calibration | None:
    """Fit on pairs that the model was not trained on.

    Args:
        delta: [N] score of the first reply minus that of the second.
        outcome: [N] 1 the first won, 0 it lost, 1/2 a tie.
        method: the kind of map.
        domain: [N] for maps per domain, in domains of at least `LEAST_PAIRS`.

    Returns:
        None where no finite map fits best: the order is always right, or no better than chance.
    """
    d, y = np.asarray(delta, dtype=float), np.asarray(outcome, dtype=float)
    pooled = fit_calibrator(d, y, method)
    if pooled is None:
        return None
    found = {}
    names = np.asarray(domain) if domain is not None else np.empty(0)
    for name in sorted(set(names.tolist())):
        here = names == name
        map_ = fit_calibrator(d[here], y[here], method) if here.sum() >= LEAST_PAIRS else None
        if map_ is not None:
            found[str(name)] = map_
    return Calibration(pooled=pooled, domains=found)


def fit_calibrator(delta: Array, outcome: Array, method: Method) -> Calibrator | None:
    """One map; see `fit_calibration`."""
    temperature = fit_temperature(delta, outcome)
    if temperature is None:
        return None
    if method == "temperature":
        return Calibrator(method=method, slope=1 / temperature, n=len(delta))
    if method == "platt":
        start = np.array([1 / temperature, 0.0])
        found = optimize.minimize(lambda w: float(nll_nats(w[0] * delta + w[1], outcome).mean()), start, method="BFGS")
        if not found.x[0] > 0:
            return None
        return Calibrator(method=method, slope=float(found.x[0]), intercept=float(found.x[1]), n=len(delta))
    return _isotonic(delta, outcome)


def _isotonic(delta: Array, outcome: Array) -> Calibrator:
    """Pool adjacent violators over both orders; one knot at each end of a level."""
    d, y = both_orders(delta, outcome)
    points, place, count = np.unique(d, return_inverse=True, return_counts=True)
    mean = np.bincount(place, weights=y) / count
    level = np.asarray(optimize.isotonic_regression(mean, weights=count).x)
    edge = np.ones(len(level), dtype=bool)
    edge[1:-1] = (level[1:-1] != level[:-2]) | (level[1:-1] != level[2:])
    return Calibrator(method="isotonic", knots=tuple(points[edge].tolist()), levels=tuple(level[edge].tolist()), n=len(delta))


def _read(values: Mapping[str, Any]) -> Calibrator:
    if values["method"] not in get_args(Method):
        raise ValueError(f"unknown method {values['method']!r}")
    lists = {name: tuple(float(x) for x in values[name]) for name in ("knots", "levels")}
    return Calibrator(
        method=values["method"], slope=float(values["slope"]), intercept=float(values["intercept"]), n=int(values["n"]), **lists
    )
