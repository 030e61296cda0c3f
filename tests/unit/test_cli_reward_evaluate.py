"""``trueup reward evaluate``: from models or scores to a card, side by side, and what it refuses."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests_support import WORDS, tiny_reward
from trueup.cli.main import invoke
from trueup.core.rng import Key
from trueup.mismatch.reward_model import card
from trueup.mismatch.reward_model.card import examine
from trueup.mismatch.reward_model.scores import checked
from trueup.report.card import card_page

FLAWS = set(card.asked())


def judged_file(path: Path, n: int = 30) -> Path:
    rng = np.random.default_rng(0)
    rows = []
    for i in range(n):
        a, b = (" ".join(rng.choice(WORDS, size=int(rng.integers(1, 6)))) for _ in range(2))
        if a != b:
            rows.append(
                {"prompt": f"ask {WORDS[i % 5]} {'tell ' * (i // 5)}", "chosen": a, "rejected": b, "subset": "even" if i % 2 else "odd"}
            )
    path.write_text("\n".join(json.dumps(r) for r in rows))
    return path


@pytest.fixture
def models(tmp_path: Path) -> list[str]:
    for seed in (1, 2):
        tiny_reward(seed).save(tmp_path / f"rm{seed}" / "final")
    return [str(tmp_path / f"rm{seed}" / "final") for seed in (1, 2)]


def told(capfd: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert invoke(["reward", "evaluate", *words, "--json"]) == 0
    found: dict[str, Any] = json.loads(capfd.readouterr().out)
    return found


def test_a_card_of_two_models(tmp_path: Path, models: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    data, out = judged_file(tmp_path / "pairs.jsonl"), tmp_path / "card"
    found = told(capfd, "--reward-model", models[0], "--reward-model", models[1], "--data", str(data), "--out", str(out))
    assert found["command"] == "reward evaluate"
    assert found["models"] == ["rm1/final", "rm2/final"]  # as short as tells them apart
    assert {v["question"] for v in found["verdicts"]} == FLAWS
    document = json.loads((out / "report.json").read_text())
    estimates = {(d["arm"], e["name"]): e for d in document["diagnoses"] for e in d["estimates"]}
    scores = pd.read_parquet(out / "scores.parquet")
    for name in found["models"]:
        rows = scores[scores["model"] == name].pivot_table(index="item", columns="reply", values="score")
        wins = ((rows[0] > rows[1]) + 0.5 * (rows[0] == rows[1])).mean()
        assert estimates[name, "accuracy"]["value"] == pytest.approx(wins)
        assert {"accuracy even", "accuracy odd", "worst_domain", "length_partial", "ece_mass"} <= {n for m, n in estimates if m == name}
    assert document["differences"][0]["name"] == "rm2/final - rm1/final"
    facts = document["facts"]
    assert str(data) in facts["data 1"]
    assert "sha256" in facts["data 1"]
    for page in ("index.html", "report.md"):
        text = (out / page).read_text()
        assert "rm1/final" in text
        assert "worst domain" in text.lower()


def test_scores_made_elsewhere_need_no_model(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "scores.csv"
    rng = np.random.default_rng(1)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["model", "item", "prompt_id", "reply", "rating", "score"])
        for i in range(40):
            for model, right in (("sound", 0.9), ("coin", 0.5)):
                won = rng.random() < right
                writer.writerows([[model, i, f"p{i}", 0, 1, 1.0 if won else 0.0], [model, i, f"p{i}", 1, 0, 0.0 if won else 1.0]])
    found = told(capfd, "--scores", str(path), "--out", str(tmp_path / "card"))
    verdicts = {(v["model"], v["question"]): v["verdict"] for v in found["verdicts"]}
    assert verdicts["sound", "accuracy"] == "quiet"
    assert verdicts["coin", "accuracy"] == "alarm"
    assert verdicts["sound", "length"] == verdicts["sound", "style"] == "not enough data"
    code = (
        "import sys\nfrom trueup.cli.main import invoke\n"
        f"assert invoke(['reward', 'evaluate', '--scores', {str(path)!r}, '--out', {str(tmp_path / 'again')!r}]) == 0\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=120)
    assert (tmp_path / "again" / "report.json").read_bytes() == (tmp_path / "card" / "report.json").read_bytes()


def test_model_names_and_texts_are_escaped(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path, name = tmp_path / "scores.jsonl", "<script>alert(1)</script>"
    rows = [
        {
            "model": name,
            "item": i,
            "prompt_id": i,
            "reply": j,
            "rating": 1 - j,
            "score": float(i % 3 - j),
            "domain": "<b>",
        }
        for i in range(25)
        for j in (0, 1)
    ]
    path.write_text("\n".join(json.dumps(r) for r in rows))
    told(capfd, "--scores", str(path), "--out", str(tmp_path / "card"))
    page = (tmp_path / "card" / "index.html").read_text()
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert" in page


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "give either --reward-model and --data, or --scores"),
        (["--scores", "x.csv", "--data", "y"], "give either"),
        (["--reward-model", "rm"], "needs --data"),
        (["--scores", "none.csv"], "no such file"),
        (["--scores", "none.csv", "--agreement", "0.5"], "must be above 0.5 and at most 1, got 0.5"),
        (["--scores", "none.csv", "--agreement", "63"], "must be above 0.5 and at most 1, got 63"),
        (["--reward-model", "rm", "--reward-model", "rm", "--data", "pairs.jsonl"], "named twice"),
        (["--reward-model", "./rm", "--data", "none.jsonl"], "no such file"),
        (["--reward-model", "./rm", "--data", "pairs.jsonl"], "./rm"),
    ],
)
def test_what_is_refused(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    judged_file(tmp_path / "pairs.jsonl")
    assert invoke(["reward", "evaluate", *words, "--out", "card"]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "card").exists()


def test_a_folder_in_use_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "card").mkdir()
    (tmp_path / "card" / "mine.txt").write_text("x")
    assert invoke(["reward", "evaluate", "--scores", "x.csv", "--out", str(tmp_path / "card")]) == 2
    assert "not an empty folder" in capsys.readouterr().err


def test_votes_and_a_stated_agreement_reach_the_examination(
    tmp_path: Path, models: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    seen: list[dict[str, Any]] = []

    def watched(frame: pd.DataFrame, key: Key, **more: Any) -> Any:
        seen.append({"frame": frame, **more})
        return examine(frame, key, **more)

    monkeypatch.setattr(card, "examine", watched)
    votes = tmp_path / "votes.jsonl"
    rows = [
        {"prompt": f"ask {WORDS[i % 5]}", "response1": "good", "response2": "bad " * (1 + i), "annotator1": 1, "annotator2": 1 + i % 2}
        for i in range(4)
    ]
    votes.write_text("\n".join(json.dumps(r) for r in rows))
    single = judged_file(tmp_path / "pairs.jsonl")
    found = told(capfd, "--reward-model", models[0], "--data", str(votes), "--data", str(single), "--out", str(tmp_path / "a"))
    assert found["data"]["ties"] == 2  # the votes of the second and the fourth row are split
    table = seen[0]["votes"]
    assert table.columns.tolist() == ["item", "annotator", "vote"]
    assert table["vote"].tolist() == [1, 1, 1, -1, 1, 1, 1, -1]
    assert set(table["item"]) == set(seen[0]["frame"]["item"]) - {i for i in seen[0]["frame"]["item"] if i.startswith("pairs/")}
    told(capfd, "--reward-model", models[0], "--data", str(single), "--agreement", "0.63", "--out", str(tmp_path / "b"))
    assert (seen[1]["agreement"], len(seen[1]["votes"])) == (0.63, 0)
    words = ["reward", "evaluate", "--reward-model", models[0], "--data", str(votes), "--agreement", "0.63", "--out", str(tmp_path / "c")]
    assert invoke(words) == 2
    assert "--agreement: the data have several labels a pair" in capfd.readouterr().err
    assert not (tmp_path / "c").exists()


def test_rewards_can_still_be_trained_by_that_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["reward", "no-such.yaml"]) == 2
    assert "no such configuration file" in capsys.readouterr().err


def test_transcripts_and_long_replies_of_a_model_without_a_chat_template(models: list[str], tmp_path: Path, capfd: Any) -> None:
    start = "\n\nHuman: a b {}\n\nAssistant: "
    # tiny models read 64 tokens: the last reply is longer
    rows = [
        {
            "chosen": start.format(WORDS[k % len(WORDS)]) + "b c",
            "rejected": start.format(WORDS[k % len(WORDS)]) + "c d " * (40 if k == 29 else 1),
        }
        for k in range(30)
    ]
    data = tmp_path / "hh.jsonl"
    data.write_text("".join(json.dumps(r) + "\n" for r in rows))
    command = ["reward", "evaluate", "--reward-model", models[0], "--data", str(data), "--probes", "0", "--json"]
    assert invoke([*command, "--out", str(tmp_path / "refused")]) == 2
    assert "roles" in capfd.readouterr().err
    assert invoke([*command, "--rendering", "roles", "--out", str(tmp_path / "card")]) == 0
    assert json.loads(capfd.readouterr().out)["data"]["pairs"] == 30
    assert invoke([*command, "--rendering", "rolls", "--out", str(tmp_path / "other")]) == 2


def test_questions_without_evidence_stand_together_at_the_end() -> None:
    rng = np.random.default_rng(0)
    rows = [
        {"model": "m", "item": f"{k}", "prompt_id": f"{k}", "reply": j, "rating": 1.0 - j, "score": float(rng.normal()) + 2 * (1 - j)}
        for k in range(60) for j in range(2)
    ]  # fmt: skip
    page = card_page(examine(checked(pd.DataFrame(rows)), Key(0)), {}, {})
    anchors = [s.anchor for s in page.sections]
    assert anchors == ["accuracy", "certainty", "unanswered"]
    table = page.sections[-1].blocks[0].tables[0]  # type: ignore[union-attr]
    assert len(table.rows) == len(card.asked()) - 2
    assert next(row for row in table.rows if row[0] == "Length")[2] == "Not enough data: lengths are unknown."
    drawn = {s.anchor: len(s.blocks[0].figures) for s in page.sections}  # type: ignore[union-attr]
    assert drawn == {"accuracy": 0, "certainty": 1, "unanswered": 0}
    tones = [a.tone for a in page.answers]
    assert tones == sorted(tones, key=lambda t: t != "alarm")
