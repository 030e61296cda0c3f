"""What features of a reply are worth to two scores at once: regressions within cells, resampled by whole clusters.

Deviations:

1. One feature at a time, beside length: words for one thing stand together ("great" and "!"), and all at once none would be seen.
2. A ridge far below sampling error stands in every regression, so that a feature which a resample lost has coefficient 0, not none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trueup.mismatch.features import FEATURES, features
from trueup.stats.bootstrap import Array

RIDGE = 1e-6
LENGTH = "words"
"""The feature that all others are compared at equal."""


@dataclass(frozen=True, kw_only=True)
class StyleRows:
    """Replies as deviations from the mean of their cell: [N, F] features, [N] proxy and truth, all in standard deviations."""

    names: list[str]
    features: Array
    proxy: Array
    truth: Array
    cluster: NDArray[np.int64]
    clusters: int


def counts_of(texts: Sequence[object]) -> Array:
    """[N, features]; equal texts are counted once."""
    known = {str(t): list(features(str(t)).values()) for t in set(map(str, texts))}
    return np.array([known[str(t)] for t in texts], dtype=float).reshape(len(texts), len(FEATURES))


def centred(
    counts: Array, proxy: Array, truth: Array, cell: NDArray[np.int64], cluster: NDArray[np.int64], clusters: int, min_share: float
) -> StyleRows | None:
    """Deviations within cells, scaled to deviation 1; features that hardly occur or do not vary are left out.

    Args:
        counts: [N, features] of `counts_of`.
        proxy: [N]
        truth: [N]
        cell: [N] number of the cell whose mean is taken off.
        cluster: [N] number of what is resampled whole.
        clusters: how many there are.
        min_share: of the replies that must show a feature.

    Returns:
        None where no feature varies, or either score does not.
    """
    size = np.maximum(np.bincount(cell), 1)

    def scaled(values: Array) -> Array | None:
        away = values - (np.bincount(cell, weights=values) / size)[cell]
        spread = float(np.sqrt((away**2).mean()))
        return away / spread if spread > 1e-9 else None

    columns = {n: scaled(counts[:, i]) for i, n in enumerate(FEATURES) if (counts[:, i] > 0).mean() >= min_share}
    kept = {n: c for n, c in columns.items() if c is not None}
    y, z = scaled(proxy), scaled(truth)
    if not kept or y is None or z is None:
        return None
    return StyleRows(names=list(kept), features=np.stack(list(kept.values()), axis=1), proxy=y, truth=z, cluster=cluster, clusters=clusters)


def coefficients(rows: StyleRows, weights: Array) -> dict[str, tuple[Array, Array]]:
    """``pays`` (at equal truth) and ``worth`` of each feature, at equal length: [F] and resamples [R, F].

    Args:
        rows: deviations.
        weights: [R, C] of the clusters.
    """
    size = len(rows.names)
    full = np.column_stack([rows.features, rows.truth, rows.proxy])
    products = np.zeros((rows.clusters, size + 2, size + 2))
    np.add.at(products, rows.cluster, full[:, :, None] * full[:, None, :])
    flat = products.reshape(rows.clusters, -1)
    total, resampled = flat.sum(axis=0).reshape(size + 2, size + 2), (weights @ flat).reshape(-1, size + 2, size + 2)

    def solved(tables: Array, predictors: NDArray[np.int64], outcome: int) -> Array:
        left = tables[..., predictors[:, None], predictors] + RIDGE * len(full) * np.eye(len(predictors))
        return np.asarray(np.linalg.solve(left, tables[..., predictors, outcome][..., None])[..., 0], dtype=np.float64)

    length = [rows.names.index(LENGTH)] if LENGTH in rows.names else []
    out: dict[str, tuple[list[Array], list[Array]]] = {"pays": ([], []), "worth": ([], [])}
    for i in range(size):
        beside = [i, *(k for k in length if k != i)]
        for kind, predictors, outcome in (("pays", [*beside, size], size + 1), ("worth", beside, size)):
            for found, tables in zip(out[kind], (total, resampled), strict=True):
                found.append(solved(tables, np.array(predictors), outcome)[..., 0])
    return {kind: (np.array(values), np.stack(draws, axis=1)) for kind, (values, draws) in out.items()}
