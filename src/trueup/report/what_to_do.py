"""What to do about each arm: which checkpoint to keep, whether to stop, and what next, with the way to the evidence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trueup.report.blocks import Block, Card, Chip, Read, Step, Todo
from trueup.report.diagnoses import Places, anchor
from trueup.report.numbers import PLACES
from trueup.report.text import number, title

WORDS = {
    "realign": "Realign the reward model",
    "label": "Buy labels",
    "raise_kl": "Raise the KL coefficient",
    "ensemble": "Use an ensemble",
    "fix_bias": "Fix the data",
}
MOST_PAIRS = 10
"""Pairs to compare that the page leads to; report.json has them all."""


def to_do_blocks(data: Mapping[str, Any], places: Places) -> list[Block]:
    """A card for keeping and stopping, and a list of actions for each arm that has some.

    Args:
        data: content of report.json.
        places: of replies that are shown.
    """
    chips = []
    for name, d in data["decisions"].items():
        keep = "nothing to keep" if d["keep_step"] is None else f"keep step {d['keep_step']}"
        chips.append(Chip(who=name, word=keep + (", stop" if d["stop"] else ""), rule=d["why"], colour="note"))
    heading = "Which checkpoint of each arm should be kept, and should training stop?"
    lists: list[Block] = [
        Todo(title=f"What next for {name}?", steps=[_step(a, name, data, places) for a in d["actions"]])
        for name, d in data["decisions"].items()
        if d["actions"]
    ]
    return [Card(anchor="decision", heading=heading, name="decision", verdicts=chips), *lists]


def named_in(data: Mapping[str, Any]) -> set[str]:
    """sample_ids that actions lead to."""
    actions = [a for d in data["decisions"].values() for a in d["actions"]]
    return {s for a in actions for s in (*a["samples"], *(one for pair in a["pairs"][:MOST_PAIRS] for one in pair))}


def _step(action: Mapping[str, Any], arm: str, data: Mapping[str, Any], places: Places) -> Step:
    links = {d["name"]: d["link"] for d in data["diagnoses"] if d["arm"] == arm}
    evidence = [
        Read(label=title(name).lower(), href=f"{PLACES[links[name]][0]}#{anchor(name)}") for name in action["diagnoses"] if name in links
    ]
    replies = [places[s] for s in action["samples"] if s in places]
    pairs = [(places[a], places[b]) for a, b in action["pairs"][:MOST_PAIRS] if a in places and b in places]
    word = WORDS[action["kind"]]
    if action["target"]:
        word += f": {action['target']}"
    if action["amount"] is not None:
        word += f" ({number(action['amount'])} {action['unit']})".replace(" )", ")")
    return Step(word=word, why=action["why"], evidence=evidence, replies=replies, pairs=pairs)
