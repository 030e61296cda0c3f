"""``trueup reward evaluate`` on policies: samples, pairs to label, labels read back, coverage, learning curve, Reward Report."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests_support import WORDS, tiny_policy, tiny_reward
from trueup.cli.main import invoke
from trueup.core.rng import Key
from trueup.models.embedding_reward import new_embedding_reward
from trueup.models.embeddings import load_embedder
from trueup.pipeline.reward_report import REPORT_FILE


def lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """Two reward models, two policies, prompts and judged pairs."""
    for seed in (1, 2):
        tiny_reward(seed).save(tmp_path / f"rm{seed}")
        tiny_policy(seed).save(tmp_path / f"policy{seed}")
    rng = np.random.default_rng(0)
    prompts = [f"ask {WORDS[i % 5]} {'tell ' * (i // 5)}".strip() for i in range(24)]
    pairs = [{"prompt": p, "chosen": " ".join(rng.choice(WORDS, size=3)), "rejected": " ".join(rng.choice(WORDS, size=2))} for p in prompts]
    return {
        "prompts": str(lines(tmp_path / "prompts.jsonl", [{"prompt": p} for p in prompts])),
        "data": str(lines(tmp_path / "pairs.jsonl", pairs)),
        **{name: str(tmp_path / name) for name in ("rm1", "rm2", "policy1", "policy2")},
    }


def told(capfd: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert invoke(["reward", "evaluate", *words, "--probes", "0", "--json"]) == 0
    found: dict[str, Any] = json.loads(capfd.readouterr().out)
    return found


def models(files: dict[str, str]) -> list[str]:
    return ["--reward-model", files["rm1"], "--reward-model", files["rm2"], "--data", files["data"]]


def test_policies_are_sampled_scored_and_asked_about(tmp_path: Path, files: dict[str, str], capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "card"
    sampling = [
        "--reference",
        files["policy1"],
        "--policy",
        files["policy2"],
        "--prompts",
        files["prompts"],
        "--samples",
        "4",
        "--max-tokens",
        "6",
    ]
    found = told(capfd, *models(files), *sampling, "--ask", "60", "--out", str(out))
    table = pd.read_parquet(found["samples"])
    # two models, two policies, 24 prompts, 4 samples
    assert len(table) == 2 * 2 * 24 * 4
    assert table["reply"].str.split().str.len().max() <= 6
    assert {"feature_words", "prompt", "finished"} <= set(table.columns)
    verdicts = {(v["model"], v["question"]): v["verdict"] for v in found["verdicts"]}
    assert verdicts["rm1", "teaching"] in ("quiet", "alarm")
    assert verdicts["rm1", "predicted_gain"] == "not enough data"
    asked = [json.loads(line) for line in Path(found["comparisons_to_label"]).read_text().splitlines()]
    assert len(asked) == 60
    texts = {(r.prompt_id, r.sample): r.reply for r in table[table["policy"] == "reference"].itertuples()}
    for row in asked:
        assert row["outcome"] is None
        assert 0 < row["probability"] <= 1
        assert texts[row["prompt_id"], row["first"]] == row["first_reply"]
        assert texts[row["prompt_id"], row["second"]] == row["second_reply"]

    # labelled by the number of words, and read back with the very samples that were asked about
    labels = [{**r, "outcome": float(np.sign(len(r["first_reply"].split()) - len(r["second_reply"].split())) / 2 + 0.5)} for r in asked]
    labelled = lines(tmp_path / "labels.jsonl", labels)
    again = told(
        capfd, *models(files), "--samples-file", found["samples"], "--comparisons", str(labelled), "--out", str(tmp_path / "again")
    )
    document = json.loads((tmp_path / "again" / "report.json").read_text())
    gains = {d["arm"]: {e["name"]: e["value"] for e in d["estimates"]} for d in document["diagnoses"] if d["name"] == "predicted_gain"}
    assert gains["rm2"]["gain_over rm1"] == pytest.approx(gains["rm2"]["gain_robust"] - gains["rm1"]["gain_robust"])
    # scored again by the same models, the same scores
    pd.testing.assert_frame_equal(pd.read_parquet(again["samples"]), table)
    for page in ("index.html", "report.md"):
        assert "Predicted gain" in (tmp_path / "again" / page).read_text()


def test_samples_scored_elsewhere_need_no_model(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(1)
    scores = [
        {"model": "mine", "item": f"i{i}", "prompt_id": f"p{i}", "reply": j, "rating": j, "score": rng.normal() + j}
        for i in range(30)
        for j in (0, 1)
    ]
    samples = [
        {"model": "mine", "policy": policy, "prompt_id": f"p{i}", "sample": j, "score": (s := rng.normal()), "gold": s + rng.normal()}
        for policy in ("reference", "policy")
        for i in range(30)
        for j in range(6)
    ]
    given = ["--scores", str(lines(tmp_path / "scores.jsonl", scores)), "--samples-file", str(lines(tmp_path / "samples.jsonl", samples))]
    assert invoke(["reward", "evaluate", *given, "--ask", "7", "--out", str(tmp_path / "card"), "--json"]) == 0
    found = json.loads(capfd.readouterr().out)
    verdicts = {v["question"]: v["verdict"] for v in found["verdicts"]}
    assert verdicts["regret"] == verdicts["own_pairs"] == verdicts["teaching"] == "quiet"
    asked = [json.loads(line) for line in Path(found["comparisons_to_label"]).read_text().splitlines()]
    # texts are not known, so only numbers are asked about
    assert [set(r) for r in asked] == [{"prompt_id", "policy", "first", "second", "probability", "outcome"}] * 7


def test_coverage_and_a_learning_curve(tmp_path: Path, files: dict[str, str], capfd: pytest.CaptureFixture[str]) -> None:
    new_embedding_reward(load_embedder(), Key(0)).save(tmp_path / "head")
    given = ["--reward-model", str(tmp_path / "head"), "--data", files["data"], "--training-data", files["data"], "--learning-curve"]
    sampling = ["--reference", files["policy1"], "--prompts", files["prompts"], "--samples", "2", "--max-tokens", "3"]
    found = told(capfd, *given, *sampling, "--out", str(tmp_path / "card"))
    curve = pd.read_parquet(found["learning_curve"])
    # four shares, each judged on all 24 pairs; 4/5 of their prompts at most are learned from
    assert curve.groupby("share").size().tolist() == [24] * 4
    labels = curve.groupby("share")["labels"].first().tolist()
    assert labels == sorted(labels)
    assert labels[-1] == round(24 * 4 / 5)
    samples = pd.read_parquet(found["samples"])
    # the prompts of the policies are those of the training data: at distance 0
    assert samples["context_distance"].max() == pytest.approx(0, abs=1e-3)
    assert {v["question"]: v["verdict"] for v in found["verdicts"]}["coverage"] == "quiet"


def test_a_model_that_cannot_start_afresh_has_no_curve(tmp_path: Path, files: dict[str, str], capfd: pytest.CaptureFixture[str]) -> None:
    words = [*models(files), "--training-data", files["data"], "--learning-curve", "--out", str(tmp_path / "card"), "--probes", "0"]
    assert invoke(["reward", "evaluate", *words]) == 2
    assert "only heads on frozen embeddings can start afresh" in " ".join(capfd.readouterr().err.split())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--reference", "P"], "--policy and --reference need --prompts"),
        (["--prompts", "F"], "--policy and --reference need --prompts"),
        (["--samples", "4"], "says how policies are sampled"),
        (["--reference", "P", "--prompts", "F", "--samples", "1"], "must be 2 or more, got 1"),
        (["--reference", "P", "--prompts", "F", "--temperature", "0"], "must be above 0, got 0"),
        (["--reference", "P", "--prompts", "F", "--samples-file", "F"], "so no policy is sampled"),
        (["--comparisons", "F"], "is about samples of the reference"),
        (["--ask", "10"], "is about samples of the reference"),
        (["--learning-curve"], "give --reward-model and --training-data"),
        (["--training-data", "F"], "is compared with samples"),
    ],
)
def test_options_that_do_not_go_together(
    tmp_path: Path, files: dict[str, str], words: list[str], said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert invoke(["reward", "evaluate", *models(files), *words, "--out", str(tmp_path / "card")]) == 2
    assert said in " ".join(capfd.readouterr().err.split())
    assert not (tmp_path / "card").exists()


def test_files_that_cannot_be_read(tmp_path: Path, files: dict[str, str], capfd: pytest.CaptureFixture[str]) -> None:
    bare = lines(tmp_path / "bare.jsonl", [{"policy": "reference", "prompt_id": "p", "sample": 0, "prompt": "ask"}])
    assert invoke(["reward", "evaluate", *models(files), "--samples-file", str(bare), "--out", str(tmp_path / "card")]) == 2
    assert "lacks the column 'reply'" in " ".join(capfd.readouterr().err.split())
    scores = [{"model": "m", "item": f"i{i}", "prompt_id": f"p{i}", "reply": j, "rating": j, "score": j} for i in range(3) for j in (0, 1)]
    given = ["--scores", str(lines(tmp_path / "scores.jsonl", scores)), "--out", str(tmp_path / "card")]
    texts = lines(tmp_path / "texts.jsonl", [{"policy": "reference", "prompt_id": "p", "sample": 0, "prompt": "ask", "reply": "tell"}])
    assert invoke(["reward", "evaluate", *given, "--samples-file", str(texts)]) == 2
    assert "holds texts, no scores" in " ".join(capfd.readouterr().err.split())
    other = lines(tmp_path / "other.jsonl", [{"model": "n", "policy": "reference", "prompt_id": "p", "sample": 0, "score": 1.0}])
    assert invoke(["reward", "evaluate", *given, "--samples-file", str(other)]) == 2
    assert "has no scores of model 'm', only of n" in " ".join(capfd.readouterr().err.split())
    assert invoke(["reward", "evaluate", *given, "--reference", "P", "--prompts", "F"]) == 2
    assert "Beside --scores give --samples-file" in " ".join(capfd.readouterr().err.split())


def test_what_is_not_stated_is_said_to_be(tmp_path: Path, files: dict[str, str], capfd: pytest.CaptureFixture[str]) -> None:
    told(capfd, "--reward-model", files["rm1"], "--data", files["data"], "--out", str(tmp_path / "card"))
    report = json.loads((tmp_path / "card" / "report.json").read_text())["reports"]["rm1"]
    assert report["Use"] == report["Labelled by"] == report["Trained on"] == "not stated"
    assert report["Architecture"] == "LlamaForSequenceClassification"
    assert report["Weights"].startswith("model.safetensors (sha256 ")
    assert "Reward Report" in (tmp_path / "card" / "index.html").read_text()
    (Path(files["rm1"]) / REPORT_FILE).write_text("{")
    assert invoke(["reward", "evaluate", "--reward-model", files["rm1"], "--data", files["data"], "--out", str(tmp_path / "bad")]) == 2
    assert f"{REPORT_FILE}: is no JSON" in " ".join(capfd.readouterr().err.split())


def test_files_of_scores_and_samples_need_no_torch(tmp_path: Path) -> None:
    scores = [{"model": "m", "item": f"i{i}", "prompt_id": f"p{i}", "reply": j, "rating": j, "score": j} for i in range(3) for j in (0, 1)]
    samples = [{"model": "m", "policy": "reference", "prompt_id": f"p{i}", "sample": j, "score": i * j} for i in range(3) for j in (0, 1)]
    words = ["reward", "evaluate", "--scores", str(lines(tmp_path / "scores.jsonl", scores))]
    words += ["--samples-file", str(lines(tmp_path / "samples.jsonl", samples)), "--ask", "2", "--out", str(tmp_path / "card")]
    code = f"import sys\nfrom trueup.cli.main import invoke\nassert invoke({words!r}) == 0\nassert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert (tmp_path / "card" / "comparisons-to-label.jsonl").exists()
