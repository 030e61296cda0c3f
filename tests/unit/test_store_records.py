"""Records survive files exactly; files that are no records are refused by name and column."""

from __future__ import annotations

import json
import math
import time
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from trueup.core.errors import UserError
from trueup.core.record import Decoding, Label, SampleRecord
from trueup.store import records as store
from trueup.store.records import frame, read_records, to_frame, write_jsonl, write_parquet, write_records

BARE = SampleRecord(
    run="r", arm="offline", seed=0, step=None, split="test", prompt_id="p0", sample_id="s0", policy_id="x", prompt="", response="ü\n"
)
FULL = SampleRecord(
    run="r", arm="static", seed=0, step=20, split="test", prompt_id="p1", sample_id="s1", policy_id="policy-20",
    prompt="hi", response="you", n_tokens=3, finished=False, decoding=Decoding(temperature=0.7, top_p=0.9, max_tokens=24),
    logp_policy_nats=-4.25, logp_ref_nats=-5.0, logp_sampling_nats=-4.26, kl_policy_ref_exact_nats=0.5,
    scores={"rm-0": 1.5, "rm-1": -2.0}, proxy_fixed=1.5, proxy_current=-2.0, gold=0.25, gold_components={"correct": 1.0},
    labels=[Label(annotator="hurried", other_sample_id="s0", preference=1.0)], evaluations={"verbosity": 3.0},
)  # fmt: skip


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    write_parquet(tmp_path / "run" / "records" / "a.parquet", [BARE])
    write_jsonl(tmp_path / "run" / "records" / "b.jsonl", [FULL])
    (tmp_path / "run" / "metrics.jsonl").write_text('{"stage": "sft"}\n')
    return tmp_path / "run"


@pytest.mark.parametrize("name", ["x.parquet", "x.jsonl"])
def test_round_trip(tmp_path: Path, name: str) -> None:
    rows = [BARE, FULL, replace(FULL, sample_id="s2", scores={}, labels=[], decoding=None)]
    write_records(tmp_path / name, rows)
    assert read_records(tmp_path / name) == rows


def test_no_rows(tmp_path: Path) -> None:
    write_parquet(tmp_path / "x.parquet", [])
    assert read_records(tmp_path / "x.parquet") == []
    assert len(frame(tmp_path / "x.parquet")) == 0


def test_the_file_is_typed_and_versioned(tmp_path: Path) -> None:
    write_parquet(tmp_path / "x.parquet", [BARE])
    schema = pq.read_schema(tmp_path / "x.parquet")
    assert schema.names == [f.name for f in fields(SampleRecord)]  # every column of the record, in its order
    assert schema.metadata[b"trueup.record_version"] == b"1"
    assert pa.types.is_map(schema.field("scores").type)
    assert not schema.field("prompt_id").nullable


def test_a_frame_is_flat_and_absent_is_absent(run_dir: Path) -> None:
    found = frame(run_dir)
    assert list(found["sample_id"]) == ["s0", "s1"]
    assert math.isnan(found["step"][0])
    assert found["step"][1] == 20
    assert found["scores.rm-1"].tolist()[1] == -2.0
    assert math.isnan(found["scores.rm-1"][0])  # absent is not zero
    assert found["gold_components.correct"][1] == 1.0
    assert found["evaluations.verbosity"][1] == 3.0
    assert found["labels"][0] == []
    assert found["labels"][1] == [{"annotator": "hurried", "other_sample_id": "s0", "preference": 1.0}]
    assert found["decoding"][0] is None
    assert found["decoding"][1] == {"temperature": 0.7, "top_p": 0.9, "max_tokens": 24}
    assert found["finished"][0] is None or pd.isna(found["finished"][0])
    assert not found["finished"][1]
    assert not [c for c in found.columns if c in ("scores", "evaluations", "gold_components")]


def test_frames_of_files_folders_and_memory_agree(run_dir: Path) -> None:
    whole = frame(run_dir)
    for other in (
        frame(run_dir / "records"),
        frame([run_dir / "records" / "a.parquet", run_dir / "records" / "b.jsonl"]),
        to_frame([BARE, FULL]),
    ):
        pd.testing.assert_frame_equal(whole, other)


def test_maps_of_a_slice_keep_their_rows(tmp_path: Path) -> None:
    rows = [replace(FULL, sample_id=f"s{i}", scores={"even": float(i)} if i % 2 == 0 else {"odd": float(i)}) for i in range(10)]
    table = store.to_table(rows).slice(3, 4)
    pq.write_table(table, tmp_path / "x.parquet")
    for found in (frame(tmp_path / "x.parquet"), store.flatten(table)):
        assert found["sample_id"].tolist() == ["s3", "s4", "s5", "s6"]
        assert found["scores.odd"].fillna(-1).tolist() == [3.0, -1, 5.0, -1]
        assert found["scores.even"].fillna(-1).tolist() == [-1, 4.0, -1, 6.0]


