"""Small figures: lines with bands, labelled at their ends; rows of intervals.

One panel is one SVG of about the width of a telephone, so that a row of panels on a wide screen becomes a column on a narrow one
with nothing shrunk. Every line carries its name, so that no colour needs to be told apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from trueup.report.svg import COLOURS, SERIES, new_figure, style, to_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, kw_only=True)
class Line:
    """One series of a panel; None or NaN where nothing is known."""

    label: str
    x: Sequence[float | None]
    y: Sequence[float | None]
    low: Sequence[float | None] = ()
    high: Sequence[float | None] = ()
    colour: str = "ink"
    """A key of `COLOURS`."""
    dashed: bool = False
    points: bool = True
    line: bool = True


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A vertical line with a word at its top."""

    x: float
    label: str
    colour: str = "muted"


@dataclass(frozen=True, kw_only=True)
class Panel:
    """What one small figure shows."""

    title: str
    alt: str
    """What a reader who cannot see it should be told."""
    xlabel: str
    ylabel: str
    lines: Sequence[Line]
    xlim: tuple[float, float] | None = None
    ylim: tuple[float, float] | None = None
    marks: Sequence[Mark] = ()
    zero: bool = False
    """Draw the line y = 0."""
    diagonal: bool = False
    """Draw the line y = x."""
    width: int = 380
    height: int = 285


def draw(panel: Panel) -> Markup:
    """The panel as an SVG element that takes its colours and fonts from the page."""
    with style():
        figure, axes = new_figure(panel.width, panel.height)
        for line in panel.lines:
            _draw_line(axes, line)
        if panel.zero:
            axes.axhline(0.0, color=COLOURS["muted"], linewidth=0.8, zorder=1)
        if panel.diagonal:
            axes.plot([0, 1], [0, 1], color=COLOURS["muted"], linewidth=0.9, linestyle=(0, (3, 3)), zorder=1)
        _limits(axes, panel)
        for mark in panel.marks:
            _draw_mark(axes, mark)
        axes.set_title(panel.title, loc="left")
        axes.set_xlabel(panel.xlabel)
        axes.set_ylabel(panel.ylabel)
        _label_ends(axes, [line for line in panel.lines if line.label])
        return to_svg(figure, panel.alt)


def draw_intervals(
    rows: Sequence[tuple[str, float | None, float | None, float | None, str]],
    *,
    xlabel: str,
    alt: str,
    zero: float | None = 0.0,
    width: int = 420,
) -> Markup:
    """A forest plot: one row a quantity with its interval.

    Args:
        rows: (label, value, low, high, colour), from top to bottom.
        xlabel: unit of the values.
        alt: what a reader who cannot see it should be told.
        zero: where to draw the line of reference, None for none.
        width: of the SVG, pixels.
    """
    with style():
        figure, axes = new_figure(width, 56 + 30 * len(rows))
        for i, (_, value, low, high, colour) in enumerate(rows):
            if value is None:
                continue
            if low is not None and high is not None:
                axes.plot([low, high], [i, i], color=COLOURS[colour], linewidth=2.4, solid_capstyle="round")
            axes.plot(
                [value], [i], marker="o", color=COLOURS[colour], markersize=7, markeredgecolor=COLOURS["surface"], markeredgewidth=1.2
            )
        if zero is not None:
            axes.axvline(zero, color=COLOURS["muted"], linewidth=0.9, zorder=1)
        axes.set_yticks(range(len(rows)), [r[0] for r in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.grid(visible=False, axis="y")
        axes.grid(visible=True, axis="x")
        axes.set_xlabel(xlabel)
        return to_svg(figure, alt)


def arm_colours(arms: Sequence[str]) -> dict[str, str]:
    """A colour of `COLOURS` for every arm, in the order of the run; past the sixth they repeat."""
    return {arm: SERIES[i % len(SERIES)] for i, arm in enumerate(arms)}


def _numbers(values: Sequence[float | None]) -> NDArray[np.float64]:
    return np.array([np.nan if v is None else float(v) for v in values], dtype=float)


def _draw_line(axes: Axes, line: Line) -> None:
    x, y, colour = _numbers(line.x), _numbers(line.y), COLOURS[line.colour]
    if len(line.low) == len(line.x) and len(line.high) == len(line.x) and len(line.x):
        low, high = _numbers(line.low), _numbers(line.high)
        if line.line:
            axes.fill_between(x, low, high, color=colour, alpha=0.16, linewidth=0, zorder=2)
        else:
            axes.vlines(x, low, high, color=colour, linewidth=1.6, alpha=0.7, zorder=2)
    dashes: Any = (0, (4, 2)) if line.dashed else "solid"
    if line.line:
        axes.plot(x, y, color=colour, linewidth=2.1, linestyle=dashes, zorder=3)
    if line.points:
        axes.plot(
            x,
            y,
            linestyle="none",
            marker="o",
            markersize=4.2,
            color=colour,
            markeredgecolor=COLOURS["surface"],
            markeredgewidth=0.8,
            zorder=4,
        )


def _draw_mark(axes: Axes, mark: Mark) -> None:
    axes.axvline(mark.x, color=COLOURS[mark.colour], linewidth=1.0, linestyle=(0, (2, 2)), zorder=1)
    left, right = axes.get_xlim()
    at_right = (mark.x - left) > 0.7 * (right - left)
    shift, side = (-4, "right") if at_right else (4, "left")
    axes.annotate(
        mark.label,
        (mark.x, 1.0),
        xycoords=("data", "axes fraction"),
        xytext=(shift, -2),
        textcoords="offset points",
        ha=side,
        va="top",
        fontsize=10,
        color=COLOURS[mark.colour],
        zorder=6,
    )


def _limits(axes: Axes, panel: Panel) -> None:
    if panel.xlim is not None:
        axes.set_xlim(*panel.xlim)
    else:
        axes.margins(x=0.03)
    if panel.ylim is not None:
        axes.set_ylim(*panel.ylim)
    else:
        axes.margins(y=0.12)


def _label_ends(axes: Axes, lines: Sequence[Line]) -> None:
    """Write each line's name beside its last point, moved apart where names would touch; no legend."""
    ends = []
    for line in lines:
        x, y = _numbers(line.x), _numbers(line.y)
        known = np.flatnonzero(~np.isnan(x) & ~np.isnan(y))
        if known.size:
            ends.append((float(y[known[-1]]), float(x[known[-1]]), line))
    if not ends:
        return
    bottom, top = axes.get_ylim()
    right = axes.get_xlim()[1]
    gap = (top - bottom) * 0.085
    ends.sort(key=lambda e: e[0])
    places = _spread([e[0] for e in ends], gap, bottom + gap / 2, top - gap / 2)
    for (_, _, line), place in zip(ends, places, strict=True):
        axes.annotate(
            line.label,
            (right, place),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            ha="left",
            fontsize=10.5,
            fontweight="bold",
            color=COLOURS[line.colour],
            annotation_clip=False,
        )


def _spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Places in the same order as ``wanted`` (ascending), at least ``gap`` apart, as near as a forward and a backward pass allow."""
    places = [min(max(w, low), high) for w in wanted]
    for i in range(1, len(places)):
        places[i] = max(places[i], places[i - 1] + gap)
    if places and places[-1] > high:
        places[-1] = high
        for i in range(len(places) - 2, -1, -1):
            places[i] = min(places[i], places[i + 1] - gap)
    return places
