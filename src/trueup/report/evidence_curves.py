"""Figures of diagnoses that are curves along training or rows of intervals: which columns of their series are drawn, and how."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trueup.report.blocks import Figures
from trueup.report.panels import Line, Panel, draw, draw_intervals
from trueup.report.text import title

Diagnosis = Mapping[str, Any]
BY_KL = "KL to the reference (nats)"
MOST_PANELS = 12
MOST_ROWS = 16


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One panel, or one an arm where several columns share it."""

    title: str
    unit: str
    columns: tuple[tuple[str, str, str], ...]
    """(column, label, colour); a single column is drawn in the colours of the arms, all arms in one panel."""
    x: str = "step"
    xlabel: str = "policy updates"
    zero: bool = False


def _one(column: str, heading: str, unit: str, *, zero: bool = False) -> Curve:
    return Curve(title=heading, unit=unit, columns=((column, "", ""),), zero=zero)


CURVES: Mapping[str, tuple[Curve, ...]] = {
    "tail_mismatch": (
        Curve(
            title="Best of n by proxy", unit="gain of gold (score)", columns=(("gain", "came", "gold"), ("promised", "promised", "muted"))
        ),
    ),
    "coverage": (
        _one("covered", "Replies like the preference set", "share"),
        _one("similarity", "Nearest neighbour", "mean cosine"),
        _one("effective_share", "Effective sample size", "share of replies"),
    ),
    "signal": (
        _one("spread", "Spread of the proxy within prompts", "score"),
        _one("flat_share", "Prompts without spread", "share"),
        _one("doubt", "Disagreement of members", "relative to the spread"),
        _one("outlier_share", "Scores unlike the reference's", "share"),
    ),
    "predicted_regret": (
        Curve(
            title="Gain of gold",
            unit="score",
            columns=(("realised", "realised", "gold"), ("predicted", "predicted", "muted")),
            x="kl_nats",
            xlabel=BY_KL,
            zero=True,
        ),
    ),
    "goodhart": (_one("slope_rescaled", "Slope of gold on proxy", "1 at the first checkpoint", zero=True),),
    "shift_by_kl": (
        Curve(title="Accuracy by KL", unit="share ordered rightly", columns=(("accuracy", "", ""),), x="kl_nats", xlabel=BY_KL),
        Curve(title="R² by KL", unit="of gold on proxy", columns=(("r2", "", ""),), x="kl_nats", xlabel=BY_KL),
        Curve(
            title="Overconfidence by KL",
            unit="claimed less came true",
            columns=(("overconfidence", "", ""),),
            x="kl_nats",
            xlabel=BY_KL,
            zero=True,
        ),
    ),
    "implicit_reward": (
        Curve(
            title="Pairs that the log-ratio orders",
            unit="share",
            columns=(("with_proxy", "as the proxy", "proxy"), ("with_truth", "as the truth", "gold"), ("held_out", "held-out", "muted")),
        ),
    ),
    "refusal_balance": (
        Curve(
            title="Refusals",
            unit="share",
            columns=(("over_refusal", "over-refusal", "first"), ("compliance", "compliance", "third"), ("mean_error", "mean error", "ink")),
        ),
    ),
    "diversity": (
        _one("unlikeness_within", "Unlikeness to one prompt", "1 − mean cosine"),
        _one("unlikeness_across", "Unlikeness across prompts", "1 − mean cosine"),
        _one("distinct_within", "Distinct phrases", "share"),
        _one("ead_within", "Distinct phrases, length apart", "EAD"),
    ),
    "next_token_loss": (_one("loss", "Loss on demonstrations", "nats a token"), _one("gold", "Gold", "score")),
}
"""What is drawn of the diagnoses with columns of fixed names."""
ROWS: Mapping[str, tuple[str, str, tuple[tuple[str, str], ...]]] = {
    "exploits": ("what", "worth of one more (score)", (("proxy", "proxy"), ("gold", "gold"))),
    "style": ("feature", "worth of one more (standard deviations)", (("pays", "proxy"), ("worth", "gold"))),
}
"""Diagnoses whose series has an entry a thing: (name column, unit, (column, colour))."""


