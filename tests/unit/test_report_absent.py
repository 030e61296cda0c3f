"""Reports of runs that lack something: each says what and why, and never shows 0 for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from trueup.core.errors import UserError
from trueup.core.rng import Key
from trueup.report.write import write_report
from trueup.store.run import Run

from .report_run import check, make_run, page, pages


def test_without_gold_it_says_so(tmp_path: Path) -> None:
    root = make_run(tmp_path / "r", arms=("static",), gold=False, evaluations=False, prompts=10)
    write_report(root, key=Key(0))
    data = check(root)
    assert all(c["gold"] is None for c in data["arms"][0]["checkpoints"])
    assert data["comparison"]["verdict"] is None
    html = "".join(pages(root).values())
    assert "no gold score was recorded" in html
    assert "No realignment to compare." in html
    assert "No evaluations." in html
    assert "Where do the parts disagree?" in html
    assert "no gold and no labels" in html


def test_one_checkpoint_draws_no_curve(tmp_path: Path) -> None:
    root = make_run(tmp_path / "r", arms=("static",), steps=1, prompts=10)
    write_report(root, key=Key(0))
    data = check(root)
    assert data["decision"]["keep_step"] == 0
    html = "".join(pages(root).values())
    assert "No curves." in html
    assert "one checkpoint shows no growth" in html
    assert "has one checkpoint, so there is nothing to choose" in html


def _accuracy(value: float) -> dict[str, Any]:
    return {"name": "accuracy", "value": value, "low": value - 0.01, "high": value + 0.01, "n": 4300, "unit": "share"}


def test_reward_models_alone(tmp_path: Path) -> None:
    with Run.create(tmp_path / "r", {"name": "hh"}) as run:
        run.write_manifest(name="hh", seed=0)
    rows = [{"name": f"<i>{n}</i>", "data": "hh", "folds": 5, "accuracy": _accuracy(v)} for n, v in (("frozen", 0.602), ("trunk", 0.541))]
    (tmp_path / "r/reward.json").write_text(json.dumps(rows), encoding="utf-8")
    write_report(tmp_path / "r", key=Key(0))
    data = check(tmp_path / "r")
    assert data["arms"] == []
    assert data["decision"] is None
    html = page(tmp_path / "r")
    assert "60.2 %" in html
    assert "<i>" not in html.replace('<i style="', "")
    assert "This run trained no policy" in html


@pytest.mark.parametrize("content", ["{", "[1]", '{"name": 1}'])
def test_damaged_reward_results_are_named(tmp_path: Path, content: str) -> None:
    with Run.create(tmp_path / "r", {"name": "hh"}):
        pass
    (tmp_path / "r/reward.json").write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=r"reward\.json"):
        write_report(tmp_path / "r", key=Key(0))
    assert not (tmp_path / "r/report").exists()


def test_nothing_to_report_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such run folder"):
        write_report(tmp_path / "absent", key=Key(0))
    with pytest.raises(UserError, match="nothing to report"):
        write_report(tmp_path, key=Key(0))
    assert list(tmp_path.iterdir()) == []
