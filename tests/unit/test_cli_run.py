"""A whole small run from the command line: stages alone, resumed, reported, as one JSON object."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from trueup.cli.main import invoke

TINY = """
threads: 1
world: {kind: helpdesk, train_prompts: 8, validation_prompts: 4, test_prompts: 6, demonstrations: 16, train_pairs: 16, validation_pairs: 8}
policy_model: {hidden_size: 16, layers: 1, heads: 2}
sft: {epochs: 1, batch_size: 8}
reward: {epochs: 1, batch_size: 8, reference_samples: 8}
policy:
  steps: 2
  prompts_per_step: 2
  optimizer: {kind: rloo, num_generations: 2, max_completion_length: 6}
probe: {every: 1, prompts: 6, samples_per_prompt: 2}
checkpoint_every: 1
"""


def command(*arguments: str, capfd: pytest.CaptureFixture[str]) -> dict[str, object]:
    status = invoke([*arguments, "--json"])
    out, err = capfd.readouterr()
    assert status == 0, err
    found: dict[str, object] = json.loads(out)
    return found


def test_stages_then_the_whole_then_nothing_left_to_do(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    config, out = tmp_path / "tiny.yaml", tmp_path / "out"
    config.write_text(TINY)
    first = command("sft", str(config), "--out", str(out), capfd=capfd)
    assert (first["command"], first["run"], first["stages"]) == ("sft", str(out), ["sft"])
    assert (out / "checkpoints" / "sft" / "model.safetensors").exists()
    assert not (out / "checkpoints" / "reward").exists()
    second = command("reward", str(config), "--out", str(out), "--resume", capfd=capfd)
    assert second["stages"] == ["sft", "reward"]
    whole = command("run", str(config), "--out", str(out), "--resume", capfd=capfd)
    assert whole["stages"] == ["sft", "reward", "policy"]
    assert whole["arms"] == ["static"]
    assert all(Path(p).exists() for p in whole["report"].values())  # type: ignore[attr-defined]
    steps = [json.loads(line) for line in (out / "ledger.jsonl").read_text().splitlines()]
    # 16 demonstrations and 16 pairs in batches of 8, one epoch: two steps each; two policy steps. Nothing was done twice.
    assert [r["stage"] for r in steps] == ["sft"] * 2 + ["reward"] * 2 + ["policy"] * 2
    again = command("run", str(config), "--out", str(out), "--resume", "--quiet", capfd=capfd)
    assert again["report"] == whole["report"]
    assert len((out / "ledger.jsonl").read_text().splitlines()) == 6


def test_overrides_and_the_default_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(TINY)
    found = command("sft", "tiny.yaml", "--set", "sft.batch_size=16", "--set", "seed=5", capfd=capfd)
    assert found["run"] == "runs/tiny"
    assert "batch_size: 16" in Path("runs/tiny/config.yaml").read_text()
    assert json.loads(Path("runs/tiny/manifest.json").read_text())["seed"] == 5