def drawn(name: str, group: Sequence[Diagnosis], colours: Mapping[str, str]) -> Figures | None:
    """The figures of a diagnosis: those listed above, else a panel for every column with an interval along its checkpoints.

    Args:
        name: of the diagnosis.
        group: its answers, one an arm.
        colours: colour key of each arm.
    """
    if name in ROWS:
        return _rows(group, *ROWS[name])
    if name == "ceiling_use":
        return _ceiling(group)
    panels = []
    for curve in (CURVES[name] if name in CURVES else _found(group))[:MOST_PANELS]:
        panels += _together(curve, group, colours) if len(curve.columns) == 1 else _apart(curve, group)
    caption = "Bands are 95 % intervals over prompts." if panels else ""
    return Figures(panels=[draw(p) for p in panels], caption=caption) if panels else None


def _found(group: Sequence[Diagnosis]) -> list[Curve]:
    """Columns of any name that have an interval."""
    names = dict.fromkeys(k for d in group for k in d["series"] if f"{k}_low" in d["series"])
    return [_one(n, title(n), "") for n in names]


def _together(curve: Curve, group: Sequence[Diagnosis], colours: Mapping[str, str]) -> list[Panel]:
    column = curve.columns[0][0]
    lines = [line for d in group if (line := _line(d["series"], curve.x, column, str(d["arm"]), colours.get(d["arm"], "ink"))) is not None]
    return [_panel(curve, curve.title, lines)] if lines else []


def _apart(curve: Curve, group: Sequence[Diagnosis]) -> list[Panel]:
    panels = []
    for d in group:
        lines = [line for c, label, colour in curve.columns if (line := _line(d["series"], curve.x, c, label, colour)) is not None]
        if lines:
            panels.append(_panel(curve, f"{curve.title}: {d['arm']}" if len(group) > 1 else curve.title, lines))
    return panels


def _panel(curve: Curve, heading: str, lines: Sequence[Line]) -> Panel:
    alt = f"{heading}, by {curve.xlabel}: " + ", ".join(line.label for line in lines if line.label)
    return Panel(title=heading, alt=alt, xlabel=curve.xlabel, ylabel=curve.unit, lines=lines, zero=curve.zero)


def _line(series: Mapping[str, Sequence[Any]], x: str, column: str, label: str, colour: str) -> Line | None:
    """None where there are no two points to join."""
    places, values = list(series.get(x) or ()), list(series.get(column) or ())
    if len(places) != len(values) or sum(_known(a) and _known(b) for a, b in zip(places, values, strict=True)) < 2:
        return None
    low, high = (list(series.get(f"{column}_{end}") or ()) for end in ("low", "high"))
    return Line(label=label, x=places, y=values, low=low, high=high, colour=colour)


def _rows(group: Sequence[Diagnosis], names: str, unit: str, columns: Sequence[tuple[str, str]]) -> Figures | None:
    """A forest an arm: what each thing is worth to the proxy and to gold."""
    panels = []
    for d in group:
        series = d["series"]
        rows = [
            (f"{what}, {colour}", *(_at(series, column + end, i) for end in ("", "_low", "_high")), colour)
            for i, what in enumerate((series.get(names) or ())[: MOST_ROWS // len(columns)])
            for column, colour in columns
        ]
        rows = [r for r in rows if r[1] is not None]
        if rows:
            alt = f"Arm {d['arm']}: " + "; ".join(f"{label} {value:.2g}" for label, value, *_ in rows)
            panels.append(draw_intervals(rows, xlabel=f"{d['arm']}: {unit}", alt=alt, width=560))  # type: ignore[arg-type]
    return Figures(panels=panels, caption="Bars are intervals at the diagnosis's own level.") if panels else None


def _at(series: Mapping[str, Sequence[Any]], column: str, i: int) -> float | None:
    values = series.get(column) or ()
    return float(values[i]) if i < len(values) and _known(values[i]) else None


_CEILING = (("accuracy", "accuracy", "proxy"), ("ceiling_low", "ceiling, low", "muted"), ("ceiling_high", "ceiling, high", "muted"))


def _ceiling(group: Sequence[Diagnosis]) -> Figures | None:
    rows = [
        (f"{d['arm']}: {label}", *(_at(d["series"], column + end, 0) for end in ("", "_low", "_high")), colour)
        for d in group
        for column, label, colour in _CEILING
    ]
    rows = [r for r in rows if r[1] is not None]
    if not rows:
        return None
    alt = "; ".join(f"{label} {value:.3g}" for label, value, *_ in rows)
    return Figures(panels=[draw_intervals(rows, xlabel="share of held-out votes", alt=alt, zero=0.5)], wide=True)  # type: ignore[arg-type]


def _known(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
