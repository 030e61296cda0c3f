"""Logs of other trainers: files that their own code wrote here, downloads of trackers, and everything that can be wrong with a file."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from trueup.core.errors import UserError
from trueup.core.rng import Key
from trueup.report.curves_page import audit_logs
from trueup.store.curve_logs import STEPS, CurveLog, read_logs
from trueup.store.curve_names import CURVES, EVALUATED, KNOWN, meaning, name_curves
from trueup.store.event_files import masked_crc, read_events

PEERS = Path(__file__).resolve().parents[1] / "data" / "peer_logs"
EVENTS = "events.out.tfevents.1.host.1.0"


def one(path: Path) -> CurveLog:
    (log,) = read_logs(path)
    return log


def test_trl_writes_one_run_twice() -> None:
    """The state and the event file of one run hold the same curves; of the numbers, events keep 32 bits."""
    state, events = one(PEERS / "trl-1.16.0" / "trainer_state.json"), one(PEERS / "trl-1.16.0" / EVENTS)
    (first, naming), (second, _) = state.curves(), events.curves()
    assert naming.used["proxy"] == "reward"
    assert naming.used["kl_token_nats"] == "kl"
    assert naming.used["scores.early_words"] == "rewards/early_words/mean"
    assert naming.unknown == ()
    assert set(first) == set(second) == {
        "proxy", "proxy_std", "zero_spread_share", "kl_token_nats", "length_tokens", "clipped_share", "entropy_nats", "scores.early_words",
        "eval_proxy", "eval_length_tokens", "eval_clipped_share",
    }  # fmt: skip
    assert first.index.tolist() == list(range(1, 21))
    pd.testing.assert_frame_equal(first, second[list(first)], rtol=1e-5)
    # evaluated every fifth step, absent in between
    assert first["eval_proxy"].dropna().index.tolist() == [5, 10, 15, 20]
    raw = json.loads((PEERS / "trl-1.16.0" / "trainer_state.json").read_text())["log_history"]
    assert first["proxy"].tolist() == [row["reward"] for row in raw if "reward" in row]


def test_verl_writes_one_run_three_times() -> None:
    """The file logger, TensorBoard and the console of one `Tracking` say the same."""
    tables = [one(PEERS / "verl-0.9.1" / name).curves() for name in ("verl.jsonl", EVENTS, "console.log")]
    for table, naming in tables:
        assert naming.used["proxy"] == "critic/score/mean"
        assert naming.used["reward"] == "critic/rewards/mean"
        assert naming.used["evaluations.math/acc"] == "val-core/math/acc/mean@2"
        assert naming.used["eval_proxy"] == "val-aux/math/reward/mean@2"
        assert naming.unknown == ()
        pd.testing.assert_frame_equal(table, tables[0][0][list(table)], rtol=1e-5)
    first = json.loads((PEERS / "verl-0.9.1" / "verl.jsonl").read_text().splitlines()[0])
    assert tables[0][0]["kl_token_nats"][1] == first["data"]["actor/reward_kl_penalty"]


def test_openrlhf_writes_train_and_eval() -> None:
    table, naming = one(PEERS / "openrlhf-0.11.2").curves()
    assert naming.used["proxy"] == "train/rollout/reward_mean"
    assert naming.used["proxy_std"] == "train/rollout/reward_std"
    assert naming.used["eval_proxy"] == "eval/eval_math_pass1"
    assert naming.passed["eval/eval_math_truncated_rate"] == "eval_clipped_share"
    assert naming.unknown == ()
    assert table["eval_proxy"].dropna().index.tolist() == [5, 10, 15, 20]


@pytest.mark.parametrize("peer", ["trl-1.16.0", "verl-0.9.1", "openrlhf-0.11.2"])
def test_event_files_are_read_as_tensorboard_reads_them(peer: str) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    path = PEERS / peer / EVENTS
    theirs = [
        (event.step, value.tag, value.tensor.float_val[0] if value.tensor.float_val else None)
        for event in EventFileLoader(str(path)).Load()
        for value in event.summary.value
        if value.HasField("tensor") and value.tensor.dtype == 1
    ]
    ours = read_events(path)
    assert not ours.cut
    assert [(s.step, s.tag, s.value) for s in ours.scalars] == theirs
    assert len(theirs) > 100


def test_checksum_of_the_standard() -> None:
    # CRC-32C of "123456789" is 0xe3069283 (RFC 3720, B.4 lists others of the same polynomial: 32 zero bytes give 0x8a9136aa).
    # Masked: rotate right by 15, add 0xa282ead8, modulo 2^32.
    def masked(crc: int) -> int:
        return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) % 2**32

    data = np.frombuffer(b"123456789" + bytes(32), dtype=np.uint8)
    found = masked_crc(data, np.array([9, 0]), np.array([32, 9]))
    assert found.tolist() == [masked(0x8A9136AA), masked(0xE3069283)]


def scalar_file(path: Path, rows: list[tuple[float, int, str, float]]) -> Path:
    """An event file with ``(wall, step, tag, value)`` scalars, written by hand as the format says."""

    def record(data: bytes) -> bytes:
        head = struct.pack("<Q", len(data))

        def crc(part: bytes) -> bytes:
            raw = np.frombuffer(part, dtype=np.uint8)
            return struct.pack("<I", int(masked_crc(raw, np.array([0]), np.array([len(part)]))[0]))

        return head + crc(head) + data + crc(data)

    def event(wall: float, step: int, tag: str, value: float) -> bytes:
        # tags: field << 3 | wire type; all lengths here are below 128, steps too
        inner = b"\x0a" + bytes([len(tag)]) + tag.encode() + b"\x15" + struct.pack("<f", value)
        summary = b"\x0a" + bytes([len(inner)]) + inner
        return b"\x09" + struct.pack("<d", wall) + b"\x10" + bytes([step]) + b"\x2a" + bytes([len(summary)]) + summary

    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(record(event(*row)) for row in rows))
    return path


def test_a_resumed_run_overwrites_what_it_does_again(tmp_path: Path) -> None:
    first = scalar_file(tmp_path / "a" / "events.out.tfevents.1", [(1.0, 1, "train/reward", 0.5), (2.0, 2, "train/reward", 1.0)])
    scalar_file(tmp_path / "a" / "events.out.tfevents.2", [(3.0, 2, "train/reward", 2.0), (4.0, 3, "train/reward", 3.0)])
    scalar_file(tmp_path / "b" / "events.out.tfevents.1", [(1.0, 1, "train/reward", 9.0)])
    logs = read_logs(tmp_path)
    assert [log.name for log in logs] == ["a", "b"]
    assert logs[0].table["train/reward"].to_dict() == {1: 0.5, 2: 2.0, 3: 3.0}
    data = first.read_bytes()
    first.write_bytes(data[:-5])  # the writer was killed
    assert read_events(first).cut
    assert "incomplete" in one(first).notes[0]
    first.write_bytes(data[:20] + b"\xff" + data[21:])
    with pytest.raises(UserError, match="damaged at byte 12"):
        read_logs(first)
    first.write_bytes(b"something else altogether")
    with pytest.raises(UserError, match="is not a TensorBoard event file"):
        read_logs(first)


def test_the_newest_state_of_a_training_is_read(tmp_path: Path) -> None:
    for step in (5, 40, 9):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        rows = [{"step": s, "reward": float(s), "loss": 1.0} for s in range(1, step + 1)]
        (folder / "trainer_state.json").write_text(json.dumps({"log_history": rows}))
    assert one(tmp_path).table.index.max() == 40


def test_lines_of_any_shape(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    rows = [
        {"step": 1, "reward": 1.0, "nested": {"kl": 0.5}, "text": "x", "flag": True, "list": [1]},
        {"step": 1, "metrics": {"eval/acc": 0.25}},
        {"global_step": 2, "_step": 77, "reward": float("nan"), "kl": 3},
        {"reward": 5.0},
        {"step": 1, "reward": 2.0},  # the run was resumed: what was logged later stays
    ]
    file.write_text("".join(json.dumps(r) + "\n" for r in rows) + '{"step": 3, "rew')
    log = one(file)
    assert log.table.to_dict("index") == {
        1: {"reward": 2.0, "nested/kl": 0.5, "eval/acc": 0.25, "kl": pytest.approx(np.nan, nan_ok=True)},
        2: {
            "reward": pytest.approx(np.nan, nan_ok=True), "nested/kl": pytest.approx(np.nan, nan_ok=True),
            "eval/acc": pytest.approx(np.nan, nan_ok=True), "kl": 3.0,
        },
    }  # fmt: skip
    assert log.notes == ("the last line (6) is incomplete and was passed over", "1 rows without a step were passed over")
    _, naming = log.curves()
    assert naming.used == {"proxy": "reward", "evaluations.acc": "eval/acc", "kl_token_nats": "kl"}
    assert naming.unknown == ("nested/kl",)


def test_tables_of_trackers(tmp_path: Path) -> None:
    wide = tmp_path / "export.csv"
    wide.write_text('"Step","one - train/reward","one - train/reward__MIN","two - train/reward"\n10,1.5,1,2.5\n20,2,2,\n')
    logs = read_logs(wide)
    assert [(log.name, log.table["train/reward"].to_dict()) for log in logs] == [("one", {10: 1.5, 20: 2.0}), ("two", {10: 2.5})]
    download = tmp_path / "run-x-tag-reward.csv"
    download.write_text("Wall time,Step,Value\n1.0,10,1.5\n2.0,20,NaN\n")
    assert one(download).table["reward"].to_dict() == {10: 1.5}
    long = tmp_path / "long.csv"
    long.write_text("step,name,value\n1,reward,0.5\n1,kl,0.1\n2,reward,0.75\n")
    assert one(long).table["reward"].to_dict() == {1: 0.5, 2: 0.75}


BAD = {
    "empty.jsonl": ("", "holds no row with a step"),
    "words.jsonl": ('{"step": 1, "reward": "high"}\n', "holds no row with a step .* It has: step, reward"),
    "broken.jsonl": ('{"step": 1, "reward": 1}\n{"step":\n{"step": 2, "reward": 1}\n', r"broken.jsonl, line 2: is not valid JSON"),
    "list.jsonl": ("[1, 2]\n", "line 1: must be an object"),
    "half.jsonl": ('{"step": 1.5, "reward": 1}\n', "field 'step': must be a whole number"),
    "state.json": ("{}", "no list 'log_history'"),
    "damaged.json": ("{", "not readable JSON"),
    "none.csv": ("a,b\n1,2\n", "line 1: has no column of steps"),
    "word.csv": ("step,reward\n1,0.5\n2,high\n", "word.csv, line 3, column 'reward': must be a number or empty, got 'high'"),
    "ragged.csv": ("step,reward\n1,0.5,3\n", "line 2: has 3 cells where the header has 2"),
    "print.log": ("training starts\n", "holds no row with a step"),
    "run.wandb": ("x", "Export its history"),
    "notes.pdf": ("x", "of no form that is known"),
    "strange.jsonl": ('{"step": 1, "my_curve": 1.0}\n', "no curve that is known. It has: my_curve. .* --curve"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_read_is_named(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(BAD[name][0])
    with pytest.raises(UserError, match=BAD[name][1]):
        audit_logs([tmp_path / name], tmp_path / "out", key=Key(0))
    assert not (tmp_path / "out").exists()


def test_absent_places_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file or folder"):
        read_logs(tmp_path / "nowhere")
    with pytest.raises(UserError, match="holds no log"):
        read_logs(tmp_path)
    with pytest.raises(UserError, match="give --logs"):
        audit_logs([], tmp_path / "out", key=Key(0))


def test_names_are_mapped_by_one_table() -> None:
    assert meaning("train/reward")[1] == "proxy"
    assert meaning("eval_reward")[1] == meaning("eval/reward")[1] == "eval_proxy"
    assert meaning("actor/ppo_kl")[1] == "update_kl_nats"  # KL of an update, not from the reference
    assert meaning("val/ratio") == (1, "")
    assert meaning("val/test_score/gsm8k")[1] == "eval_proxy"
    assert meaning("eval_win_rate")[1] == "evaluations.win_rate"
    assert meaning("eval_runtime") == meaning("learning_rate") == (1, "")
    assert meaning("something") == (0, "")
    # the first of the table is read, whatever the order of the log
    for names in (["reward", "objective/scores"], ["objective/scores", "reward"]):
        naming = name_curves(names)
        assert (naming.used, naming.passed) == ({"proxy": "objective/scores"}, {"reward": "proxy"})


def test_the_user_says_which_is_which() -> None:
    naming = name_curves(["my/r", "reward", "x"], {"proxy": "my/r", "evaluations.x": "x"})
    assert naming.used == {"proxy": "my/r", "evaluations.x": "x"}
    assert naming.passed == {"reward": "proxy"}
    with pytest.raises(UserError, match=r"the log has no 'my/rr'\. Did you mean 'my/r'"):
        name_curves(["my/r"], {"proxy": "my/rr"})
    with pytest.raises(UserError, match=r"is no curve\. Did you mean 'proxy'"):
        name_curves(["my/r"], {"proxi": "my/r"})


def test_the_documented_table_is_the_table() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "logs.md").read_text(encoding="utf-8")
    for known in (*KNOWN, *EVALUATED):
        assert f"| `{known.name}` | {known.by} | `{known.curve}` |" in page
    for name, text in CURVES.items():
        assert f"| `{name}` | {text} |" in page
    assert all(f"`{s}`" in page for s in STEPS)


def test_the_page_says_what_it_cannot(tmp_path: Path) -> None:
    places, document = audit_logs([PEERS / "trl-1.16.0"], tmp_path, key=Key(0))
    assert json.loads(places.json.read_text()) == document
    text = places.markdown.read_text()
    assert "Over-optimisation" in text
    assert "cannot be told" in text
    assert "frac\\_reward" in text or "frac_reward_zero_std" in text
    assert {d["name"] for d in document["diagnoses"]} == {
        "evaluation_falls",
        "reward_kl",
        "length_growth",
        "kl_spikes",
        "spread",
        "clipped",
    }
    assert document["logs"][0]["used"]["proxy"] == "reward"
    html = places.html.read_text()
    # reward over KL; length and score; KL; spread, of which both columns were logged; cut replies: 1 + 2 + 1 + 2 + 1
    assert html.count("<svg") == 7
    again, _ = audit_logs([PEERS / "trl-1.16.0"], tmp_path / "again", key=Key(0))
    assert again.html.read_bytes() == places.html.read_bytes()
