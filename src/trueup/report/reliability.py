"""Reliability diagrams: how often the reply with the higher score wins, by how sure the score is, offline and on the policy's pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from trueup.mismatch.pairs import Pairs, Truth, common_truth, disjoint, offline_pairs, policy_pairs, scorer_of
from trueup.mismatch.panel import panel_of
from trueup.report.blocks import Figures
from trueup.report.panels import Line, Panel, draw
from trueup.stats.bootstrap import Array
from trueup.stats.calibration import reliability

BINS = 8
MIN_PAIRS = 50
"""A diagram of fewer pairs shows noise."""


def reliability_table(records: pd.DataFrame, arm: str) -> dict[str, Any] | None:
    """Diagrams of the run's first reward model on the offline held-out pairs and on the pairs of the arm's first and last checkpoints.

    Forecasts are sigma(score difference) on the model's own scale, each pair in both orders, in bins of equal mass; ties of gold are
    left out. None where no kind of pair has a known truth, or the policy has none at all.

    Args:
        records: flat frame of sample records, offline rows included.
        arm: name of the arm.
    """
    panel, offline = panel_of(records, arm), offline_pairs(records)
    policy = policy_pairs(panel) if panel else None
    if panel is None or offline is None or policy is None:
        return None
    truth = common_truth(offline, policy, "auto")
    scorer = scorer_of(panel, "proxy_fixed", len(panel.steps) - 1, offline)
    column = scorer.column if scorer else "proxy_fixed"
    own, now = offline.column(column), panel.column(column)
    if truth is None or own is None or now is None:
        return None
    known = disjoint(policy.take(np.isfinite(policy.outcome(truth))))
    first, last = (known.take(panel.step[known.first] == s) for s in (0, len(panel.steps) - 1))
    kinds = {"offline": _diagram(offline, own, truth), "first": _diagram(first, now, truth), "last": _diagram(last, now, truth)}
    if kinds["last"] is None or kinds["offline"] is None:
        return None
    return {"column": column, "truth": truth, "first_step": int(panel.steps[0]), "last_step": int(panel.steps[-1]), **kinds}


def reliability_figures(tables: Sequence[tuple[str, Mapping[str, Any], str]]) -> Figures | None:
    """One diagram an arm: offline pairs and the last checkpoint's.

    Args:
        tables: (arm, its `reliability_table`, key of its colour).
    """
    drawn = []
    for arm, table, colour in tables:
        lines = [_line("offline", table["offline"], "ink"), _line(f"step {table['last_step']}", table["last"], colour)]
        panel = Panel(
            title=arm,
            alt=f"Arm {arm}: observed share of wins against forecast, offline and at the last checkpoint.",
            xlabel="forecast: σ(score difference)",
            ylabel="observed share of wins",
            lines=lines,
            xlim=(0.0, 1.0),
            ylim=(0.0, 1.0),
            diagonal=True,
        )
        drawn.append(draw(panel))
    caption = (
        "The first reward model's forecasts, each pair in both orders, in eight bins of equal mass; dashed: perfect calibration. "
        "Flatter than the diagonal is over-confident; below one half on the right, the higher score loses."
    )
    return Figures(panels=drawn, caption=caption) if drawn else None


def _diagram(pairs: Pairs, scores: Array, truth: Truth) -> dict[str, Any] | None:
    outcome = pairs.preference if truth == "labels" else pairs.outcome("gold")
    delta = pairs.difference(scores)
    kept = np.isfinite(outcome) & np.isfinite(delta)
    if kept.sum() < MIN_PAIRS:
        return None
    table = reliability(delta[kept], outcome[kept], BINS, "mass")
    return {
        "pairs": int(kept.sum()),
        "confidence": table.confidence.tolist(),
        "frequency": table.frequency.tolist(),
        "count": table.count.astype(int).tolist(),
    }


def _line(label: str, table: Mapping[str, Any], colour: str) -> Line:
    return Line(label=label, x=table["confidence"], y=table["frequency"], colour=colour)
