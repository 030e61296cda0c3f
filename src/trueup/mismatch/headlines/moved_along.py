"""Policy <-> evaluation in one number: of all that the evaluations moved while the proxy rose, the share that was for the better.

Each series climbs from the first checkpoint to its best one and falls from there to the last. The best one is chosen on half of the
prompts and measured on the other half, both ways round, so that noise has no peak to fall from; a movement below two standard errors
counts nothing, and larger ones are shrunk by 1 - (2 / z)^2. Movements are in standard deviations of replies, so that evaluations of any
unit add up. A fall while the proxy fell too is a collapse, no mismatch, and counts neither way. The path between those checkpoints does
not count, so the number does not depend on how often a run was probed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from trueup.core.rng import Key
from trueup.mismatch.diagnosis import Link, shown
from trueup.mismatch.headlines.number import Basis, Headline, HeadlineSettings, absent, bounded, quotient
from trueup.mismatch.pairs import wins_over_first
from trueup.mismatch.panel import METHOD, Cells, Panel
from trueup.mismatch.policy_evaluation.tracking import Tracking
from trueup.stats.bootstrap import Array, make_estimate

LINK: Link = "policy_evaluation"
SHOWN_MOVE = 2.0
"""Standard errors below which a movement counts nothing."""


def moved_along(panel: Panel, settings: HeadlineSettings, sides: Tracking, key: Key) -> Headline:
    """The number of one arm.

    Args:
        panel: the arm's test rows, with ``proxy_fixed``.
        settings: basis and thresholds.
        sides: which side of an evaluation is better.
        key: random stream of halves and bootstrap.
    """
    if len(panel.steps) < 2:
        return absent(LINK, panel.arm, "one checkpoint, a movement needs two")
    basis, series = _series(panel, settings, sides)
    proxy = panel.column_cells("proxy_fixed")
    if basis is None or proxy is None:
        wanted = "evaluations whose better side is known, gold, or labels against the first checkpoint"
        return absent(LINK, panel.arm, f"{wanted if settings.basis == 'auto' else settings.basis}, at every checkpoint, are needed")
    halves = panel.halves(key / "halves")
    weights = panel.weights(key / "prompts", settings.draws)
    moves = {name: _moves(cells, scale, proxy, halves, weights) for name, (cells, scale) in series.items()}
    better, worse = (np.sum([m[i] for m in moves.values()], axis=0) for i in (0, 1))
    n = int(min(cells.prompts().min() for cells, _ in series.values()))
    if not better[0] + worse[0] > 0:
        return absent(LINK, panel.arm, f"no movement is shown of {', '.join(moves)}")
    parts = tuple(
        make_estimate(name, float(x[0]), x[1:], n, "SD of replies", method=f"{METHOD}, best checkpoint from the other half")
        for name, x in (("moved_for_the_better", better), ("moved_for_the_worse", worse))
    )
    share = quotient(better, better + worse)
    fell = [name for name, m in moves.items() if m[1][0] > 0]
    why = f"For the better {shown(parts[0])}, for the worse {shown(parts[1])} standard deviations of replies, over {len(moves)} series"
    why += f"; worse: {', '.join(fell)}." if fell else "."
    estimate = bounded(LINK, float(share[0]), share[1:], n)
    return Headline(link=LINK, arm=panel.arm, basis=basis, estimate=estimate, parts=parts, over=tuple(moves), why=why)


def _series(panel: Panel, settings: HeadlineSettings, sides: Tracking) -> tuple[Basis | None, dict[str, tuple[Cells, float]]]:
    """What stands for evaluation: name -> (cells, side / spread of replies); only what has values at every checkpoint."""
    bases: tuple[Basis, ...] = ("evaluations", "gold", "labels")
    for basis in bases if settings.basis == "auto" else (b for b in bases if b == settings.basis):
        if basis == "evaluations":
            columns = {n: (panel.column(f"evaluations.{n}"), sides.side(n)) for n in panel.evaluations() if sides.side(n)}
        else:
            columns = {basis: (panel.column("gold") if basis == "gold" else wins_over_first(panel), 1)}
        found = {}
        for name, (values, side) in columns.items():
            spread = 0.0 if values is None else float(np.nanstd(values))
            if values is not None and spread > 0 and ((cells := panel.cells(values)).prompts() >= settings.min_prompts).all():
                found[name] = (cells, side / spread)
        if found:
            return basis, found
    return None, {}


def _moves(cells: Cells, scale: float, proxy: Cells, halves: Sequence[NDArray[np.bool_]], weights: Array) -> tuple[Array, Array]:
    """[1 + R], [1 + R] Movement for the better and for the worse, shrunk for noise: the value first, then the resamples."""
    everyone = np.vstack([np.ones((1, weights.shape[1])), weights])
    up, down = [np.zeros((0, len(everyone)))], [np.zeros((0, len(everyone)))]
    for half, other in (halves, tuple(reversed(halves))):
        level = scale * cells.mean(other)
        curve, reward = scale * cells.resampled(everyone * half), proxy.resampled(everyone * half)
        if np.isnan(level).any() or np.isnan(curve[0]).any():
            continue
        best = int(np.argmax(level))
        up.append((curve[:, best] - curve[:, 0])[None] * (not _fell(reward[1:, best] - reward[1:, 0])))
        down.append((curve[:, best] - curve[:, -1])[None] * (not _fell(reward[1:, -1] - reward[1:, best])))
    return _shrunk(np.concatenate(up)), _shrunk(np.concatenate(down))


def _fell(changes: Array) -> bool:
    """Whether the resampled changes of the proxy lie below 0 but for one in forty."""
    return bool(np.nanquantile(changes, 0.975) < 0)


def _shrunk(moves: Array) -> Array:
    """[1 + R] Mean over both halves [H, 1 + R], shrunk to nothing at two standard errors and hardly at many; never negative."""
    if not len(moves):
        return np.zeros(moves.shape[1])
    mean = np.maximum(moves.mean(axis=0), 0.0)
    error = float(np.nanstd(moves.mean(axis=0)[1:]))
    least = SHOWN_MOVE * error
    return mean if not error > 0 else np.asarray(mean * (1 - (least / np.maximum(mean, least)) ** 2))
