"""The record: what is absent stays absent, there and back."""

from __future__ import annotations

from typing import Any

import pytest

from trueup.core.record import Decoding, Label, SampleRecord

NEEDED: dict[str, Any] = {
    "run": "r",
    "arm": "a",
    "seed": 0,
    "step": None,
    "split": "test",
    "prompt_id": "p",
    "sample_id": "s",
    "policy_id": "q",
    "prompt": "ask",
    "response": "good",
}


def test_what_was_not_measured_is_none() -> None:
    record = SampleRecord(**NEEDED)
    for row in (record, SampleRecord.from_dict(record.to_dict())):
        assert row == record
        for name in (
            "n_tokens",
            "finished",
            "decoding",
            "logp_policy_nats",
            "kl_policy_ref_exact_nats",
            "proxy_fixed",
            "proxy_current",
            "gold",
        ):
            assert getattr(row, name) is None
        assert (row.scores, row.gold_components, row.evaluations, row.labels) == ({}, {}, {}, [])


def test_maps_keep_zeros_and_drop_what_is_null() -> None:
    row = {**NEEDED, "scores": {"a": None, "b": 0.0}, "evaluations": None, "gold_components": {"x": None}, "labels": None}
    found = SampleRecord.from_dict(row)
    assert (found.scores, found.evaluations, found.gold_components, found.labels) == ({"b": 0.0}, {}, {}, [])


def test_nested_values_come_back_as_they_were() -> None:
    label = Label(annotator="a", other_sample_id="t", preference=0.5)
    record = SampleRecord(**NEEDED, decoding=Decoding(temperature=0.7, max_tokens=9), labels=[label], gold=-1.5)
    found = SampleRecord.from_dict(record.to_dict())
    assert found == record
    assert found.labels == [label]
    assert found.decoding == Decoding(temperature=0.7, top_p=1.0, max_tokens=9)


def test_unknown_columns_are_refused() -> None:
    with pytest.raises(ValueError, match=r"unknown record columns \['glod'\]"):
        SampleRecord.from_dict({**NEEDED, "glod": 1.0})
