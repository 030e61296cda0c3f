"""Published files are read as they are; skipped where they are absent."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from trueup.core.rng import Key
from trueup.data.demonstrations import load_demonstrations
from trueup.data.preferences import load_preferences
from trueup.data.prompts import load_prompts
from trueup.data.splits import folds, groups_of

DATA = Path(os.environ.get("TRUEUP_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data")


def published(name: str) -> Path:
    path = DATA / name
    if not path.exists():
        pytest.skip(f"no {path}; set TRUEUP_DATA to the folder with real input")
    return path


# Rows and exclusions as their publisher counts them: helpful 2,354 with 6 left out, harmless 2,312 with 4.
@pytest.mark.parametrize(("name", "total", "left_out"), [("helpful", 2354, 6), ("harmless", 2312, 4)])
def test_hh_rlhf(name: str, total: int, left_out: int) -> None:
    found = load_preferences(published(f"hh-rlhf/{name}-base_test.jsonl.gz"), on_bad="skip")
    assert (len(found.rows) + sum(found.skipped.values()), sum(found.skipped.values())) == (total, left_out)
    assert set(found.layouts) == {"transcripts"}
    assert all(p.prompt.text[-1]["role"] == "user" for p in found.rows if not isinstance(p.prompt.text, str))
    sizes = [len(f) for f in folds(groups_of(found.rows), 5, Key(0))]
    assert max(sizes) - min(sizes) <= 1


def test_tinystories() -> None:
    found = load_demonstrations(published("tinystories/tinystories_cased.jsonl.gz"), fields={"text": "story"})
    assert len(found.rows) == 2399
    assert found.rows[0].prompt.text == ""


def test_xstest() -> None:
    found = load_prompts(published("xstest/xstest_prompts.csv"), tags=["label", "type"])
    labels = [p.tags["label"] for p in found.rows]
    assert (labels.count("safe"), labels.count("unsafe")) == (250, 200)
