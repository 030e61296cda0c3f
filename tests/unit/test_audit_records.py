"""Samples of other programs: every format and name, what is filled in, ignored and missing, and what is refused, with its place."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import trueup
from trueup.cli.main import invoke
from trueup.core.record import SampleRecord
from trueup.data.turns import prompt_id
from trueup.store.columns import flatten
from trueup.store.foreign import read_foreign
from trueup.store.foreign_evaluations import with_evaluations
from trueup.store.foreign_labels import with_labels
from trueup.store.records import to_table, write_records

HEAD = "step,prompt,response,reward\n"


def rows_of(steps: int = 2, prompts: int = 2, replies: int = 2) -> list[dict[str, Any]]:
    """Plain rows under other programs' names; the reward of reply r to prompt p at step s is s + p / 10 + r / 100."""
    return [
        {"step": 10 * s, "prompt": f"ask {p}", "completion": f"say {s} {p} {r}", "reward": s + p / 10 + r / 100, "kl": 0.5 * s, "junk": "x"}
        for s in range(steps)
        for p in range(prompts)
        for r in range(replies)
    ]


def file_of(folder: Path, kind: str, rows: list[dict[str, Any]]) -> Path:
    path, table = folder / f"samples.{kind}", pd.DataFrame(rows)
    if kind.startswith("csv"):
        table.to_csv(path, index=False)
    elif kind.startswith("jsonl"):
        table.to_json(path, orient="records", lines=True)
    else:
        table.to_parquet(path)
    return path


@pytest.mark.parametrize("kind", ["csv", "csv.gz", "jsonl", "jsonl.gz", "parquet"])
def test_every_format_reads_alike(kind: str, tmp_path: Path) -> None:
    found = read_foreign([file_of(tmp_path, kind, rows_of())])
    rows = flatten(found.table)
    assert rows["step"].tolist() == [0] * 4 + [10] * 4
    assert rows["proxy_fixed"].tolist() == pytest.approx([0, 0.01, 0.1, 0.11, 1, 1.01, 1.1, 1.11])
    assert rows["response"].tolist()[:2] == ["say 0 0 0", "say 0 0 1"]
    assert set(rows["arm"]) == {"policy"}
    # the name of a prompt is that of data files of ours
    assert rows["prompt_id"][0] == prompt_id("ask 0")
    assert rows["sample_id"].is_unique
    assert found.ignored == ("junk",)
    assert found.read["proxy_fixed"] == "reward"
    assert {"gold", "n_tokens", "finished", "evaluations", "labels"} == set(found.missing())


def test_names_of_other_programs(tmp_path: Path) -> None:
    verl = [{"input": "a", "output": "b", "gts": "c", "score": 1, "step": 3}]
    rows = flatten(read_foreign([file_of(tmp_path, "jsonl", verl)]).table)
    assert rows.loc[0, ["step", "prompt", "response", "proxy_fixed"]].tolist() == [3, "a", "b", 1.0]
    given = [{"global_step": 3, "query": "a", "reply": "b", "mine": 2.5, "score.other": 1.5, "eval.right": 1, "arm": "ppo"}]
    rows = flatten(read_foreign([file_of(tmp_path, "csv", given)], {"proxy": "mine", "eval.wrong": "eval.right"}).table)
    assert rows.loc[0, ["arm", "proxy_fixed", "scores.other", "evaluations.wrong"]].tolist() == ["ppo", 2.5, 1.5, 1.0]
    # messages as trl writes them for conversations
    chat = [[{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}, {"role": "user", "content": "why"}]]
    table = pa.table({"step": [1], "prompt": chat, "completion": [[{"role": "assistant", "content": "so"}]], "my_reward": [0.5]})
    pq.write_table(table, tmp_path / "completions_00001.parquet")
    found = read_foreign([tmp_path / "completions_00001.parquet"], {"proxy": "my_reward"})
    assert flatten(found.table).loc[0, "prompt"] == "user: hi\nassistant: ho\nuser: why"
    assert flatten(found.table).loc[0, "response"] == "so"


