"""``--probes`` and ``--phrase`` of ``trueup reward evaluate``: from models, from a file, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests_support import WORDS, tiny_reward
from trueup.cli.main import invoke

PROBED = ("prompt", "reading", "robustness", "gaming")


@pytest.fixture
def judged(tmp_path: Path) -> Path:
    rng, rows = np.random.default_rng(0), []
    for i in range(60):
        a, b = (" ".join(rng.choice(WORDS, size=int(rng.integers(3, 6)))) for _ in range(2))
        if a != b:
            rows.append({"prompt": f"{' '.join(rng.choice(WORDS, size=3))} {i}", "chosen": a, "rejected": b})
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(json.dumps(r) for r in rows))
    return path


@pytest.fixture
def model(tmp_path: Path) -> str:
    tiny_reward(1).save(tmp_path / "rm")
    return str(tmp_path / "rm")


def verdicts(out: Path) -> dict[str, str]:
    return {d["name"]: d["verdict"] for d in json.loads((out / "report.json").read_text())["diagnoses"]}


def test_from_a_model_and_again_from_the_files_it_left(judged: Path, model: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = ["--reward-model", model, "--data", str(judged), "--probes", "30", "--phrase", "<script>alert(1)</script>"]
    assert invoke(["reward", "evaluate", *words, "--out", str(tmp_path / "card"), "--json"]) == 0
    told = json.loads(capfd.readouterr().out)
    assert told["probes"] == str(tmp_path / "card" / "probes.parquet")
    table = pd.read_parquet(told["probes"])
    assert 30 <= table[table["probe"] == "cut"].groupby(["item", "reply"]).ngroups <= 31
    assert "<script>alert(1)</script>" in set(table["variant"])
    assert all(verdicts(tmp_path / "card")[q] != "not enough data" for q in PROBED)
    page = (tmp_path / "card" / "index.html").read_text()
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert" in page
    again = ["--scores", told["scores"], "--probes", told["probes"], "--out", str(tmp_path / "again")]
    code = (
        "import sys\nfrom trueup.cli.main import invoke\n"
        f"assert invoke(['reward', 'evaluate', *{again!r}]) == 0\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=120)
    kept = [
        [d for d in json.loads((tmp_path / name / "report.json").read_text())["diagnoses"] if d["name"] in PROBED]
        for name in ("card", "again")
    ]
    assert kept[0] == kept[1]


def test_none_are_made_where_none_are_asked_for(judged: Path, model: str, tmp_path: Path) -> None:
    words = ["--reward-model", model, "--data", str(judged), "--probes", "0", "--out", str(tmp_path / "card")]
    assert invoke(["reward", "evaluate", *words]) == 0
    assert not (tmp_path / "card" / "probes.parquet").exists()
    assert {verdicts(tmp_path / "card")[q] for q in PROBED} == {"not enough data"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--reward-model", "rm", "--data", "pairs.jsonl", "--probes", "many"], "must be a number of replies, 0 for none, got 'many'"),
        (["--reward-model", "rm", "--data", "pairs.jsonl", "--probes", "-3"], "got '-3'"),
        (["--reward-model", "rm", "--data", "pairs.jsonl", "--phrase", " "], "--phrase: is empty"),
        (["--reward-model", "rm", "--data", "pairs.jsonl", "--probes", "0", "--phrase", "hi"], "needs replies to append to"),
        (["--scores", "s.csv", "--probes", "20"], "20 replies need a --reward-model"),
        (["--scores", "s.csv", "--phrase", "hi"], "needs a --reward-model that scores it"),
        (["--scores", "s.csv", "--probes", "none.csv"], "no such file"),
        (["--scores", "s.csv", "--probes", "s.csv"], "s.csv: lacks the column 'probe'"),
        (["--scores", "s.csv", "--probes", "p.csv"], "p.csv: reply 7 of item 'i' of model 'm' is not in the table of scores"),
    ],
)
def test_what_is_refused(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.csv").write_text("model,item,prompt_id,reply,rating,score\nm,i,p,0,1,0.5\nm,i,p,1,0,0.25\n")
    (tmp_path / "p.csv").write_text("model,item,prompt_id,reply,probe,variant,score,original\nm,i,p,7,typo,,0.5,0.5\n")
    assert invoke(["reward", "evaluate", *words, "--out", "card"]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "card").exists()
