"""Diagnoses as cards: one a question, the arms side by side, with the rule that decided and every estimate."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from trueup.report.blocks import Absent, Block, Card, Chip, Figures, Table
from trueup.report.panels import Line, Panel, arm_colours, draw
from trueup.report.text import estimate_text, number, plural, title

Diagnosis = Mapping[str, Any]
Draw = Callable[[Sequence[Diagnosis], Mapping[str, str]], Figures | None]


def diagnosis_blocks(data: Mapping[str, Any], link: str) -> list[Block]:
    """A card for each question of a link, in the order in which they were asked."""
    groups: dict[str, list[Diagnosis]] = {}
    for d in data["diagnoses"]:
        if d["link"] == link:
            groups.setdefault(d["name"], []).append(d)
    if not groups:
        return [Absent(what="No diagnosis of this link.", why="The records hold no checkpoint of a policy.")]
    colours = arm_colours([a["name"] for a in data["arms"]])
    return [_card(name, group, colours) for name, group in groups.items()]


def _card(name: str, group: Sequence[Diagnosis], colours: Mapping[str, str]) -> Card:
    shared, rest = split_rules([d["rule"] for d in group])
    figure = FIGURES.get(name, _no_figure)(group, colours)
    return Card(
        anchor=f"diagnosis-{name}",
        heading=group[0]["question"],
        name=name,
        text=shared,
        verdicts=[Chip(who=d["arm"], word=d["verdict"], rule=r) for d, r in zip(group, rest, strict=True)],
        figures=[figure] if figure else [],
        tables=[table] if (table := _estimates(group)) else [],
    )


def split_rules(rules: Sequence[str]) -> tuple[str, list[str]]:
    """What the arms' rules have in common, up to the end of a sentence, and the rest of each.

    A rule is its thresholds followed by the numbers it saw; only the numbers differ between arms.
    """
    if len(rules) < 2:
        return "", list(rules)
    length = next((i for i, letters in enumerate(zip(*rules, strict=False)) if len(set(letters)) > 1), min(map(len, rules)))
    cut = max((rules[0].rfind(end, 0, length) + len(end) for end in (". ", ": ") if rules[0].rfind(end, 0, length) >= 0), default=0)
    return rules[0][:cut].strip().rstrip(":"), [r[cut:] for r in rules]


def _estimates(group: Sequence[Diagnosis]) -> Table | None:
    """All estimates, a row each, with value and interval of every arm side by side; n may differ and is shown with each."""
    names = list(dict.fromkeys(e["name"] for d in group for e in d["estimates"]))
    if not names:
        return None
    rows = []
    for name in names:
        found = [next((e for e in d["estimates"] if e["name"] == name), None) for d in group]
        unit = next((str(e["unit"]) for e in found if e and e["unit"]), "")
        cells = [cell for e in found for cell in (estimate_text(e), number(e["n"]) if e else "–")]
        rows.append([title(name), unit, *cells])
    columns = ["Estimate", "Unit", *(c for d in group for c in (d["arm"], "n"))]
    return Table(columns=columns, rows=rows, words=(1,), folded=f"{plural(len(names), 'estimate')} with 95 % intervals")


def _no_figure(group: Sequence[Diagnosis], colours: Mapping[str, str]) -> Figures | None:
    return None


def _column(d: Diagnosis, name: str) -> list[float | None]:
    values: list[float | None] = d["series"].get(name) or []
    return values


def _over_optimisation(group: Sequence[Diagnosis], colours: Mapping[str, str]) -> Figures | None:
    """Gold against the square root of the KL with the fitted laws of Gao, Schulman and Hilton (2022)."""
    kept = [d for d in group if _known(_column(d, "sqrt_kl")) and _known(_column(d, "gold"))]
    panels = []
    for d in kept:
        x, gold = _column(d, "sqrt_kl"), _column(d, "gold")
        lines = [Line(label="gold", x=x, y=gold, low=_column(d, "gold_low"), high=_column(d, "gold_high"), colour="gold", line=False)]
        for law, label in (("gold_fit_rl", "RL law"), ("gold_fit_bon", "BoN law")):
            if _known(_column(d, law)):
                lines.append(Line(label=label, x=x, y=_column(d, law), colour="ink" if law.endswith("rl") else "muted", points=False, dashed=law.endswith("bon")))
        alt = f"Gold of arm {d['arm']} against the square root of the KL, with the fitted laws."
        panels.append(draw(Panel(title=d["arm"], alt=alt, xlabel="√KL (√nats)", ylabel="gold (score)", lines=lines)))
    caption = "Gold by distance from the first policy; bars are 95 % intervals. Fitted laws of Gao, Schulman and Hilton (2022): RL d(α − β log d), best-of-n d(α − βd)."
    return Figures(panels=panels, caption=caption) if panels else None


def _known(values: Sequence[float | None]) -> bool:
    return any(v is not None and math.isfinite(v) for v in values)


FIGURES: dict[str, Draw] = {"over_optimisation": _over_optimisation}
"""Figures of single diagnoses; a diagnosis without one is shown as verdict, rule and table."""
