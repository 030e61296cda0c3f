"""Replies with marked spans: both layouts are read as what they say, and every malformed span is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from trueup.core.errors import UserError
from trueup.data.spans import Span, labels_of, read_marked

TEXT = "Rome is old. It is blue."
ROW: dict[str, Any] = {"prompt": "name a city", "response": TEXT, "spans": [{"start": 13, "end": 24, "label": "wrong"}]}
FINE: dict[str, Any] = {
    "question": "where?",
    "passages": [["Rome", "Rome is a city.", "It is old."], ["Oslo", "Oslo is north."]],
    "prediction 1": TEXT,
    "prediction 2": "Oslo",
    "feedback": {
        "errors": [{"error type": "Irrelevant", "explanation": "", "start": 0, "end": 12}],
        "missing-info": [{"error type": "Missing-Answer", "passage_id": 2, "sentence_id": [1]}],
        "corrected-prediction": "Rome",
    },
}


def test_spans_as_they_stand() -> None:
    reading = read_marked([{**ROW, "spans": [*ROW["spans"], {"start": 0, "end": 4, "label": "step", "value": -0.5}]}, {**ROW, "spans": []}])
    assert reading.layouts == {"spans": 2}
    first, clean = reading.rows
    assert first.spans == (Span(start=13, end=24, label="wrong"), Span(start=0, end=4, label="step", value=-0.5))
    assert first.reply.text[13:24] == "It is blue."
    assert (first.prompt.text, first.where, clean.spans) == ("name a city", "row 1", ())
    assert labels_of(reading.rows) == {"step": 1, "wrong": 1}


def test_spans_in_csv(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    spans = json.dumps(ROW["spans"]).replace('"', '""')
    path.write_text(f'prompt,response,spans\nname a city,{TEXT},"{spans}"\n')
    assert read_marked(path).rows[0].spans == (Span(start=13, end=24, label="wrong"),)


def test_fine_grained_feedback() -> None:
    reading = read_marked([FINE])
    (row,) = reading.rows
    assert reading.layouts == {"fine-grained": 1}
    # what is missing is missing from the whole reply
    assert row.spans == (Span(start=0, end=12, label="Irrelevant"), Span(start=0, end=24, label="Missing-Answer"))
    assert row.prompt.text == "Rome: Rome is a city. It is old.\n\nOslo: Oslo is north.\n\nwhere?"
    assert read_marked([FINE], passages=False).rows[0].prompt.text == "where?"


@pytest.mark.parametrize(
    ("row", "where", "said"),
    [
        ({"prompt": "q", "response": "a"}, "row 1, field 'spans'", "missing"),
        ({**ROW, "spans": 3}, "row 1, field 'spans'", "must be a list"),
        ({**ROW, "spans": "no list"}, "row 1, field 'spans'", "must be a list"),
        ({**ROW, "spans": [7]}, "row 1, field 'spans', span 1", "must be an object"),
        ({**ROW, "spans": [{"start": 0, "end": 25, "label": "x"}]}, "row 1, field 'spans', span 1", "24 characters"),
        ({**ROW, "spans": [{"start": 4, "end": 4, "label": "x"}]}, "row 1, field 'spans', span 1", "4 to 4"),
        ({**ROW, "spans": [{"start": -1, "end": 4, "label": "x"}]}, "row 1, field 'spans', span 1", "-1 to 4"),
        ({**ROW, "spans": [{"start": 0.0, "end": 4, "label": "x"}]}, "row 1, field 'spans', span 1", "'start' must be a whole number"),
        ({**ROW, "spans": [{"start": 0, "end": True, "label": "x"}]}, "row 1, field 'spans', span 1", "'end' must be a whole number"),
        ({**ROW, "spans": [{"start": 0, "end": 4}]}, "row 1, field 'spans', span 1", "'label' must be a text"),
        ({**ROW, "spans": [{"start": 0, "end": 4, "label": "x", "value": "1"}]}, "row 1, field 'spans', span 1", "finite number"),
        ({**ROW, "prompt": ""}, "row 1, field 'prompt'", "empty"),
        ({**FINE, "feedback": []}, "row 1, field 'feedback'", "must be an object"),
        ({**FINE, "feedback": {"errors": [{"start": 0, "end": 3}]}}, "row 1, field 'feedback', error 1", "'error type'"),
        ({**FINE, "passages": ["Rome"]}, "row 1, field 'passages', passage 1", "list of texts"),
    ],
)
def test_malformed_rows_are_named(row: dict[str, Any], where: str, said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        read_marked([row])
    assert caught.value.where == where


def test_empty_replies_stop_or_are_counted() -> None:
    with pytest.raises(UserError, match="empty reply"):
        read_marked([{**ROW, "response": " ", "spans": []}])
    reading = read_marked([{**ROW, "response": " ", "spans": []}, ROW], on_bad="skip")
    assert reading.skipped == {"empty reply": 1}
    assert len(reading.rows) == 1
    with pytest.raises(UserError, match="no usable reply"):
        read_marked([{**ROW, "response": " ", "spans": []}], on_bad="skip")
