"""docs/cli.md and docs/records.md say what the code does."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from trueup.cli.main import app, invoke
from trueup.core.record import SCHEMA_VERSION, SampleRecord
from trueup.store.records import REQUIRED, read_records, schema

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_every_verb_is_documented() -> None:
    text = (DOCS / "cli.md").read_text()
    for command in app.registered_commands:
        assert re.search(rf"trueup .*\b{command.name}\b", text), command.name


@pytest.mark.parametrize("words", [["list"], ["version"], ["config", "show", "ppo"], ["run", "no.yaml"]])
def test_every_json_name_is_documented(words: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    text = (DOCS / "cli.md").read_text().split("## What `--json` prints")[1]
    invoke([*words, "--json"])
    for name in json.loads(capfd.readouterr().out):
        assert f"`{name}`" in text, name


def test_every_column_is_documented_with_its_type() -> None:
    rows = re.findall(r"^\| `(\w+)` \| ([^|]+) \| (yes|no) \|", (DOCS / "records.md").read_text(), re.MULTILINE)
    assert [name for name, _, _ in rows] == [f.name for f in fields(SampleRecord)]
    assert [name for name, _, needed in rows if needed == "yes"] == list(REQUIRED)
    words = {"string": "text", "int64": "integer", "double": "number", "bool": "true, false"}
    for name, kind, _ in rows:
        found = str(schema().field(name).type)
        assert words.get(found, found.split("<")[0]).split()[0] == kind.split()[0], name
    assert f"the version of this table, {SCHEMA_VERSION}." in (DOCS / "records.md").read_text()


def test_the_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", (DOCS / "records.md").read_text(), re.DOTALL)
    made: dict[str, Any] = {}
    exec(compile(code, "records.md", "exec"), made)
    # the file and the row that the example says it writes
    assert [p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.parquet")] == ["mine/records/static-000000.parquet"]
    (row,) = read_records(tmp_path / "mine")
    assert (row.prompt, row.response, row.scores, row.gold) == ("hello", "hi", {"rm-0": 0.5}, 1.0)
    assert made["table"]["scores.rm-0"].tolist() == [0.5]
