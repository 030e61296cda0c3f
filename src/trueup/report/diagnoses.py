"""Diagnoses as cards: one a question, the arms side by side, with the rule that decided and every estimate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from trueup.report.blocks import Absent, Block, Card, Chip, Read, Table
from trueup.report.evidence import evidence
from trueup.report.panels import arm_colours
from trueup.report.text import estimate_text, number, plural, title

Diagnosis = Mapping[str, Any]


Places = Mapping[str, Read]
"""sample_id -> where the reply is shown."""
MOST_READS = 6
"""Replies of an arm that a card leads to."""


def diagnosis_blocks(data: Mapping[str, Any], link: str, places: Places | None = None) -> list[Block]:
    """A card for each question of a link, in the order in which they were asked; comparisons of arms have a card of their own.

    Args:
        data: content of report.json.
        link: which.
        places: of the replies that cards lead to.
    """
    groups = questions(data, link)
    if not groups:
        return [Absent(what="No diagnosis of this link.", why="The records hold no checkpoint of a policy.")]
    colours = arm_colours([a["name"] for a in data["arms"]])
    return [_card(name, group, data, colours, places or {}) for name, group in groups.items()]


def questions(data: Mapping[str, Any], link: str) -> dict[str, list[Diagnosis]]:
    """Name -> its answers, an arm each, in the order in which they were asked."""
    groups: dict[str, list[Diagnosis]] = {}
    for d in data["diagnoses"]:
        if d["link"] == link and d["name"] != "realignment":
            groups.setdefault(d["name"], []).append(d)
    return groups


def anchor(name: str) -> str:
    """Of a diagnosis's card."""
    return f"diagnosis-{name}"


def _card(name: str, group: Sequence[Diagnosis], data: Mapping[str, Any], colours: Mapping[str, str], places: Places) -> Card:
    shared, rest = split_rules([d["rule"] for d in group])
    return Card(
        anchor=anchor(name),
        heading=group[0]["question"],
        name=name,
        text=shared,
        verdicts=[Chip(who=d["arm"], word=d["verdict"], rule=r) for d, r in zip(group, rest, strict=True)],
        figures=evidence(name, group, data, colours),
        tables=[table] if (table := _estimates(group)) else [],
        reads=[places[s] for d in group for s in [s for s in d["samples"] if s in places][:MOST_READS]],
    )


def split_rules(rules: Sequence[str]) -> tuple[str, list[str]]:
    """The sentences with which all rules begin, and the rest of each.

    A rule is its thresholds followed by the numbers it saw; only the numbers differ between arms.
    """
    if len(rules) < 2:
        return "", list(rules)
    length = next((i for i, letters in enumerate(zip(*rules, strict=False)) if len(set(letters)) > 1), min(map(len, rules)))
    end = rules[0].rfind(". ", 0, length)
    return rules[0][: end + 1], [r[end + 1 :].strip() for r in rules]


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
