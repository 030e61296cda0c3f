"""``trueup audit --logs`` from the command line, rightly and wrongly."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from trueup.cli.main import invoke

PEERS = Path(__file__).resolve().parents[1] / "data" / "peer_logs"


def log(path: Path, steps: int = 60) -> Path:
    """A training whose evaluation falls while its score rises: metrics of one row a step, evaluated every third."""
    draws = np.random.default_rng(0)
    with open(path, "w") as file:
        for step in range(1, steps + 1):
            row = {"step": step, "reward": 0.05 * step + 0.1 * draws.normal()}
            if step % 3 == 0:
                row["eval_quiz"] = 0.8 - 0.01 * step + 0.01 * draws.normal()
            file.write(json.dumps(row) + "\n")
    return path


def test_a_falling_evaluation_alarms_where_its_side_is_said(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = log(tmp_path / "metrics.jsonl")
    words = ["audit", "--logs", str(path), "--out", str(tmp_path / "out"), "--json"]
    assert invoke([*words, "--higher", "quiz"]) == 0
    found = json.loads(capfd.readouterr().out)
    verdicts = {v["name"]: v["verdict"] for v in found["verdicts"]}
    assert verdicts["evaluation_falls"] == "alarm"
    assert verdicts["length_growth"] == "not enough data"
    assert found["logs"][0]["used"] == {"proxy": "reward", "evaluations.quiz": "eval_quiz"}
    assert Path(found["report"]["html"]).is_file()
    # the page may be written again; nobody says which side is better, or says the other one
    assert invoke(words) == 0
    assert {v["name"]: v["verdict"] for v in json.loads(capfd.readouterr().out)["verdicts"]}["evaluation_falls"] == "not enough data"
    assert invoke([*words, "--lower", "quiz"]) == 0
    assert {v["name"]: v["verdict"] for v in json.loads(capfd.readouterr().out)["verdicts"]}["evaluation_falls"] == "quiet"


def test_people_are_told_what_curves_cannot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["audit", "--logs", str(PEERS / "verl-0.9.1" / "verl.jsonl"), "--out", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "verl (jsonl, steps 1 to 20): kl_token_nats from actor/reward_kl_penalty, proxy from critic/score/mean" in said
    assert "cannot be told from curves: over-optimisation" in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--logs", "nowhere"], "nowhere: no such file"),
        (["--curve", "proxy=x"], "--curve: is about --logs"),
        (["--lower", "x"], "--lower: is about --logs"),
        (["--logs", "LOG", "--records", "x.csv"], "--records: does not go with --logs"),
        (["--logs", "LOG", "--labels", "x.csv"], "--labels: does not go with --logs"),
        (["--logs", "LOG", "--policy", "x"], "--policy: does not go with --logs"),
        (["--logs", "LOG", "--curve", "proxy"], "--curve: must be OURS=NAME"),
        (["--logs", "LOG", "--curve", "proxy=rewad"], "the log has no 'rewad'. Did you mean 'reward'?"),
        (["--logs", "LOG", "--higher", "quizz"], "no log has an evaluation 'quizz'. There are: quiz."),
        (["--logs", "LOG", "--out", "USED"], "USED: the folder is not empty"),
    ],
)
def test_wrong_words_are_named(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    log(tmp_path / "metrics.jsonl", 30)
    (tmp_path / "USED").mkdir()
    (tmp_path / "USED" / "thesis.tex").write_text("x")
    words = ["metrics.jsonl" if w == "LOG" else w for w in words]
    assert invoke(["audit", *words, *([] if "--out" in words else ["--out", "out"])]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_no_torch_is_needed(tmp_path: Path) -> None:
    words = ["audit", "--logs", str(PEERS / "trl-1.16.0"), "--out", str(tmp_path / "out")]
    code = f"import sys\nfrom trueup.cli.main import invoke\nassert invoke({words!r}) == 0\n"
    code += "print('torch' in sys.modules, 'tensorboard' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240, check=True)
    assert done.stdout.splitlines()[-1] == "False False"
