"""Bad input of every kind ends the same way: one message that names file and place, status 2, nothing half-written.

The table is `CASES`: what is prepared, the place that the message must name, and what it must say. Everything is run through the command
line: cases of a library part stand in for the pipeline inside ``trueup run``.
"""

from __future__ import annotations

import errno
import gzip
import json
import os
import pickle
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from trueup.cli import main, run
from trueup.core.record import SampleRecord
from trueup.store.run import Run

Act = Callable[[Path], Any]


@dataclass(frozen=True)
class Case:
    """One kind of bad input."""

    name: str
    prepare: Callable[[Path], list[str] | Act]
    """Makes the input; returns a command line, or a call that stands in for the pipeline."""
    place: str
    """Regular expression for what stands before the message, file and line included."""
    said: str
    """Regular expression for the message."""


# What the input is made of

GOOD = {"prompt": "p", "chosen": "yes", "rejected": "no"}
ARCHIVE = gzip.compress((json.dumps(GOOD) + "\n").encode() * 99, mtime=0)
TINY = """
threads: 1
world: {kind: helpdesk, train_prompts: 8, validation_prompts: 4, test_prompts: 6, demonstrations: 24, train_pairs: 16, validation_pairs: 8}
policy_model: {hidden_size: 16, layers: 1, heads: 2}
sft: {epochs: 3, batch_size: 8}
"""


def config(text: str, *more: str) -> Callable[[Path], list[str]]:
    """A run of a configuration file with this text."""

    def prepare(folder: Path) -> list[str]:
        (folder / "c.yaml").write_text(text)
        return ["run", str(folder / "c.yaml"), "--out", str(folder / "out"), *more]

    return prepare


def preferences(*lines: object) -> Callable[[Path], Act]:
    """Reading a preference file with these lines."""

    def prepare(folder: Path) -> Act:
        path = folder / "prefs.jsonl"
        path.write_text("".join((x if isinstance(x, str) else json.dumps(x)) + "\n" for x in lines))
        return reading(path)

    return prepare


def reading(path: Path) -> Act:
    def act(folder: Path) -> Any:
        from trueup.data.preferences import read_preferences

        return read_preferences(path)

    return act


def data_file(name: str, content: bytes | None) -> Callable[[Path], Act]:
    def prepare(folder: Path) -> Act:
        if content is not None:
            (folder / name).write_bytes(content)
        return reading(folder / name)

    return prepare


def record(**changes: Any) -> dict[str, Any]:
    columns = SampleRecord(
        run="r", arm="static", seed=0, step=0, split="test", prompt_id="p", sample_id="s", policy_id="x", prompt="q", response="a"
    )
    return {k: v for k, v in {**columns.to_dict(), **changes}.items() if v is not ... and v != {} and v != []}


def records_file(content: dict[str, Any] | bytes) -> Callable[[Path], list[str]]:
    """A report on a run with this record file."""

    def prepare(folder: Path) -> list[str]:
        path = folder / "out" / "records" / "a.parquet"
        path.parent.mkdir(parents=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            pq.write_table(pa.Table.from_pylist([content]), path)
        return ["report", str(folder / "out")]

    return prepare


def run_folder(config_now: dict[str, Any], *, resume: bool, hold: bool = False) -> Callable[[Path], Act]:
    """Starting a run where there is one already."""

    def prepare(folder: Path) -> Act:
        held = Run.create(folder / "out", {"steps": 10})
        if not hold:
            held.close()

        def act(folder: Path) -> None:
            try:
                Run.create(folder / "out", config_now, resume=resume).close()
            finally:
                held.close()

        return act

    return prepare


def out_is_a_file(folder: Path) -> Act:
    (folder / "out").write_text("precious")
    return lambda folder: Run.create(folder / "out", {})


def full_device(folder: Path) -> Act:
    """The metrics of a run lie on a device that is really full."""
    made = Run.create(folder / "out", {})
    made.close()
    made.metrics_path.symlink_to("/dev/full")

    def act(folder: Path) -> None:
        with made:
            made.log({"stage": "sft", "arm": None, "step": 0, "metrics": {}})

    return act


def full_disk(folder: Path) -> Act:
    """The disk fills up while a checkpoint is flushed."""
    made = Run.create(folder / "out", {})
    made.close()

    def act(folder: Path) -> None:
        from trueup.store.atomic import atomic_folder

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "fsync", lambda handle: (_ for _ in ()).throw(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))))
            with atomic_folder(made.checkpoint("policy")) as new:
                (new / "model.safetensors").write_bytes(b"half")

    return act


def model(change: Callable[[Path], None]) -> Callable[[Path], Act]:
    """Loading a small policy after something was done to its folder."""

    def prepare(folder: Path) -> Act:
        from trueup.core.rng import Key
        from trueup.models.policy import Policy
        from trueup.models.tiny import tiny_llama, tiny_tokenizer

        tokenizer = tiny_tokenizer(["a", "b", "c"])
        Policy(tiny_llama(len(tokenizer), 16, 1, 2, 16, key=Key(0)), tokenizer).save(folder / "model")
        change(folder / "model")

        def act(folder: Path) -> Any:
            from trueup.models.policy import load_policy

            return load_policy(folder / "model")

        return act

    return prepare


