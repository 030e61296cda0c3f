"""Figures of the RM card: what each question's columns look like, one panel a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from trueup.mismatch.diagnosis import Diagnosis
from trueup.report.blocks import Figures
from trueup.report.panels import Line, Panel, draw

AT_MOST = 6
"""Models that get a panel; of more, tables say enough."""


def card_figures(question: str, of: Sequence[Diagnosis]) -> list[Figures]:
    """The figure of a question, where it has one and any model has its columns.

    Args:
        question: name of the question.
        of: its diagnosis of each model.
    """
    made = FIGURES.get(question)
    shown = [d for d in of if d.series][:AT_MOST]
    if made is None or not shown:
        return []
    panel, caption = made
    return [Figures(panels=[draw(panel(d)) for d in shown], caption=caption)]


KINDS = (("as it is", "ink", False), ("after temperature", "first", True), ("kept map", "second", False))
"""Lines of a reliability diagram with their colour, and whether they are dashed."""


def _reliability(found: Diagnosis) -> Panel:
    lines = []
    for label, colour, dashed in KINDS:
        rows = [i for i, name in enumerate(found.series["scores"]) if name == label]
        x, y = ([found.series[column][i] for i in rows] for column in ("forecast", "observed"))
        if rows:
            lines.append(Line(label=label, x=x, y=y, colour=colour, dashed=dashed))
    return Panel(
        title=found.arm,
        alt=f"{found.arm}: share of wins observed against forecast: {', '.join(line.label for line in lines)}.",
        xlabel="forecast: σ(score difference)",
        ylabel="observed share of wins",
        lines=lines,
        xlim=(0.0, 1.0),
        ylim=(0.0, 1.0),
        diagonal=True,
    )


def _regret(found: Diagnosis) -> Panel:
    s = found.series
    return Panel(
        title=found.arm,
        alt=f"{found.arm}: gain of gold against KL of the tilted reference, beside that of gold itself.",
        xlabel="KL of the tilt, nats",
        ylabel="gain of gold, sd",
        lines=[
            Line(label="this model", x=s["kl_nats"], y=s["gain"], low=s["gain_low"], high=s["gain_high"], colour="first"),
            Line(label="gold itself", x=s["kl_nats"], y=s["oracle_gain"], colour="ink", dashed=True),
        ],
        zero=True,
    )


def _learning_curve(found: Diagnosis) -> Panel:
    s = found.series
    return Panel(
        title=found.arm,
        alt=f"{found.arm}: held-out accuracy against the number of labels.",
        xlabel="labels",
        ylabel="held-out accuracy",
        lines=[Line(label="", x=s["labels"], y=s["accuracy"], low=s["accuracy_low"], high=s["accuracy_high"], colour="first")],
    )


FIGURES: Mapping[str, tuple[Callable[[Diagnosis], Panel], str]] = {
    "certainty": (
        _reliability,
        "Each pair in both orders, in bins of equal mass; the thin line is perfect calibration. Flatter than it is over-confident.",
    ),
    "regret": (
        _regret,
        "Gold of reference samples weighted by softmax(score / beta), over their mean; beta falls from left to right.",
    ),
    "labels": (_learning_curve, "The model fitted again to growing parts of its labels; bands are 95 % intervals over prompts."),
}
"""Question -> how a model's columns are drawn, and the caption."""
