"""The card that compares arms: realigned against random refit and static."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from trueup.report.blocks import Absent, Block, Card, Chip, Figures, Table
from trueup.report.panels import Line, Panel, arm_colours, draw, draw_intervals
from trueup.report.text import estimate_text, number, signed, title

HEADING = "Did realigning the reward model help, beyond refitting it on as much random data?"


def comparison_block(data: Mapping[str, Any]) -> Block:
    """Differences in gold between arms, paired by prompt; what is missing where there are no two such arms."""
    contrasts = data["comparison"]["contrasts"]
    if not contrasts:
        present = ", ".join(f"{a['name']} ({a['role']})" for a in data["arms"])
        return Absent(
            what="No realignment to compare.",
            why=f"That needs a realigned arm with a random refit or a static arm beside it; this run has {present}.",
        )
    colours = arm_colours([a["name"] for a in data["arms"]])
    rows = [[_pair(c), title(e["name"]), e["unit"], estimate_text(e), number(e["n"])] for c in contrasts for e in c["estimates"]]
    return Card(
        anchor="comparison",
        heading=HEADING,
        name="realignment",
        verdicts=[Chip(who=_pair(c), word=c["verdict"], rule=c["rule"]) for c in contrasts],
        figures=[
            f for f in (_forest(contrasts, data["comparison"]["decided_by"], colours), _curves(data, contrasts, colours)) if f is not None
        ],
        tables=[Table(columns=["Arms", "Quantity", "Unit", "Difference", "Prompts"], rows=rows, words=(1, 2), folded="All differences")]
        if rows
        else [],
    )


def _pair(contrast: Mapping[str, Any]) -> str:
    return f"{contrast['arm']} − {contrast['against']}"


def _forest(contrasts: Sequence[Mapping[str, Any]], decided_by: str, colours: Mapping[str, str]) -> Figures | None:
    rows = [
        (_pair(c), e["value"], e["low"], e["high"], colours[c["arm"]])
        for c in contrasts
        for e in c["estimates"]
        if e["name"] == decided_by and e["value"] is not None
    ]
    if not rows:
        return None
    name = title(decided_by).lower()
    alt = f"Differences, {name}: " + "; ".join(f"{label} {signed(value)}" for label, value, *_ in rows)
    return Figures(panels=[draw_intervals(rows, xlabel=f"difference, {name} (score)", alt=alt)], wide=True)


def _curves(data: Mapping[str, Any], contrasts: Sequence[Mapping[str, Any]], colours: Mapping[str, str]) -> Figures | None:
    """The difference by checkpoint, a panel a pair, all on one scale."""
    answers = [d for d in data["diagnoses"] if d["name"] == "realignment"]
    kept = [(c, d["series"]) for c, d in zip(contrasts, answers, strict=True) if len(d["series"].get("step", ())) > 1]
    values = [v for _, s in kept for k in ("difference_low", "difference_high", "difference") for v in s[k] if v is not None]
    if not values:
        return None
    low, high = min(*values, 0.0), max(*values, 0.0)
    pad = 0.06 * ((high - low) or 1.0)
    panels = []
    for c, series in kept:
        line = Line(
            label="",
            x=series["step"],
            y=series["difference"],
            low=series["difference_low"],
            high=series["difference_high"],
            colour=colours[c["arm"]],
        )
        alt = f"Gold of {_pair(c)} by policy update."
        panel = Panel(
            title=_pair(c),
            alt=alt,
            xlabel="policy updates",
            ylabel="difference in gold",
            lines=[line],
            zero=True,
            ylim=(low - pad, high + pad),
        )
        panels.append(draw(panel))
    return Figures(
        panels=panels, caption="Difference in gold at each shared checkpoint, paired by prompt; bands are 95 % intervals over prompts."
    )
