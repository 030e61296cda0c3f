"""The Reward Report: written where a model is trained, read back, and what it says of models that have none."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from tests_support import WORDS, tiny_policy
from trueup.core.config import validate
from trueup.core.errors import UserError
from trueup.pipeline.config import RunConfig
from trueup.pipeline.reward_report import REPORT_FILE, read_report, shown_report, stated_settings
from trueup.pipeline.run import execute
from trueup.store.run import Run


def lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a reward model fitted to 24 pairs of two annotators."""
    folder = tmp_path_factory.mktemp("files")
    pairs = [
        {"prompt": f"ask {WORDS[i % 5]} {'tell ' * (i // 5)}", "chosen": "good good", "rejected": "bad dull", "annotator": "ab"[i % 3 == 0]}
        for i in range(30)
    ]
    lines(folder / "pairs.jsonl", pairs)
    tiny_policy(1).save(folder / "base")
    config = validate(
        {
            "threads": 1,
            "seed": 7,
            "world": {"kind": "files", "preferences": "pairs.jsonl"},
            "policy_model": {"path": "base"},
            "sft": {"epochs": 1, "batch_size": 8},
            "reward": {
                "epochs": 3,
                "batch_size": 8,
                "reference_samples": 8,
                "objective": {"kind": "label_smoothing"},
                "report": {"use": "answers of a test", "labelled_by": "two words", "known_failures": ["likes good", "hates dull"]},
            },
            "policy": {"steps": 1, "optimizer": {"kind": "rloo", "num_generations": 2, "max_completion_length": 4}},
        },
        RunConfig,
        where="here",
    )
    execute(config, folder / "out", base=folder, stages=("reward",))
    return Run(folder / "out").checkpoint("reward")


def test_what_was_trained_on_what(trained: Path) -> None:
    report, data = read_report(trained), trained.parents[2] / "pairs.jsonl"
    assert report["files"] == [{"file": "pairs.jsonl", "sha256": hashlib.sha256(data.read_bytes()).hexdigest()}]
    assert (report["seed"], report["objective"], report["world"]) == (7, "label_smoothing", "files")
    assert report["rows"] == sum(report["annotators"].values())
    assert set(report["annotators"]) == {"a", "b"}
    assert stated_settings(trained).epochs == 3
    assert stated_settings(trained).objective.kind == "label_smoothing"
    shown = shown_report(trained)
    assert shown["Use"] == "answers of a test"
    assert shown["Known failures"] == "likes good; hates dull"
    assert shown["Labelled by"] == "two words"
    assert shown["Trained on"].startswith("pairs.jsonl (sha256 ")
    weights = hashlib.sha256((trained / "model.safetensors").read_bytes()).hexdigest()
    assert shown["Weights"] == f"model.safetensors (sha256 {weights[:16]})"


def test_what_no_one_stated(tmp_path: Path) -> None:
    shown = shown_report(tmp_path)
    assert set(shown.values()) == {"not stated"}
    assert stated_settings(tmp_path).epochs == 4
    (tmp_path / REPORT_FILE).write_text(json.dumps({"format": 1, "annotators": {f"n{i}": 9 - i for i in range(7)}}))
    # five are named, two are counted
    assert shown_report(tmp_path)["Annotators"] == "n0 9, n1 8, n2 7, n3 6, n4 5, and 2 more"
    (tmp_path / REPORT_FILE).write_text(json.dumps({"format": 2}))
    with pytest.raises(UserError, match="is no report of format 1"):
        read_report(tmp_path)
