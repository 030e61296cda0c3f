"""Judged groups: every layout is read as what it says, and what cannot be used is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from trueup.core.errors import UserError
from trueup.data.judgements import STYLES, read_judged

Q = "name a city"


def only(row: dict[str, Any]) -> tuple[Any, str]:
    reading = read_judged([row])
    assert len(reading.rows) == 1
    return reading.rows[0], next(iter(reading.layouts))


def test_pairs_in_all_their_layouts() -> None:
    chat = [{"role": "user", "content": Q}]
    rows: list[dict[str, Any]] = [
        {"prompt": Q, "chosen": "Rome", "rejected": "blue", "subset": "chat", "margin": 2, "id": 7},
        {"chosen": f"\n\nHuman: {Q}\n\nAssistant: Rome", "rejected": f"\n\nHuman: {Q}\n\nAssistant: blue"},
        {"prompt": chat, "chosen": [{"role": "assistant", "content": "Rome"}], "rejected": [{"role": "assistant", "content": "blue"}]},
    ]
    for row in rows:
        group, layout = only(row)
        assert layout == "pairs"
        assert [r.text for r in group.replies] == ["Rome", "blue"]
        assert group.ratings == (1.0, 0.0)
    first, _ = only(rows[0])
    assert (first.domain, first.margin, first.id) == ("chat", 2.0, "7")


def test_best_of_several() -> None:
    group, layout = only({"prompt": Q, "chosen": ["Rome"], "rejected": ["blue", "red", "4"], "subset": "Factuality", "num_correct": 1})
    assert layout == "best of several"
    assert [r.text for r in group.replies] == ["Rome", "blue", "red", "4"]
    assert group.ratings == (1.0, 0.0, 0.0, 0.0)
    assert (group.domain, group.styles) == ("Factuality", ())
    ties, _ = only({"prompt": Q, "chosen": ["Rome", "Oslo"], "rejected": ["blue"]})
    assert ties.ratings == (1.0, 1.0, 0.0)


def test_styles() -> None:
    group, layout = only({"prompt": Q, "chosen": ["a", "b", "c"], "rejected": ["d", "e", "f"], "domain": "chat"})
    assert layout == "styles"
    assert group.styles == STYLES * 2
    assert group.ratings == (1.0,) * 3 + (0.0,) * 3
    assert group.domain == "chat"


def test_rankings_and_ratings() -> None:
    group, layout = only({"prompt": Q, "responses": ["a", "b", "c"], "ranking": [2, 1, 2]})
    assert (layout, group.ratings) == ("ranking", (-2.0, -1.0, -2.0))  # rank 1 is best
    for name in ("ratings", "scores"):
        group, layout = only({"prompt": Q, "responses": ["a", "b", "c"], name: [4.5, None, 1]})
        assert (layout, group.ratings) == ("ratings", (4.5, 1.0))
        assert [r.text for r in group.replies] == ["a", "c"]


def test_votes_of_several_annotators() -> None:
    texts = {"instruction": "name", "input": "a city", "response1": "Rome", "response2": "blue"}
    rows: list[tuple[dict[str, Any], tuple[float, float]]] = [
        ({"annotator1": 1, "annotator2": 2, "annotator3": 1}, (1.0, 0.0)),
        ({"annotator1": 2, "annotator2": 2, "annotator3": 0}, (0.0, 1.0)),
        ({"annotator1": 1, "annotator2": 0, "annotator3": 0}, (0.5, 0.5)),  # most say it is a tie
        ({"annotator1": 1, "annotator2": 2, "annotator3": 0}, (0.5, 0.5)),
        ({"annotator1": 1, "annotator2": 2, "annotator3": None}, (0.5, 0.5)),
        ({"votes": ["b", "b"]}, (0.0, 1.0)),
    ]
    for labels, ratings in rows:
        group, layout = only({**texts, **labels, "subset": "s"})
        assert (layout, group.ratings, group.domain, group.prompt.text) == ("votes", ratings, "s", "name\na city")
        assert [r.text for r in group.replies] == ["Rome", "blue"]
    first, _ = only({**texts, **rows[0][0]})
    assert first.votes == (("annotator1", 1), ("annotator2", -1), ("annotator3", 1))
    pair, _ = only({"prompt": Q, "responses": ["a", "b"], "votes": {"x": "tie", "y": "a"}})
    assert (pair.votes, pair.ratings) == ((("x", 0), ("y", 1)), (0.5, 0.5))
    # ratings say more than a column whose name happens to begin like an annotator's
    rated, layout = only({"prompt": Q, "responses": ["a", "b"], "ratings": [1, 2], "annotator_id": 77})
    assert (layout, rated.votes) == ("ratings", ())
    plain, layout = only({"prompt": Q, "chosen": "a", "rejected": "b", "annotator_id": 77})
    assert (layout, plain.votes) == ("pairs", ())


def test_one_row_a_label_becomes_one_pair() -> None:
    def row(item: str, annotator: str, label: Any, first: str = "Rome") -> dict[str, Any]:
        return {"prompt": Q, "item": item, "annotator": annotator, "label": label, "response1": first, "response2": "blue"}

    reading = read_judged([row("i", "x", 2), row("j", "x", 1), row("i", "y", 2), row("i", "z", 0)])
    assert [(g.id, g.ratings) for g in reading.rows] == [("i", (0.0, 1.0)), ("j", (1.0, 0.0))]
    assert reading.rows[0].votes == (("x", -1), ("y", -1), ("z", 0))
    assert reading.layouts == {"votes": 4}
    with pytest.raises(UserError, match="annotator 'x' labelled item 'i' twice") as caught:
        read_judged([row("i", "x", 2), row("i", "x", 1)])
    assert caught.value.where == "row 2"
    with pytest.raises(UserError, match="item 'i' has other texts than at row 1"):
        read_judged([row("i", "x", 2), row("i", "y", 2, first="Oslo")])


def test_lists_as_text(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('prompt,responses,ratings\nq,"[""a"", ""b""]","[1, 2]"\n')
    reading = read_judged(path)
    assert reading.rows[0].ratings == (1.0, 2.0)
    assert reading.rows[0].where == f"{path}, line 2"


@pytest.mark.parametrize(
    ("row", "where", "said"),
    [
        ({"prompt": Q, "responses": ["a", "b"]}, "row 1", "needs 'ranking' or 'ratings'"),
        ({"prompt": Q, "responses": ["a", "b"], "ranking": [1]}, "row 1, field 'ranking'", "a list of 2 numbers"),
        ({"prompt": Q, "responses": ["a", "b"], "ratings": [1, "x"]}, "row 1, field 'ratings'", "finite numbers, got 'x'"),
        ({"prompt": Q, "responses": ["a", "b"], "ratings": "[1,"}, "row 1, field 'ratings'", "a list of 2 numbers"),
        ({"prompt": Q, "responses": "a", "ratings": [1]}, "row 1, field 'responses'", "a list of texts"),
        ({"responses": ["a", "b"], "ratings": [1, 2]}, "row 1, field 'prompt'", "missing"),
        ({"prompt": Q, "chosen": ["a"], "rejected": ["a"]}, "row 1, field 'responses'", "equal replies of different rating"),
        ({"prompt": Q, "responses": ["a", " a"], "ratings": [1, 1]}, "row 1, field 'responses'", "identical replies"),
        ({"prompt": Q, "responses": ["a", " "], "ratings": [1, 2]}, "row 1, field 'responses'", "empty reply"),
        ({"prompt": Q, "responses": ["a", "b"], "ratings": [1, None]}, "row 1, field 'responses'", "fewer than two replies"),
        ({"prompt": Q, "chosen": "a", "rejected": "a"}, "row 1, field 'rejected'", "identical replies"),
        ({"prompt": Q, "chosen": " ", "rejected": "a"}, "row 1, field 'chosen'", "empty chosen reply"),
        ({"prompt": Q, "chosen": "a"}, "row 1, field 'rejected'", "missing"),
        ({"text": "x"}, "row 1, field 'chosen'", "missing"),
        ({"prompt": Q, "response1": "a", "response2": "b"}, "row 1", "needs labels of several annotators"),
        ({"prompt": Q, "response1": "a", "response2": "b", "votes": [1, 3]}, "row 1, field 'votes'", "3 is no label"),
        ({"prompt": Q, "response1": "a", "response2": "b", "votes": []}, "row 1, field 'votes'", "no label"),
        ({"prompt": Q, "response1": "a", "response2": True, "votes": [1, 1]}, "row 1, field 'response2'", "no text"),
        ({"prompt": Q, "response1": "a", "response2": "", "votes": [1, 1]}, "row 1, field 'response2'", "empty reply"),
        ({"prompt": Q, "response1": "a", "response2": "a", "votes": [1, 1]}, "row 1, field 'response2'", "equal replies"),
        ({"prompt": Q, "responses": ["a", "b", "c"], "votes": [1, 1]}, "row 1, field 'responses'", "two texts"),
        ({"response1": "a", "response2": "b", "votes": [1, 1]}, "row 1, field 'prompt'", "missing"),
    ],
)
def test_what_is_refused(row: dict[str, Any], where: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        read_judged([row])
    assert caught.value.where == where
    assert said in caught.value.message


def test_rows_that_teach_nothing_can_be_left_out(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [
        {"prompt": Q, "chosen": "a", "rejected": "a"},
        {"prompt": Q, "chosen": "a", "rejected": "b"},
        {"prompt": Q, "responses": ["a", "a"], "ratings": [1, 2]},
    ]
    path.write_text("\n".join(json.dumps(r) for r in rows))
    reading = read_judged(path, on_bad="skip")
    assert len(reading.rows) == 1
    assert reading.rows[0].where == f"{path}, line 2"
    assert reading.skipped == {"identical replies": 1, "equal replies of different rating": 1}
    path.write_text(json.dumps(rows[1]) + '\n{"prompt": "q", "chosen": 5, "rejected": "b"}\n')
    with pytest.raises(UserError) as caught:
        read_judged(path)
    assert caught.value.where == f"{path}, line 2, field 'chosen'"