def test_absent_is_absent(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("step,prompt,response,reward,finished,gold\n0,a,b,,true,nan\n0.0,a,,1.5,0,2\n")
    rows = flatten(read_foreign([tmp_path / "a.csv"]).table)
    assert rows["proxy_fixed"].isna().tolist() == [True, False]
    assert rows["gold"].isna().tolist() == [True, False]
    assert rows["finished"].tolist() == [True, False]
    assert rows["response"].tolist() == ["b", ""]
    (tmp_path / "b.jsonl").write_text('{"step": 1, "prompt": "2020-01-01", "reward": NaN}\n\n{"step": 1, "prompt": "x", "reward": 2}\n')
    rows = flatten(read_foreign([tmp_path / "b.jsonl"]).table)
    assert rows["prompt"].tolist() == ["2020-01-01", "x"]
    assert rows["proxy_fixed"].isna().tolist() == [True, False]
    (tmp_path / "d.jsonl").write_text('{"step": 1, "prompt": "2020-01-01", "response": "2020-01-02 03:04:05"}\n')
    assert flatten(read_foreign([tmp_path / "d.jsonl"]).table).loc[0, ["prompt", "response"]].tolist() == [
        "2020-01-01",
        "2020-01-02 03:04:05",
    ]
    # pandas writes its index as a first column without a name
    (tmp_path / "c.csv").write_text(',step,prompt_id,response\n0,3,007,"two\nlines"\n')
    rows = flatten(read_foreign([tmp_path / "c.csv"]).table)
    assert rows.loc[0, ["prompt_id", "prompt", "response"]].tolist() == ["007", "", "two\nlines"]


def test_our_own_records_are_read_alike(tmp_path: Path) -> None:
    records = [
        SampleRecord(
            run="r", arm=arm, seed=1, step=None if arm == "offline" else 4, split="test", prompt_id="p", sample_id=f"{arm}-{i}",
            policy_id="x", prompt="q", response=f"a{i}", scores={"rm-0": 0.5 + i}, gold_components={"kind": 1.0},
            evaluations={"right": float(i)}, gold=2.0,
        )
        for arm in ("mine", "offline")
        for i in range(2)
    ]  # fmt: skip
    for name in ("records.parquet", "records.jsonl"):
        write_records(tmp_path / name, records)
        assert read_foreign([tmp_path / name]).table.equals(to_table(records))


def test_labels_find_their_replies_by_id_and_by_text(tmp_path: Path) -> None:
    found = read_foreign([file_of(tmp_path, "csv", rows_of())])
    ids = found.table.column("sample_id").to_pylist()
    (tmp_path / "ids.csv").write_text(f"sample_id_a,sample_id_b,preference,annotator\n{ids[0]},{ids[1]},b,ann\n{ids[2]},nobody,1,ann\n")
    told = with_labels(found, tmp_path / "ids.csv")
    assert (told.among_samples, told.offline, told.left_out) == (1, 0, 1)
    rows = flatten(told.found.table)
    assert rows["labels"][0] == [{"annotator": "ann", "other_sample_id": ids[1], "preference": 0.0}]
    lines = [
        {"prompt": "ask 1", "response_a": "say 1 1 0", "response_b": "say 1 1 1", "preference": 0.5},
        {
            "prompt": "ask 9",
            "response_a": "new",
            "response_b": "old",
            "preference": "a",
            "score_a": 2,
            "score_b": 1,
            "gold_a": 5,
            "gold_b": 4,
        },
    ]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    told = with_labels(found, tmp_path / "texts.jsonl")
    assert (told.among_samples, told.offline, told.left_out) == (1, 1, 0)
    rows = flatten(told.found.table)
    assert rows["labels"][6] == [{"annotator": "annotator", "other_sample_id": ids[7], "preference": 0.5}]
    offline = rows[rows["arm"] == "offline"]
    assert offline["proxy_fixed"].tolist() == [2, 1]
    assert offline["gold"].tolist() == [5, 4]
    assert offline["labels"].iloc[0][0]["preference"] == 1.0


def test_equal_texts_are_compared_within_a_checkpoint(tmp_path: Path) -> None:
    rows = [{"step": s, "prompt": "ask", "completion": c, "reward": 0.0} for s, c in ((0, "x"), (1, "x"), (1, "y"))]
    found = read_foreign([file_of(tmp_path, "csv", rows)])
    (tmp_path / "l.csv").write_text("prompt,chosen,rejected\nask,y,x\n")
    labels = flatten(with_labels(found, tmp_path / "l.csv").found.table)["labels"]
    # x stands at both steps; y only at step 1, so the x of step 1 is meant
    assert labels[2][0]["other_sample_id"] == found.table.column("sample_id")[1].as_py()


def test_evaluations_of_checkpoints(tmp_path: Path) -> None:
    found = read_foreign([file_of(tmp_path, "csv", rows_of())])
    (tmp_path / "e.csv").write_text("step,name,value,n,better\n0,quiz,0.4,200,\n10,quiz,0.5,200,\n10,harm,0.1,,lower\n")
    rows = flatten(with_evaluations(found, tmp_path / "e.csv").table)
    made = rows[rows["split"] == "evaluation"].set_index("step")
    assert made["evaluations.quiz"].to_dict() == {0: 0.4, 10: 0.5}
    assert made["evaluations.quiz:n"].to_dict() == {0: 200, 10: 200}
    assert made.loc[10, "evaluations.harm:side"] == -1
    assert pd.isna(made.loc[0, "evaluations.harm"])


Make = Callable[[Path], list[str]]


def given(folder: Path, text: str, name: str = "a.csv", *more: str) -> list[str]:
    (folder / name).write_text(text)
    return ["--records", str(folder / name), *more]


def beside(folder: Path, option: str, text: str, rows: str = "0,a,b,1\n0,a,c,2\n") -> list[str]:
    (folder / "beside.csv").write_text(text)
    return given(folder, HEAD + rows, "a.csv", option, str(folder / "beside.csv"))


# fmt: off
REFUSED: dict[str, tuple[Make, str]] = {
    "no such file": (lambda d: ["--records", str(d / "none.csv")], "none.csv: no such file"),
    "unknown format": (lambda d: given(d, "x", "a.txt"), "Allowed: .csv, .jsonl"),
    "nothing in it": (lambda d: given(d, ""), "a.csv, line 1: is empty"),
    "no rows": (lambda d: given(d, HEAD), "holds no rows"),
    "no rows of JSON": (lambda d: given(d, "\n", "a.jsonl"), "a.jsonl: holds no rows"),
    "no step": (lambda d: given(d, "prompt,response\na,b\n"), "no column 'step', 'global_step'"),
    "no prompt": (lambda d: given(d, "step,response\n1,b\n"), "no column 'prompt', 'input'"),
    "one column twice": (lambda d: given(d, "step,step,prompt\n1,1,a\n"), "line 1: every column needs a name of its own"),
    "a text for a number": (
        lambda d: given(d, HEAD + "0,a,b,1\n0,a,b,much\n"),
        "a.csv, line 3, column 'reward': must be a number, got 'much'",
    ),
    "after a reply of two lines": (lambda d: given(d, HEAD + '0,a,"b\nb",1\n0,a,b,much\n'), "a.csv, line 4, column 'reward'"),
    "half a step": (lambda d: given(d, HEAD + "0.5,a,b,1\n"), "line 2, column 'step': must be a whole number, got 0.5"),
    "an infinite reward": (lambda d: given(d, HEAD + "0,a,b,1\n0,a,b,inf\n"), "line 3, column 'reward': must be finite"),
    "an empty step": (lambda d: given(d, HEAD + "0,a,b,1\n,a,b,2\n"), "line 3, column 'step': is empty in 1 rows"),
    "too many cells": (lambda d: given(d, HEAD + "0,a,b,1\n0,a,b,1,7\n"), "a.csv, line 3: has 5 cells"),
    "finished perhaps": (lambda d: given(d, "step,prompt,finished\n0,a,perhaps\n"), "column 'finished': must be true or false"),
    "broken JSON": (lambda d: given(d, '{"step": 0, "prompt": "a"}\n{"step": 1,\n', "a.jsonl"), "a.jsonl, line 2: is not valid JSON"),
    "a list in JSON": (lambda d: given(d, "[1]\n", "a.jsonl"), "a.jsonl, line 1: must be an object"),
    "a number, then a text": (
        lambda d: given(d, '{"step": 0, "prompt": "a", "reward": 1}\n\n{"step": 0, "prompt": "a", "reward": "x"}\n', "a.jsonl"),
        "a.jsonl, line 3, column 'reward'",
    ),
    "texts for numbers in JSON": (
        lambda d: given(d, '{"step": 0, "prompt": "a", "reward": "x"}\n', "a.jsonl"),
        "must hold numbers, got string",
    ),
    "not UTF-8": (lambda d: [(d / "a.csv").write_bytes(HEAD.encode() + b"0,\xff,b,1\n") and "--records", str(d / "a.csv")], "UTF-8"),
    "no Parquet": (lambda d: given(d, "x", "a.parquet"), "not a readable Parquet file"),
    "one name for two samples": (lambda d: given(d, "step,prompt,sample_id\n0,a,s\n0,a,s\n"), "sample_id 's'"),
    "an unknown column of ours": (
        lambda d: given(d, HEAD + "0,a,b,1\n", "a.csv", "--column", "profit=reward"),
        "no column 'profit' is known",
    ),
    "an unknown column of theirs": (lambda d: given(d, HEAD + "0,a,b,1\n", "a.csv", "--column", "gold=truth"), "has a column 'truth'"),
    "half a column": (lambda d: given(d, HEAD + "0,a,b,1\n", "a.csv", "--column", "gold"), "must be OURS=THEIRS"),
    "labels without a pair": (lambda d: beside(d, "--labels", "preference\n1\n"), "must name two replies"),
    "labels without a preference": (lambda d: beside(d, "--labels", "prompt,response_a,response_b\na,b,c\n"), "no column 'preference'"),
    "an odd preference": (
        lambda d: beside(d, "--labels", "prompt,response_a,response_b,preference\na,b,c,1\na,b,c,2\n"),
        "beside.csv, line 3, column 'preference'",
    ),
    "labels of other replies": (lambda d: beside(d, "--labels", "prompt,chosen,rejected\nz,b,c\n"), "none of its 1 comparisons"),
    "evaluations without values": (lambda d: beside(d, "--evaluations", "step,name\n0,quiz\n"), "no column 'value'"),
    "an evaluation of no checkpoint": (
        lambda d: beside(d, "--evaluations", "step,name,value\n7,quiz,1\n"),
        "line 2, column 'step': no samples",
    ),
    "an evaluation twice": (lambda d: beside(d, "--evaluations", "step,name,value\n0,quiz,1\n0,quiz,1\n"), "line 3: 'quiz' of step 0"),
    "an evaluation of nothing": (lambda d: beside(d, "--evaluations", "step,name,value\n0,quiz,\n"), "line 2, column 'value': is empty"),
    "an odd side": (lambda d: beside(d, "--evaluations", "step,name,value,better\n0,quiz,1,left\n"), "column 'better'"),
    "nothing at all": (lambda d: [], "give --records"),
}
# fmt: on


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_read_is_said_with_its_place(case: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    make, said = REFUSED[case]
    assert invoke(["audit", *make(tmp_path), "--out", str(tmp_path / "out")]) == 2
    err = capfd.readouterr().err
    assert err.count("error:") == 1
    assert said in " ".join(err.split())
    assert not (tmp_path / "out").exists()


def test_a_folder_in_use_is_left_alone(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine.txt").write_text("mine")
    assert invoke(["audit", "--records", str(file_of(tmp_path, "csv", rows_of())), "--out", str(tmp_path / "out")]) == 2
    assert "not empty" in capfd.readouterr().err


def test_the_report_says_what_was_read_and_needs_no_torch(tmp_path: Path) -> None:
    path = file_of(tmp_path, "jsonl", [r | {"gold": r["reward"] ** 2} for r in rows_of(4, 12, 3)])
    code = (
        "import sys; from trueup.cli.main import invoke; s = invoke(sys.argv[1:]); "
        "heavy = {'torch', 'transformers', 'tokenizers'} & set(sys.modules); sys.exit(s or len(heavy))"
    )
    words = ["audit", "--records", str(path), "--out", str(tmp_path / "out"), "--json"]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["reading"]["rows"] == 144
    assert said["reading"]["ignored"] == ["junk"]
    page = (tmp_path / "out/report/report.md").read_text()
    assert "What was read" in page
    assert "No labels" in page
    # the folder is a run like any other
    assert len(trueup.audit(tmp_path / "out").diagnoses) == len(said["verdicts"])


def test_an_archive_that_is_cut_short(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    whole = gzip.compress((HEAD + "0,a,b,1\n" * 2000).encode())
    (tmp_path / "a.csv.gz").write_bytes(whole[: len(whole) // 2])
    assert invoke(["audit", "--records", str(tmp_path / "a.csv.gz"), "--out", str(tmp_path / "out")]) == 2
    assert "a.csv.gz" in capfd.readouterr().err
