"""Rows of files: every format, and every way a file can be damaged, with its line."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from trueup.core.errors import UserError
from trueup.data.source import read_rows

ROWS = [{"prompt": 'a, "b"\nc', "chosen": "ü", "rejected": "x"}, {"prompt": "d", "chosen": "e", "rejected": "f"}]


def write(path: Path, kind: str) -> Path:
    text = {
        "jsonl": "\n\n".join(json.dumps(r) for r in ROWS) + "\n",
        "json": json.dumps(ROWS, indent=1),
        "csv": 'prompt,chosen,rejected\n"a, ""b""\nc",ü,x\nd,e,f\n',
        "txt": "first prompt\n\nsecond prompt\r\n",
    }
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), path)
    elif path.suffix == ".gz":
        path.write_bytes(gzip.compress(text[kind].encode()))
    else:
        path.write_bytes(text[kind].encode())
    return path


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "parquet", "jsonl.gz", "csv.gz", "json.gz"])
def test_formats_agree(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path / f"my.data.{kind}", kind.removesuffix(".gz"))
    assert [r.values for r in read_rows(path)] == ROWS
    assert next(iter(read_rows(path))).id.startswith("my.data:")


def test_places_are_those_of_an_editor(tmp_path: Path) -> None:
    assert [r.where for r in read_rows(write(tmp_path / "a.jsonl", "jsonl"))] == [
        f"{tmp_path}/a.jsonl, line 1",
        f"{tmp_path}/a.jsonl, line 3",
    ]
    # The first CSV row covers lines 2 and 3, since its text holds a line end.
    assert [r.where for r in read_rows(write(tmp_path / "a.csv", "csv"))] == [f"{tmp_path}/a.csv, line 2", f"{tmp_path}/a.csv, line 4"]
    assert [r.values["prompt"] for r in read_rows(write(tmp_path / "a.txt", "txt"))] == ["first prompt", "second prompt"]


def test_several_files_and_rows_in_memory(tmp_path: Path) -> None:
    paths = [write(tmp_path / "a.jsonl", "jsonl"), str(write(tmp_path / "b.csv", "csv"))]
    assert [r.values for r in read_rows(paths)] == ROWS * 2
    found = list(read_rows(ROWS))
    assert [(r.where, r.values) for r in found] == [("row 1", ROWS[0]), ("row 2", ROWS[1])]


def test_a_byte_order_mark_is_no_part_of_the_first_field(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbfprompt\nhello\n")
    assert next(iter(read_rows(tmp_path / "a.csv"))).values == {"prompt": "hello"}


@pytest.mark.parametrize(
    ("name", "data", "place", "said"),
    [
        ("a.jsonl", b'{"a": 1}\n' * 16 + b'{"a": \n', "a.jsonl, line 17", "not valid JSON"),
        ("a.jsonl", b'{"a": 1}\n[1]\n', "a.jsonl, line 2", "must be an object"),
        ("a.jsonl", b'{"a": 1}\n{"a": "\xff"}\n', "a.jsonl, line 2", "not UTF-8"),
        ("a.json", b'[{"a": 1},\n{"a" 2}]', "a.json, line 2", "not valid JSON"),
        ("a.json", b'{"a": 1}', "a.json", "must hold a list"),
        ("a.csv", b"a,b\n1,2\n3\n", "a.csv, line 3", "must have 2 cells"),
        ("a.csv", b"a,b\n1,2,3\n", "a.csv, line 2", "must have 2 cells"),
        ("a.csv", b'a,b\n1,2\n"3,4\n', "a.csv, line 3", "not valid CSV"),
        ("a.csv", b"a,a\n1,2\n", "a.csv, line 1", "every column once"),
        ("a.parquet", b"PAR1", "a.parquet", "not a readable Parquet"),
        ("a.xlsx", b"PK", "a.xlsx", "unknown format. Allowed: .jsonl"),
        # no time in the archive: the bytes are part of the test's name, which both test processes must agree on
        ("a.jsonl.gz", gzip.compress(b'{"a": 1}\n' * 2000, mtime=0)[:-12], "a.jsonl.gz, after line", "damaged or cut short"),
        ("a.jsonl.gz", b"not an archive", "a.jsonl.gz, after line 0", "damaged or cut short"),
    ],
)
def test_damaged_files(tmp_path: Path, name: str, data: bytes, place: str, said: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=said) as found:
        list(read_rows(tmp_path / name))
    assert f"{tmp_path}/{place}" in (found.value.where or "")


def test_missing_files_and_folders(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        list(read_rows(tmp_path / "a.jsonl"))
    with pytest.raises(UserError, match="no such file"):
        list(read_rows("./somewhere/data"))
    with pytest.raises(UserError, match="is a folder"):
        list(read_rows(tmp_path))


def test_a_hub_name_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)  # None makes the import fail
    with pytest.raises(UserError, match="pip install datasets") as found:
        list(read_rows("Someone/preferences"))
    assert found.value.where == "Someone/preferences"


def test_a_hub_name_goes_through_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    class Library:
        class exceptions:
            DatasetNotFoundError = LookupError

        @staticmethod
        def load_dataset(name: str, *, split: str, data_dir: str | None = None) -> list[dict[str, str]]:
            if name != "Someone/preferences":
                raise ConnectionError("offline")
            return [{"prompt": f"{split} {data_dir}"}]

    monkeypatch.setitem(__import__("sys").modules, "datasets", Library)
    found = list(read_rows("Someone/preferences", hub_split="test", hub_subset="helpful"))
    assert [(r.values["prompt"], r.where) for r in found] == [("test helpful", "Someone/preferences (test), row 1")]
    with pytest.raises(UserError, match="ConnectionError: offline"):
        list(read_rows("Someone/else"))