def without_token(name: str) -> Callable[[Path], None]:
    """Remove a special token from a tokenizer's files."""

    def change(folder: Path) -> None:
        for file in ("tokenizer_config.json", "special_tokens_map.json"):
            if (folder / file).exists():
                values = json.loads((folder / file).read_text())
                values.pop(name, None)
                (folder / file).write_text(json.dumps(values))

    return change


def without_padding(folder: Path) -> None:
    for name in ("pad_token", "unk_token"):
        without_token(name)(folder)


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"weight": 1}))


def truncated(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-64])


def unfinished(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model.safetensors.incomplete")


def long_prompt(folder: Path) -> Act:
    def act(folder: Path) -> Any:
        from trueup.data.tokens import encode_prompts
        from trueup.models.tiny import tiny_tokenizer

        return encode_prompts(tiny_tokenizer(["a", "b"]), ["a b", "a b a b a b"], max_tokens=4)

    return act


def damaged_state(folder: Path) -> Act:
    state = folder / "states" / "sft"
    state.mkdir(parents=True)
    (state / "state.json").write_text('{"step": 4, "learner": {}}')
    (state / "state.safetensors").write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00half a hea")

    def act(folder: Path) -> Any:
        from trueup.loop.state import load_state

        return load_state(state)

    return act


CASES = [
    # configuration
    Case("missing configuration", lambda f: ["run", str(f / "no.yaml")], r"no\.yaml", "no such configuration file"),
    Case("not YAML", config("seed: 1\nworld: {kind: helpdesk\n"), r"c\.yaml, line \d", "not valid YAML"),
    Case("not a mapping", config("- a\n- b\n"), r"c\.yaml", "must hold `key: value` lines"),
    Case("unknown key", config("world: helpdesk\nsead: 1\n"), r"c\.yaml", r"sead \(line 2\): unknown key. Did you mean 'seed'\?"),
    Case("unknown kind", config("world: helpdisk\n"), r"c\.yaml", r"world \(line 1\): no kind 'helpdisk'.*Did you mean 'helpdesk'\?"),
    Case(
        "wrong type",
        config("world: helpdesk\npolicy:\n  steps: many\n"),
        r"c\.yaml",
        r"policy\.steps \(line 3\): .*valid integer.*got 'many'",
    ),
    Case(
        "out of range", config("world: helpdesk\npolicy:\n  steps: -5\n"), r"c\.yaml", r"policy\.steps \(line 3\): .*greater than.*got -5"
    ),
    Case("missing required", config("seed: 1\n"), r"c\.yaml", "needs .world."),
    Case("bad --set", config("world: helpdesk\n", "--set", "policy.steps"), "--set policy.steps", r"must look like a\.b=c"),
    Case("--set of a wrong value", config("world: helpdesk\n", "--set", "policy.steps=0"), r"c\.yaml", r"policy\.steps.*got 0"),
    Case(
        "world cannot be imported",
        config("world: no_such_package.world\n"),
        r"c\.yaml",
        r"world \(line 1\): no module 'no_such_package.world'",
    ),
    Case("two errors at once", config("world: helpdesk\nseed: x\nnam: y\n"), r"c\.yaml", r"2 wrong values:\n.*seed.*\n.*nam"),
    # data
    Case("missing data file", data_file("prefs.jsonl", None), r"prefs\.jsonl", "no such file"),
    Case("unknown format", data_file("prefs.xlsx", b"PK"), r"prefs\.xlsx", r"unknown format. Allowed: \.jsonl"),
    Case("malformed line 17", preferences(*[GOOD] * 16, '{"prompt": "p", "chosen": '), r"prefs\.jsonl, line 17", "not valid JSON"),
    Case("missing field", preferences(GOOD, {"prompt": "p", "chosen": "x"}), r"prefs\.jsonl, line 2, field 'rejected'", "missing.*Allowed"),
    Case(
        "field of a wrong type",
        preferences(GOOD, {**GOOD, "chosen": 3}),
        r"prefs\.jsonl, line 2, field 'chosen'",
        "text or a list of messages",
    ),
    Case("empty chosen", preferences(GOOD, {**GOOD, "chosen": " "}), r"prefs\.jsonl, line 2, field 'chosen'", "empty chosen reply"),
    Case(
        "chosen equals rejected", preferences({**GOOD, "rejected": "yes"}), r"prefs\.jsonl, line 1, field 'rejected'", "identical replies"
    ),
    Case("not UTF-8", data_file("prefs.jsonl", b'{"prompt": "\xff"}\n'), r"prefs\.jsonl, line 1", "not UTF-8"),
    Case(
        "interrupted download",
        data_file("prefs.jsonl.gz", gzip.compress(json.dumps(GOOD).encode(), mtime=0)[:-9]),
        r"prefs\.jsonl\.gz, after line",
        "cut short",
    ),
    Case("short CSV row", data_file("prefs.csv", b"prompt,chosen,rejected\na,b\n"), r"prefs\.csv, line 2", "must have 3 cells"),
    Case("prompt longer than the context", long_prompt, "prompt 1", "has 6 tokens where at most 4 fit"),
    # runs and records
    Case("existing run", run_folder({"steps": 10}, resume=False), "out", "not empty.*--resume.*--out"),
    Case("changed configuration", run_folder({"steps": 20}, resume=True), r"out/config\.yaml", "steps: 10 in the run, 20 now"),
    Case("locked run", run_folder({"steps": 10}, resume=True, hold=True), "out", f"another process is writing this run.*pid {os.getpid()}"),
    Case("run folder is a file", out_is_a_file, "out", r"cannot be written \(File exists\)"),
    Case("full device", full_device, r"metrics\.jsonl", "no space left on the disk"),
    Case("full disk at a checkpoint", full_disk, "checkpoints/policy", "no space left on the disk.*nothing was replaced"),
    Case("damaged state", damaged_state, "states/sft", "cannot be read back"),
    Case("corrupt records", records_file(b"PAR1 and then nothing"), r"a\.parquet", "not a readable Parquet file"),
    Case("records without a column", records_file(record(prompt_id=...)), r"a\.parquet", "the column 'prompt_id' is missing"),
    Case("records with a wrong type", records_file(record(gold="high")), r"a\.parquet", "column 'gold' must be double, got string"),
    Case("records with an unknown column", records_file(record(glod=1.0)), r"a\.parquet", r"unknown column 'glod'.*Did you mean 'gold'\?"),
    Case("report on no run", lambda f: ["report", str(f / "nothing")], "nothing", "no such run folder"),
    # models
    Case("tokenizer without eos", model(without_token("eos_token")), "model", "no end-of-sequence token"),
    Case("tokenizer without padding", model(without_padding), "model", "no padding token"),
    Case("pickle instead of safetensors", model(pickled), r"model/pytorch_model\.bin", "is a pickle.*only safetensors"),
    Case("truncated safetensors", model(truncated), "model", "weights cannot be read.*interrupted download"),
    Case("unfinished download", model(unfinished), r"model\.safetensors\.incomplete", "unfinished download"),
    # training
    Case("loss not finite", config(TINY, "--set", "sft.loop.learning_rate=1.0e30"), r"step \d", "not finite.*lower learning_rate"),
]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below, but for lock files, which hold nothing of a run."""
    files = [p for p in sorted(folder.rglob("*")) if p.is_file() and not p.is_symlink() and p.name != ".lock"]
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


@pytest.fixture
def standing_in(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path, Act], list[str]]:
    """Lets ``trueup run`` do something else than run a configuration."""

    def stand_in(folder: Path, act: Act) -> list[str]:
        monkeypatch.setattr(run, "launch", lambda *_, **__: act(folder))
        return ["run", "any.yaml"]

    return stand_in


@pytest.mark.parametrize("case", CASES, ids=[c.name.replace(" ", "_") for c in CASES])
def test_bad_input(case: Case, tmp_path: Path, standing_in: Callable[[Path, Act], list[str]], capfd: pytest.CaptureFixture[str]) -> None:
    prepared = case.prepare(tmp_path)
    words = prepared if isinstance(prepared, list) else standing_in(tmp_path, prepared)
    before = contents(tmp_path)
    capfd.readouterr()
    assert main.invoke([*words, "--json"]) == 2
    out, err = capfd.readouterr()
    found = json.loads(out)["error"]
    assert found["exit"] == 2
    assert re.search(case.place, found["where"] or ""), found["where"]
    assert re.search(case.said, found["message"], re.DOTALL), found["message"]
    message = f"error: {found['where']}: {found['message']}"
    assert message in err
    assert err.count("error: ") == 1
    assert "Traceback" not in err
    after = contents(tmp_path)
    assert {n: after[n] for n in before} == before, "a file of the user was changed"
    assert not [n for n in after if re.search(r"\.(partial|previous)-\d+", n)], "a write was left half done"
    if not words[-1].startswith("sft.loop"):
        assert set(after) == set(before), "something was written"


def test_there_are_at_least_twenty_kinds() -> None:
    assert len({c.name for c in CASES}) == len(CASES) >= 20


def test_no_write_permission() -> None:
    """Tested as a user who may not write everywhere; root may. All imports come first: that user may not read everything either."""
    code = """
import os, sys
from trueup.cli import main, run
from trueup.store.run import Run
main.invoke(['version'])
run.launch = lambda *a, **k: Run.create(sys.argv[1] + '/runs/new', {})
if os.getuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
sys.exit(main.invoke(['run', 'any.yaml']))
"""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o555)
        done = subprocess.run([sys.executable, "-c", code, name], capture_output=True, text=True, timeout=60, cwd="/")
        assert list(folder.iterdir()) == []
        folder.chmod(0o755)
    assert done.returncode == 2, done.stderr
    assert re.fullmatch(rf"error: {re.escape(name)}/runs/new: may not be written \(Permission denied\)\. .*\n", done.stderr)
