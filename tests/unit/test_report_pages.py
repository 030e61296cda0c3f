"""Pieces of the pages: numbers, what to do, figures of series, replies that are named."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from trueup.core.rng import Key
from trueup.report.blocks import Read
from trueup.report.evidence_curves import CURVES, drawn
from trueup.report.numbers import numbers_of_runs
from trueup.report.samples import choose_samples
from trueup.report.what_to_do import named_in, to_do_blocks

COLOURS = {"a": "first", "b": "third"}


def series(*names: str, points: int = 3) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = {"step": list(range(points)), "kl_nats": [float(i) for i in range(points)]}
    for name in names:
        columns |= {f"{name}{end}": [float(i) for i in range(points)] for end in ("", "_low", "_high")}
    return columns


def answer(arm: str, columns: dict[str, list[Any]]) -> dict[str, Any]:
    return {"arm": arm, "series": columns, "verdict": "quiet"}


@pytest.mark.parametrize("name", CURVES)
def test_listed_columns_are_drawn(name: str) -> None:
    columns = series(*(c for curve in CURVES[name] for c, _, _ in curve.columns))
    found = drawn(name, [answer("a", columns), answer("b", columns)], COLOURS)
    assert found is not None
    # one column: all arms in a panel; several: a panel an arm
    assert len(found.panels) == sum(1 if len(curve.columns) == 1 else 2 for curve in CURVES[name])


def test_columns_of_any_name_are_drawn_where_they_have_an_interval() -> None:
    columns = series("quiz", "facts") | {"regime": ["x", "y", "z"]}
    found = drawn("alignment_tax", [answer("a", columns)], COLOURS)
    assert found is not None
    assert ["Quiz" in p for p in found.panels] == [True, False]
    assert drawn("alignment_tax", [answer("a", series("quiz", points=1))], COLOURS) is None
    assert drawn("alignment_tax", [answer("a", {})], COLOURS) is None


def test_rows_of_intervals() -> None:
    entry = {"what": ["<b>so much</b>"], "proxy": [1.5], "proxy_low": [1.0], "proxy_high": [2.0], "gold": [None], "gold_low": [None]}
    found = drawn("exploits", [answer("a", entry)], COLOURS)
    assert found is not None
    assert "&lt;b&gt;so much" in found.panels[0]
    assert "<b>so" not in found.panels[0]


def action(**more: Any) -> dict[str, Any]:
    plain = {
        "kind": "label",
        "why": "Unsure.",
        "target": None,
        "amount": 40,
        "unit": "comparisons",
        "diagnoses": ["length"],
        "evidence": [],
    }
    return plain | {"samples": ["s1"], "pairs": [["s1", "s2"], ["s1", "gone"]]} | more


def report(*actions: dict[str, Any]) -> dict[str, Any]:
    decision = {"keep_step": 20, "stop": True, "why": "Because.", "actions": list(actions)}
    return {
        "decisions": {"a": decision, "b": decision | {"actions": [], "keep_step": None, "stop": False}},
        "diagnoses": [{"name": "length", "link": "reward_evaluation", "arm": "a"}],
    }


def test_actions_lead_to_cards_replies_and_pairs() -> None:
    data = report(action(), action(kind="fix_bias", target="so much", amount=None, diagnoses=["unknown"], pairs=[]))
    places = {s: Read(label=s, href=f"replies.html#{s}") for s in ("s1", "s2")}
    card, todo = to_do_blocks(data, places)
    assert [(c.who, c.word) for c in card.verdicts] == [("a", "keep step 20, stop"), ("b", "nothing to keep")]
    first, second = todo.steps
    assert (first.word, second.word) == ("Buy labels (40 comparisons)", "Fix the data: so much")
    assert [r.href for r in first.evidence] == ["reward-evaluation.html#diagnosis-length"]
    assert [r.label for r in first.replies] == ["s1"]
    assert [(a.label, b.label) for a, b in first.pairs] == [("s1", "s2")]
    assert not second.evidence
    assert named_in(data) == {"s1", "s2", "gone"}


def headline(name: str, basis: str | None, value: float | None) -> dict[str, Any]:
    low, high = (None, None) if value is None else (value - 0.1, value + 0.1)
    estimate = {"name": name, "value": value, "low": low, "high": high, "n": 30, "unit": "share"}
    return {"name": name, "basis": basis, "estimate": estimate, "why": "seen"}


def test_numbers_of_one_basis_share_a_figure() -> None:
    def run(basis: str | None, value: float | None) -> dict[str, Any]:
        return {"main_arm": "a", "headlines": {"a": [headline(n, basis, value) for n in ("promise_kept", "signal_used", "moved_along")]}}

    data = [run("gold", 0.5), run("gold", 0.7), run("labels", 0.6), run(None, None)]
    cards = numbers_of_runs(["one", "two", "three", "four"], data)
    assert [c.name for c in cards] == ["promise_kept", "signal_used", "moved_along"]
    figures = cards[0].figures[0].panels
    assert len(figures) == 2
    assert "one 0.50; two 0.70" in figures[0]
    assert "three" not in figures[0]
    assert "three 0.60" in figures[1]
    assert [row[:3] for row in cards[0].tables[0].rows][2:] == [["three", "labels", "0.600 [0.500, 0.700]"], ["four", "–", "–"]]
    assert numbers_of_runs(["x"], [{"main_arm": None, "headlines": {}}]) == []


def test_named_replies_are_shown_also_those_of_the_preference_set() -> None:
    rows = pd.DataFrame(
        {
            "arm": "a", "step": 0, "prompt_id": [f"p{i}" for i in range(40)], "sample_id": [f"s{i}" for i in range(40)], "prompt": "q",
            "response": "r", "proxy_fixed": [float(i) for i in range(40)], "gold": 0.0, "kl_nats": 0.0,
        }
    )  # fmt: skip
    beside = pd.DataFrame({"arm": ["offline"], "step": [None], "sample_id": ["o1"], "prompt": ["q"], "response": ["theirs"], "gold": [1.0]})
    without = {r["id"] for r in choose_samples(rows, limit=4, key=Key(0)).rows}
    hidden = next(s for s in rows["sample_id"] if s not in without)
    found = choose_samples(rows, limit=4, key=Key(0), named={hidden, "o1"}, beside=beside)
    assert {r["id"] for r in found.rows} == without | {hidden, "o1"}
    assert next(r for r in found.rows if r["id"] == "o1")["step"] is None
    assert found.total == 40
