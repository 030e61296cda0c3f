"""Stages shared between runs: the same models as without the cache, and never those of another run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import trueup
from trueup.store.records import frame
from trueup.store.stage_cache import VARIABLE

SMALL: dict[str, Any] = {
    "threads": 1,
    "world": {"kind": "helpdesk", "train_prompts": 24, "validation_prompts": 8, "test_prompts": 8, "demonstrations": 48,
              "train_pairs": 40, "validation_pairs": 16},
    "policy_model": {"hidden_size": 16, "layers": 1, "heads": 2},
    "sft": {"epochs": 1, "batch_size": 16},
    "reward": {"epochs": 1, "batch_size": 16, "reference_samples": 8},
    "policy": {"steps": 2, "prompts_per_step": 4, "optimizer": {"kind": "rloo", "num_generations": 2, "max_completion_length": 6}},
    "probe": {"every": 2, "prompts": 4, "samples_per_prompt": 1},
    "arms": [{"name": "static"}, {"name": "clean", "reward": "clean"}],
}  # fmt: skip


def steps_taken(run: Path) -> dict[str, int]:
    path = run / "ledger.jsonl"
    rows = [json.loads(x) for x in path.read_text().splitlines()] if path.exists() else []
    return {s: sum(r["stage"] == s for r in rows) for s in ("sft", "reward", "reward-clean", "policy")}


def weights(run: Path, names: Sequence[str]) -> list[bytes]:
    return [(run / "checkpoints" / n / "model.safetensors").read_bytes() for n in names]


def test_a_second_run_takes_what_the_first_one_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    trueup.train(SMALL, tmp_path / "alone", report=False)
    monkeypatch.setenv(VARIABLE, str(tmp_path / "cache"))
    trueup.train(SMALL, tmp_path / "first", report=False)
    notes: list[str] = []
    trueup.train(SMALL, tmp_path / "second", report=False, on_event=lambda e: notes.append(e.text) if e.kind == "note" else None)
    assert steps_taken(tmp_path / "first") == steps_taken(tmp_path / "alone") == {"sft": 3, "reward": 3, "reward-clean": 3, "policy": 4}
    assert steps_taken(tmp_path / "second") == {"sft": 0, "reward": 0, "reward-clean": 0, "policy": 4}
    assert sum("taken from the cache" in n for n in notes) == 3
    names = ["sft", "reward", "reward-clean", "static/policy-000002", "clean/policy-000002"]
    assert weights(tmp_path / "alone", names) == weights(tmp_path / "first", names) == weights(tmp_path / "second", names)
    tables = [frame(tmp_path / r / "records") for r in ("alone", "second")]
    assert tables[0].equals(tables[1])
    logs = [[json.loads(x) for x in (tmp_path / r / "metrics.jsonl").read_text().splitlines()] for r in ("alone", "second")]
    assert [(r["stage"], r["step"], r["metrics"]) for r in logs[0]] == [(r["stage"], r["step"], r["metrics"]) for r in logs[1]]


def test_other_settings_data_or_seeds_share_nothing_they_should_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "cache"))
    small = {**SMALL, "policy": None, "arms": [{"name": "static"}]}
    trueup.train(small, tmp_path / "first", report=False)
    full = {"sft": 3, "reward": 3, "reward-clean": 0, "policy": 0}
    for name, change, expected in (
        ("seed", {"seed": 1}, full),
        ("sft", {"sft": {"epochs": 1, "batch_size": 16, "loop": {"learning_rate": 1e-2}}}, full),
        ("width", {"policy_model": {"hidden_size": 32, "layers": 1, "heads": 2}}, full),
        ("data", {"world": {**SMALL["world"], "demonstrators": {"expert": 1}}}, full),
        ("pairs", {"world": {**SMALL["world"], "bias_strength": 3.0}}, {**full, "sft": 0}),
        ("reward", {"reward": {**SMALL["reward"], "reference_samples": 16}}, {**full, "sft": 0}),
        ("probe", {"probe": {"every": 1}}, {**full, "sft": 0, "reward": 0}),
    ):
        trueup.train({**small, **change}, tmp_path / name, report=False)
        assert steps_taken(tmp_path / name) == expected, name


def test_an_entry_that_is_not_whole_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "cache"))
    small = {**SMALL, "policy": None, "arms": [{"name": "static"}]}
    trueup.train(small, tmp_path / "first", report=False)
    for facts in (tmp_path / "cache" / "stages").glob("*/facts.json"):
        facts.unlink()
    trueup.train(small, tmp_path / "second", report=False)
    assert steps_taken(tmp_path / "second")["sft"] == 3
    assert weights(tmp_path / "first", ["sft", "reward"]) == weights(tmp_path / "second", ["sft", "reward"])
