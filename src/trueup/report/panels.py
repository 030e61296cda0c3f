"""Small figures as inline SVG: lines with bands, labelled at their ends; bars with intervals.

One panel is one SVG of about the width of a telephone, so that a row of panels on a wide screen becomes a column on a narrow one
with nothing shrunk. Colours are written as CSS variables (`COLOURS` holds the light values, the page's style sheet both); hues are
Okabe and Ito's (2008), told apart with every common colour blindness, and every line also carries its name.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup, escape
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = {
    "ink": "#1c2127",
    "muted": "#5d6771",
    "grid": "#e4e7ea",
    "surface": "#fffffe",
    "proxy": "#0072b2",
    "gold": "#b47300",
    "first": "#d55e00",
    "second": "#6b7280",
    "third": "#00875f",
    "fourth": "#b0508a",
    "fifth": "#3f8fc4",
    "sixth": "#7a6a00",
}
SERIES = ("first", "second", "third", "fourth", "fifth", "sixth")
_DPI = 72


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
    bars: Sequence[Line] = field(default=())
    """Faint bars behind the lines (counts), scaled to a fifth of the height; their axis is not drawn."""


def draw(panel: Panel) -> Markup:
    """The panel as an SVG element that takes its colours and fonts from the page."""
    with _style():
        figure, axes = _figure(panel.width, panel.height)
        for bars in panel.bars:
            _draw_bars(axes, bars)
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
        return _svg(figure, panel.alt)


def draw_intervals(rows: Sequence[tuple[str, float | None, float | None, float | None, str]], *, xlabel: str, alt: str, zero: float | None = 0.0, width: int = 560) -> Markup:
    """A forest plot: one row a quantity with its interval.

    Args:
        rows: (label, value, low, high, colour), from top to bottom.
        xlabel: unit of the values.
        alt: what a reader who cannot see it should be told.
        zero: where to draw the line of reference, None for none.
        width: of the SVG, pixels.
    """
    with _style():
        figure, axes = _figure(width, 56 + 30 * len(rows))
        for i, (_, value, low, high, colour) in enumerate(rows):
            if value is None:
                continue
            if low is not None and high is not None:
                axes.plot([low, high], [i, i], color=COLOURS[colour], linewidth=2.4, solid_capstyle="round")
            axes.plot([value], [i], marker="o", color=COLOURS[colour], markersize=7, markeredgecolor=COLOURS["surface"], markeredgewidth=1.2)
        if zero is not None:
            axes.axvline(zero, color=COLOURS["muted"], linewidth=0.9, zorder=1)
        axes.set_yticks(range(len(rows)), [r[0] for r in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.grid(visible=False, axis="y")
        axes.grid(visible=True, axis="x")
        axes.set_xlabel(xlabel)
        return _svg(figure, alt)


def arm_colours(arms: Sequence[str]) -> dict[str, str]:
    """A colour of `COLOURS` for every arm, in the order of the run; past the sixth they repeat."""
    return {arm: SERIES[i % len(SERIES)] for i, arm in enumerate(arms)}


def _style() -> Any:
    import matplotlib

    return matplotlib.rc_context(
        {
            "svg.fonttype": "none",
            "svg.hashsalt": "trueup",
            "font.size": 11,
            "font.family": "sans-serif",
            "axes.titlesize": 12.5,
            "axes.titleweight": "bold",
            "axes.titlepad": 10,
            "axes.titlecolor": COLOURS["ink"],
            "axes.labelcolor": COLOURS["muted"],
            "axes.labelsize": 11,
            "axes.edgecolor": COLOURS["muted"],
            "axes.linewidth": 0.8,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "axes.grid.axis": "y",
            "axes.axisbelow": True,
            "axes.facecolor": "none",
            "axes.unicode_minus": True,
            "axes.formatter.useoffset": False,
            "grid.color": COLOURS["grid"],
            "grid.linewidth": 0.8,
            "xtick.color": COLOURS["muted"],
            "ytick.color": COLOURS["muted"],
            "xtick.labelsize": 10.5,
            "ytick.labelsize": 10.5,
            "ytick.major.size": 0,
            "xtick.major.size": 3,
            "figure.facecolor": "none",
            "savefig.facecolor": "none",
        }
    )


def _figure(width: int, height: int) -> tuple[Figure, Axes]:
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI, layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.add_subplot()
    axes.locator_params(axis="y", nbins=6)
    axes.locator_params(axis="x", nbins=6)
    return figure, axes


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
    style: Any = (0, (4, 2)) if line.dashed else "solid"
    if line.line:
        axes.plot(x, y, color=colour, linewidth=2.1, linestyle=style, zorder=3)
    if line.points:
        axes.plot(x, y, linestyle="none", marker="o", markersize=4.2, color=colour, markeredgecolor=COLOURS["surface"], markeredgewidth=0.8, zorder=4)


def _draw_bars(axes: Axes, bars: Line) -> None:
    x, y = _numbers(bars.x), _numbers(bars.y)
    if not len(x) or not np.nanmax(y) > 0:
        return
    width = 0.8 * float(np.min(np.diff(x))) if len(x) > 1 else 0.08
    axes.bar(x, 0.2 * y / np.nanmax(y), width=width, color=COLOURS["grid"], zorder=0)


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


def _svg(figure: Figure, alt: str) -> Markup:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    head, body = text.split(">", 1)
    box = re.search(r'viewBox="[^"]*"', head)
    size = re.search(r'width="([\d.]+)pt"', head)
    if box is None or size is None:
        raise ValueError("matplotlib wrote an SVG without a view box")
    body = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", body, flags=re.DOTALL)
    body = re.sub(r"font-family: [^;\"]*", "font-family: var(--sans)", body)
    for name, colour in COLOURS.items():
        body = body.replace(colour, f"var(--{name})")
    opening = f'<svg role="img" aria-label="{escape(alt)}" {box.group(0)} style="max-width:{float(size.group(1)):.0f}px">'
    return Markup(opening + _own_ids(body).strip())  # noqa: S704 -- our own drawing; texts in it were escaped by matplotlib


def _own_ids(body: str) -> str:
    """Names that are referred to get a prefix of the figure's own, all others go: many figures share one page."""
    prefix = "f" + hashlib.sha256(body.encode()).hexdigest()[:8]
    used = set(re.findall(r"#([\w-]+)", body))
    body = re.sub(r' id="([\w-]+)"', lambda m: f' id="{prefix}{m[1]}"' if m[1] in used else "", body)
    body = re.sub(r'xlink:href="#([\w-]+)"', rf'href="#{prefix}\1"', body)
    return re.sub(r"url\(#([\w-]+)\)", rf"url(#{prefix}\1)", body)
