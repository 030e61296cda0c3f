"""The numbers of the three links as blocks, and side by side for several runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from trueup.report.blocks import Block, Card, Figures, Meter, Numbers, Table
from trueup.report.panels import draw_intervals
from trueup.report.text import between, estimate_text, number

Data = Mapping[str, Any]
PLACES = {
    "reward_policy": ("reward-policy.html", "Reward model ↔ policy"),
    "reward_evaluation": ("reward-evaluation.html", "Reward model ↔ evaluation"),
    "policy_evaluation": ("policy-evaluation.html", "Policy ↔ evaluation"),
}
"""Link -> its page and title."""
ASKS = {
    "reward_policy": "Of the gain that the proxy's rise promised, what share came?",
    "reward_evaluation": "How much of what tells good replies from bad ones does the proxy know?",
    "policy_evaluation": "As the proxy rose, what share of the evaluations' movement was for the better?",
}


def number_blocks(data: Data, link: str | None = None) -> list[Numbers]:
    """A block a link, a line an arm.

    Args:
        data: content of report.json.
        link: only that one; all three if None.
    """
    found = []
    for i, (name, (file, title)) in enumerate(PLACES.items()):
        of = [(arm["name"], data["headlines"][arm["name"]][i]) for arm in data["arms"]]
        if not of or link not in (None, name):
            continue
        key = of[0][1]["name"]
        found.append(
            Numbers(anchor=f"number-{key}", title=title, href=file, name=key, ask=ASKS[name], meters=[_meter(arm, h) for arm, h in of])
        )
    return found


def _meter(arm: str, h: Data) -> Meter:
    e = h["estimate"]
    text = "" if e["value"] is None else f"{number(e['value'], 2)} {_between(e)}".strip()
    return Meter(who=arm, text=text, basis=h["basis"] or "", why=h["why"], value=e["value"], low=e["low"], high=e["high"])


def _between(estimate: Data) -> str:
    if estimate["low"] is None or estimate["high"] is None:
        return between(estimate)
    return f"[{number(estimate['low'], 2)}, {number(estimate['high'], 2)}]"


def numbers_of_runs(names: Sequence[str], data: Sequence[Data]) -> list[Block]:
    """The main arms' numbers, a card a link: each run with its basis. Only runs with the same basis share a figure."""
    cards: list[Block] = []
    for i, (link, (_, title)) in enumerate(PLACES.items()):
        found = [(n, d["headlines"][d["main_arm"]][i]) for n, d in zip(names, data, strict=True) if d["main_arm"] in d["headlines"]]
        if not found:
            continue
        key, figures = found[0][1]["name"], []
        for basis in dict.fromkeys(h["basis"] for _, h in found if h["basis"]):
            rows = [
                (n, h["estimate"]["value"], h["estimate"]["low"], h["estimate"]["high"], "proxy") for n, h in found if h["basis"] == basis
            ]
            alt = f"{title}, by {basis}: " + "; ".join(f"{n} {number(v, 2)}" for n, v, *_ in rows)
            figures.append(draw_intervals(rows, xlabel=f"{key} (by {basis})", alt=alt, zero=1.0))
        table = [[n, h["basis"] or "–", estimate_text(h["estimate"]), number(h["estimate"]["n"]), h["why"]] for n, h in found]
        caption = (
            "The line marks 1, where both parts agree. Intervals are over each run's prompts. Runs of different bases are not compared."
        )
        cards.append(
            Card(
                anchor=f"number-{key}",
                heading=f"{title}: {ASKS[link]}",
                name=key,
                figures=[Figures(panels=figures, caption=caption)] if figures else [],
                tables=[Table(columns=["Run", "Basis", "Number", "Prompts", "Seen"], rows=table, words=(1, 4))],
            )
        )
    return cards
