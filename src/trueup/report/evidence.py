"""Figures of single diagnoses, from their series; a diagnosis without one is shown as verdict, rule and table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from trueup.report.blocks import Figures
from trueup.report.evidence_curves import drawn
from trueup.report.panels import Line, Panel, draw
from trueup.report.reliability import reliability_figures

Diagnosis = Mapping[str, Any]
Colours = Mapping[str, str]


def evidence(name: str, group: Sequence[Diagnosis], data: Mapping[str, Any], colours: Colours) -> list[Figures]:
    """The figures of a question.

    Args:
        name: of the diagnosis.
        group: its answers, one an arm.
        data: content of report.json.
        colours: colour key of each arm.
    """
    if name == "over_optimisation":
        found = [_over_optimisation(group)]
    elif name == "distribution_shift":
        found = [_distribution_shift(group, colours)]
    elif name == "calibration":
        found = [reliability_figures([(a["name"], a["reliability"], colours[a["name"]]) for a in data["arms"] if a["reliability"]])]
    elif name == "length":
        found = [_length(group, colours)]
    else:
        found = [drawn(name, group, colours)]
    return [f for f in found if f is not None]


def _over_optimisation(group: Sequence[Diagnosis]) -> Figures | None:
    """Gold against the square root of the KL with the fitted laws of Gao, Schulman and Hilton (2022)."""
    panels = []
    for d in group:
        x, gold = _column(d, "sqrt_kl"), _column(d, "gold")
        if not _curve(x) or not _curve(gold):
            continue
        lines = [Line(label="gold", x=x, y=gold, low=_column(d, "gold_low"), high=_column(d, "gold_high"), colour="gold", line=False)]
        for law, label in (("gold_fit_rl", "RL law"), ("gold_fit_bon", "BoN law")):
            if _known(_column(d, law)):
                lines.append(
                    Line(
                        label=label,
                        x=x,
                        y=_column(d, law),
                        colour="ink" if law.endswith("rl") else "muted",
                        points=False,
                        dashed=law.endswith("bon"),
                    )
                )
        alt = f"Gold of arm {d['arm']} against the square root of the KL, with the fitted laws."
        panels.append(draw(Panel(title=d["arm"], alt=alt, xlabel="√KL (√nats)", ylabel="gold (score)", lines=lines)))
    caption = (
        "Gold by distance d = √KL to the reference; bars are 95 % intervals. "
        "Fitted laws of Gao, Schulman and Hilton (2022): RL d(α − β log d), best-of-n (BoN) d(α − βd)."
    )
    return Figures(panels=panels, caption=caption) if panels else None


def _distribution_shift(group: Sequence[Diagnosis], colours: Colours) -> Figures | None:
    """Accuracy on the policy's pairs by step, with that on the reward model's own held-out pairs."""
    panels = []
    for d in group:
        steps, lines = _column(d, "step"), []
        for kind, label, colour in (("fixed", "first RM", "proxy"), ("current", "RM in force", colours[d["arm"]])):
            values = _column(d, f"accuracy_{kind}")
            if not _curve(values) or (kind == "current" and values == _column(d, "accuracy_fixed")):
                continue
            low, high = _column(d, f"accuracy_{kind}_low"), _column(d, f"accuracy_{kind}_high")
            lines.append(Line(label=label, x=steps, y=values, low=low, high=high, colour=colour))
            own = _column(d, f"offline_{kind}")
            if _known(own):
                lines.append(Line(label="" if kind == "current" else "own pairs", x=steps, y=own, colour=colour, dashed=True, points=False))
        if lines:
            alt = f"Arm {d['arm']}: share of the policy's pairs that the reward model orders rightly, by policy update."
            panels.append(draw(Panel(title=d["arm"], alt=alt, xlabel="policy updates", ylabel="share ordered rightly", lines=lines)))
    caption = "Solid: pairs of the policy's own replies; dashed: the same reward model on its held-out offline pairs. One half is chance."
    return Figures(panels=panels, caption=caption) if panels else None


def _length(group: Sequence[Diagnosis], colours: Colours) -> Figures | None:
    """Reply length, and the within-prompt correlation of score and length, by step, all arms in one panel each."""
    panels = []
    for column, title, unit in (("length", "Reply length", "tokens"), ("correlation", "Correlation of score and length", "within prompts")):
        lines = [
            Line(
                label=d["arm"],
                x=_column(d, "step"),
                y=_column(d, column),
                low=_column(d, f"{column}_low"),
                high=_column(d, f"{column}_high"),
                colour=colours[d["arm"]],
            )
            for d in group
            if _curve(_column(d, column))
        ]
        if lines:
            alt = f"{title} by policy update, one line an arm."
            panels.append(
                draw(Panel(title=title, alt=alt, xlabel="policy updates", ylabel=unit, lines=lines, zero=column == "correlation"))
            )
    return Figures(panels=panels) if panels else None


def _column(d: Diagnosis, name: str) -> list[float | None]:
    values: list[float | None] = d["series"].get(name) or []
    return values


def _known(values: Sequence[float | None]) -> bool:
    return any(v is not None and math.isfinite(v) for v in values)


def _curve(values: Sequence[float | None]) -> bool:
    """Whether there are two points to join."""
    return sum(v is not None and math.isfinite(v) for v in values) > 1
