"""The look of every figure, and how a matplotlib figure becomes an SVG that takes colours and fonts from the page.

Colours are written as CSS variables (`COLOURS` holds the light values, the page's style sheet both); hues are Okabe and Ito's (2008),
told apart with every common colour blindness.
"""

from __future__ import annotations

import hashlib
import io
import re
from typing import TYPE_CHECKING, Any

from markupsafe import Markup, escape

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


def style() -> Any:
    """A context in which matplotlib draws as the page does."""
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


def new_figure(width: int, height: int) -> tuple[Figure, Axes]:
    """An empty figure of that size in pixels, with one pair of axes."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI, layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.add_subplot()
    axes.locator_params(axis="y", nbins=6)
    axes.locator_params(axis="x", nbins=6)
    return figure, axes


def to_svg(figure: Figure, alt: str) -> Markup:
    """The figure as an SVG element; ``alt`` is what a reader who cannot see it is told."""
    # laid out once: saving would do it twice, and that is most of a figure's time
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
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
    return Markup(opening + _own_ids(body, alt).strip())  # our own drawing; matplotlib escaped the texts in it


def _own_ids(body: str, alt: str) -> str:
    """Names that are referred to get a prefix of the figure's own, all others go: many figures share one page."""
    prefix = "f" + hashlib.sha256(f"{alt}{body}".encode()).hexdigest()[:8]
    used = set(re.findall(r"#([\w-]+)", body))
    body = re.sub(r' id="([^"]+)"', lambda m: f' id="{prefix}{m[1]}"' if m[1] in used else "", body)
    body = re.sub(r'xlink:href="#([\w-]+)"', rf'href="#{prefix}\1"', body)
    return re.sub(r"url\(#([\w-]+)\)", rf"url(#{prefix}\1)", body)
