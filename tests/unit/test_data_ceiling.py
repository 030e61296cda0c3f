"""Labels of several annotators: layouts, what is refused, and the verb ``trueup data ceiling``."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from trueup.cli.main import invoke
from trueup.core.errors import UserError
from trueup.core.rng import Key
from trueup.data.annotations import Annotated, read_annotations
from trueup.pipeline.ceiling import ceiling

PANDALM = Path(__file__).resolve().parents[3] / "shared" / "data" / "pandalm" / "testset-v1.json"


def test_layouts_say_the_same() -> None:
    columns: list[dict[str, Any]] = [
        {"annotator1": 1, "annotator2": 2, "annotator_x": 0},
        {"annotator1": "a", "annotator2": "", "annotator_x": "tie"},
    ]
    votes: list[dict[str, Any]] = [
        {"id": "p", "votes": {"annotator1": 1, "annotator2": 2, "annotator_x": 0}},
        {"id": "q", "votes": '{"annotator1": "first", "annotator_x": 0.0}'},
    ]
    long = [{"item": i, "annotator": a, "label": x} for i, a, x in (
        ("p", "annotator1", 1), ("q", "annotator1", "A"), ("p", "annotator2", "b"), ("p", "annotator_x", 0), ("q", "annotator_x", "tie"),
    )]  # fmt: skip
    expected = [{"annotator1": 1, "annotator2": 2, "annotator_x": 0}, {"annotator1": 1, "annotator_x": 0}]
    for rows, layout in ((columns, "columns"), (votes, "votes"), (long, "long")):
        reading = read_annotations(rows)
        assert [item.labels for item in reading.rows] == expected
        assert list(reading.layouts) == [layout]
    assert read_annotations([{"votes": [1, 2]}]).rows[0].labels == {"annotator1": 1, "annotator2": 2}
    assert read_annotations([{"votes": [1, 2], "instruction": "do", "input": "this"}]).rows[0].prompt == "do\nthis"


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"annotator1": 1, "annotator2": 3}], r"row 1, field 'annotator2': 3 is no label"),
        ([{"annotator1": True, "annotator2": 1}], "True is no label"),
        ([{"text": "x"}], "no labels of several annotators"),
        ([{"votes": 5}], "must be a list or a mapping, got int"),
        ([{"votes": "[1,"}], "must be a list or a mapping"),
        ([{"annotator1": 1, "annotator2": 1}, {"annotator1": 1, "annotator2": None}], r"row 2, field 'annotator': fewer than two labels"),
        ([{"id": "p", "votes": [1, 1]}, {"id": "p", "votes": [1, 1]}], "was there before, at row 1"),
        ([{"item": "p", "annotator": "a", "label": 1}, {"item": "p", "annotator": "a", "label": 2}], "labelled item 'p' twice"),
    ],
)
def test_what_is_refused(rows: list[dict[str, Any]], said: str) -> None:
    with pytest.raises(UserError) as caught:
        read_annotations(rows)
    assert re.search(said, str(caught.value)), str(caught.value)


def test_items_with_one_label_can_be_left_out() -> None:
    reading = read_annotations([{"votes": [1, 1]}, {"votes": [2]}], on_bad="skip")
    assert len(reading.rows) == 1
    assert reading.skipped == {"fewer than two labels": 1}


def test_a_ceiling_by_hand() -> None:
    # four items, three annotators: 111, 112, 222, 110
    rows = [(1, 1, 1), (1, 1, 2), (2, 2, 2), (1, 1, 0)]
    items = [Annotated(id=str(i), labels=dict(zip("abc", row, strict=True))) for i, row in enumerate(rows)]
    found = ceiling(items, Key(0))
    assert (found.items, found.annotators, found.labels) == (4, ("a", "b", "c"), 12)
    assert found["agreement"].value == pytest.approx((3 + 1 + 3 + 1) / 12)
    # d^2 by pairs: 1, (1 - 1 - 1) / 3, 1, (1 + 0 + 0) / 3: mean 1/2
    assert found["agreement_ties_half"].value == pytest.approx(0.75)
    assert found["ceiling_low"].value == pytest.approx(0.75)
    assert found["ceiling_high"].value == pytest.approx((1 + 0.5**0.5) / 2)
    assert found["tie_share"].value == pytest.approx(1 / 12)
    assert found["cohen_kappa a/b"].value == pytest.approx(1.0)
    assert all(e.n == 4 for e in found.estimates)
    names = [e.name for e in found.estimates]
    assert "ceiling_low_4" not in names  # needs four labels an item
    more = [Annotated(id=str(i), labels=dict(zip("abcd", (1, 1, 2, 1), strict=True))) for i in range(4)]
    assert "ceiling_low_4" in [e.name for e in ceiling(more, Key(0)).estimates]


def test_comparisons_of_one_prompt_count_as_one_unit() -> None:
    items = [Annotated(id=str(i), prompt=f"p{i // 2}", labels={"a": 1, "b": 1 + i % 2}) for i in range(8)]
    assert ceiling(items, Key(0))["agreement"].n == 4


@pytest.mark.skipif(not PANDALM.exists(), reason="needs ../shared/data/pandalm")
def test_pandalm(capfd: pytest.CaptureFixture[str]) -> None:
    assert invoke(["data", "ceiling", str(PANDALM), "--json"]) == 0
    found = json.loads(capfd.readouterr().out)
    values = {e["name"]: e for e in found["estimates"]}
    # recomputed apart from this code
    for name, expected in (("agreement", 0.920), ("fleiss_kappa", 0.864), ("cohen_kappa annotator1/annotator2", 0.852),
                           ("cohen_kappa annotator1/annotator3", 0.879), ("cohen_kappa annotator2/annotator3", 0.862)):  # fmt: skip
        assert round(values[name]["value"], 3) == expected, name
        assert values[name]["low"] < expected < values[name]["high"]
    assert values["ceiling_low"]["value"] < values["ceiling_high"]["value"]


def test_the_verb_for_people(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "labels.jsonl"
    path.write_text("\n".join(json.dumps({"votes": v}) for v in ([1, 1], [1, 2], [2, 2])))
    assert invoke(["data", "ceiling", str(path)]) == 0
    said = capsys.readouterr().out
    assert "3 items, 2 annotators, 6 labels" in said
    assert "ceiling_high" in said
    assert invoke(["data", "ceiling", str(tmp_path / "none.jsonl")]) == 2
    assert "no such file" in capsys.readouterr().err
