"""How often the interval of a correlation along checkpoints holds the truth, on simulated runs where it is known.

A run is two AR(1) series whose innovations are correlated; levels and first differences then have that correlation. Asked of the
interval that `trueup.mismatch.policy_evaluation.tracking` reports (`trueup.stats.serial`), and of a moving-block bootstrap with blocks
of the cube root of the length, which it replaced.

    python studies/tracking_coverage.py [--runs 2000] [--kind spearman]
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from trueup.core.rng import Key
from trueup.stats import rank, serial
from trueup.stats.bootstrap import block_indices, interval

Array = NDArray[np.float64]
LENGTHS, MEMORIES, TRUTHS = (10, 20, 40), (0.0, 0.5, 0.8), (0.0, 0.5)
WARM = 100
"""Steps before the series begin, so that they are stationary."""
DRAWS = 500
CORRELATIONS = {"pearson": rank.pearson, "spearman": rank.spearman, "kendall": rank.kendall}


def series(runs: int, length: int, memory: float, truth: float, key: Key) -> tuple[Array, Array]:
    """[R, S] twice: AR(1) series whose innovations have a correlation."""
    g = key.generator()
    first = g.normal(size=(runs, WARM + length))
    second = truth * first + np.sqrt(1 - truth**2) * g.normal(size=(runs, WARM + length))
    for t in range(1, WARM + length):
        first[:, t] += memory * first[:, t - 1]
        second[:, t] += memory * second[:, t - 1]
    return first[:, WARM:], second[:, WARM:]


def target(kind: serial.Kind, truth: float) -> float:
    """What a correlation of normal variables of Pearson correlation ``truth`` is."""
    return {"pearson": truth, "spearman": 6 / np.pi * np.arcsin(truth / 2), "kendall": 2 / np.pi * np.arcsin(truth)}[kind]


def by_blocks(x: Array, y: Array, kind: serial.Kind, key: Key) -> tuple[Array, Array]:
    """[R] limits of the moving-block bootstrap, run by run."""
    n = x.shape[1]
    places = block_indices(n, int(np.ceil(n ** (1 / 3))), DRAWS, key)
    limits = [interval(CORRELATIONS[kind](a[places], b[places]), n) for a, b in zip(x, y, strict=True)]
    return np.array([float(low) for low, _ in limits]), np.array([float(high) for _, high in limits])


def coverage(runs: int, kind: serial.Kind, key: Key, *, blocks: bool = True) -> Iterator[dict[str, float | str]]:
    """One row a setting: coverage and mean width of both intervals, over the runs in which there is one, and the share of those."""
    for length in LENGTHS:
        for memory in MEMORIES:
            for truth in TRUTHS:
                place = key / length / str(memory) / str(truth)
                levels = series(runs, length, memory, truth, place)
                for which, (x, y) in (("levels", levels), ("differences", (np.diff(levels[0]), np.diff(levels[1])))):
                    value = CORRELATIONS[kind](x, y)
                    row: dict[str, float | str] = {"checkpoints": length, "memory": memory, "truth": truth, "of": which}
                    row |= _judged("serial", serial.correlation_interval(value, x, y, kind), target(kind, truth))
                    if blocks:
                        row |= _judged("blocks", by_blocks(x, y, kind, place / which), target(kind, truth))
                    yield row


def _judged(name: str, limits: tuple[Array, Array], truth: float) -> dict[str, float]:
    low, high = limits
    given = np.isfinite(low) & np.isfinite(high)
    inside = (low <= truth) & (truth <= high)
    return {
        f"{name}_covers": float(inside[given].mean()),
        f"{name}_width": float((high - low)[given].mean()),
        f"{name}_given": float(given.mean()),
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=2000, help="simulated runs a setting")
    parser.add_argument("--kind", choices=sorted(CORRELATIONS), default="spearman", help="which correlation")
    parser.add_argument("--no-blocks", action="store_true", help="leave the moving-block bootstrap out: seconds instead of minutes")
    options = parser.parse_args()
    for row in coverage(options.runs, options.kind, Key(0) / options.kind, blocks=not options.no_blocks):
        print("  ".join(f"{k} {v:.3f}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()), flush=True)


if __name__ == "__main__":
    main()