def plain_row(**changes: Any) -> dict[str, Any]:
    keep = ("run", "arm", "seed", "step", "split", "prompt_id", "sample_id", "policy_id", "prompt", "response")
    return {**{k: v for k, v in FULL.to_dict().items() if k in keep}, **changes}


def test_files_of_other_tools_are_read(tmp_path: Path) -> None:
    """pandas writes a dict column as a struct, integers with gaps as floats, and floats that are whole as integers."""
    rows = [
        plain_row(scores={"a": 1.0, "b": None}, step=4.0, gold=1),
        plain_row(sample_id="s9", scores={"a": None, "b": 2.0}, step=None, gold=2),
    ]
    pd.DataFrame(rows).to_parquet(tmp_path / "x.parquet")
    found = read_records(tmp_path / "x.parquet")
    assert [(r.step, r.scores, r.gold) for r in found] == [(4, {"a": 1.0}, 1.0), (None, {"b": 2.0}, 2.0)]


def test_a_missing_optional_column_is_absent(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text(json.dumps(plain_row()) + "\n")
    assert read_records(tmp_path / "x.jsonl")[0].gold is None


@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"prompt_id": ...}, "the column 'prompt_id' is missing"),
        ({"promt": "x"}, r"unknown column 'promt'.*Did you mean 'prompt'\?"),
        ({"gold": "high"}, "column 'gold' must be double"),
        ({"prompt": 3}, "column 'prompt' must be string"),
        ({"step": 1.5}, "column 'step' must be int64"),
        ({"scores": [1.0]}, "column 'scores' must be map<string, double"),
        ({"prompt_id": None}, "column 'prompt_id'.* null"),
        ({"finished": "yes"}, "column 'finished' must be bool"),
    ],
)
def test_files_that_are_no_records(tmp_path: Path, suffix: str, changes: dict[str, Any], said: str) -> None:
    row = plain_row(**changes)
    row = {k: v for k, v in row.items() if v is not ...}
    path = tmp_path / f"x.{suffix}"
    if suffix == "jsonl":
        path.write_text(json.dumps(row) + "\n")
    else:
        pq.write_table(pa.Table.from_pylist([row]), path)
    for read in (read_records, frame):
        with pytest.raises(UserError, match=said) as found:
            read(path)
        assert (found.value.where or "").startswith(str(path))


def test_damaged_and_absent_files(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(b"PAR1 nonsense PAR1")
    with pytest.raises(UserError, match="not a readable Parquet file"):
        frame(tmp_path / "x.parquet")
    write_parquet(tmp_path / "y.parquet", [FULL])
    (tmp_path / "y.parquet").write_bytes((tmp_path / "y.parquet").read_bytes()[:-100])
    with pytest.raises(UserError, match="not a readable Parquet file"):
        frame(tmp_path / "y.parquet")
    (tmp_path / "z.jsonl").write_text(json.dumps(plain_row()) + "\n{\n")
    with pytest.raises(UserError, match=r"z\.jsonl, line 2"):
        frame(tmp_path / "z.jsonl")
    with pytest.raises(UserError, match="no such file"):
        frame(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no records"):
        frame(tmp_path / "empty")


def test_a_sample_counts_once(run_dir: Path) -> None:
    with pytest.raises(UserError, match=r"'s0'.*more than once"):
        frame([run_dir, run_dir / "records" / "a.parquet"])


def test_records_of_a_later_version_are_refused(tmp_path: Path) -> None:
    table = store.to_table([FULL]).replace_schema_metadata({b"trueup.record_version": b"9"})
    pq.write_table(table, tmp_path / "x.parquet")
    with pytest.raises(UserError, match="version 9"):
        frame(tmp_path / "x.parquet")


def test_many_rows_are_read_by_columns(tmp_path: Path) -> None:
    n = 50_000
    table = store.to_table([FULL]).take(pa.array([0] * n))
    table = table.set_column(
        table.schema.get_field_index("sample_id"), table.schema.field("sample_id"), pa.array([f"s{i}" for i in range(n)])
    )
    pq.write_table(table, tmp_path / "x.parquet")
    began = time.perf_counter()
    found = frame(tmp_path / "x.parquet")
    assert len(found) == n
    assert found["scores.rm-0"].sum() == 1.5 * n
    assert time.perf_counter() - began < 10.0  # a million rows take seconds; row by row, these alone would take longer
