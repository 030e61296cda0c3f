"""Ten kills (SIGKILL), at least one in every stage and two while a checkpoint is written; the run must end as if nothing had happened."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from trueup.store.records import frame

CHILD = Path(__file__).with_name("child.py")
CHECKPOINT_EVERY = 2
Kill = tuple[str, str | None, int] | int
KILLS: list[Kill] = [
    ("sft", None, 1),
    ("sft", None, 4),
    2,  # at the second rename of this process: while the SFT policy is written
    ("reward", None, 3),
    ("policy", "static", 1),
    3,  # while a state or a probed policy of the static arm is written
    ("policy", "static", 5),
    ("refit-000004", "random", 1),
    ("policy", "random", 6),
    ("refit-000004", "frft", 1),
]
ENV = {**{k: v for k, v in os.environ.items() if k != "TRUEUP_CACHE"}, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}


def start(out: Path, *more: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, str(CHILD), str(out), *more], env=ENV, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def finish(out: Path) -> None:
    child = start(out)
    said = child.communicate(timeout=300)[0].decode()
    assert child.returncode == 0, said


def ledger(out: Path) -> list[dict[str, Any]]:
    path = out / "ledger.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(x) for x in lines if x.endswith("}")]


def kill_at(out: Path, stage: str, arm: str | None, step: int) -> None:
    """Kill the process as soon as the ledger says that it has begun the step."""
    child = start(out)
    deadline = time.monotonic() + 240
    while child.poll() is None and time.monotonic() < deadline:
        if any(r["pid"] == child.pid and (r["stage"], r["arm"]) == (stage, arm) and r["step"] >= step for r in ledger(out)):
            child.send_signal(signal.SIGKILL)
            break
        time.sleep(0.002)
    said = child.communicate()[0].decode()
    assert child.returncode == -signal.SIGKILL, f"{stage} {arm} {step} was never reached: {said}"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """An unbroken run, and one killed ten times."""
    whole, broken = tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("broken")
    finish(whole)
    for kill in KILLS:
        if isinstance(kill, int):
            child = start(broken, str(kill))
            child.communicate(timeout=300)
            assert child.returncode == -signal.SIGKILL
        else:
            kill_at(broken, *kill)
    finish(broken)
    return whole, broken


def test_weights_are_bit_identical(runs: tuple[Path, Path]) -> None:
    whole, broken = runs
    names = sorted(p.relative_to(whole) for p in (whole / "checkpoints").rglob("*.safetensors"))
    assert len(names) >= 3 * 5 + 2 + 2
    assert names == sorted(p.relative_to(broken) for p in (broken / "checkpoints").rglob("*.safetensors"))
    for name in names:
        a, b = load_file(whole / name), load_file(broken / name)
        assert a.keys() == b.keys()
        assert all((a[k] == b[k]).all() for k in a), name


def test_records_are_identical(runs: tuple[Path, Path]) -> None:
    a, b = (frame(r / "records") for r in runs)
    assert len(a) > 200
    assert list(a.columns) == list(b.columns)
    assert a.astype(str).equals(b.astype(str))


def test_metrics_are_identical_but_for_times(runs: tuple[Path, Path]) -> None:
    def rows(out: Path) -> list[dict[str, Any]]:
        found = [json.loads(x) for x in (out / "metrics.jsonl").read_text().splitlines()]
        return [{k: v for k, v in r.items() if k not in ("seconds", "time")} for r in found]

    a, b = map(rows, runs)
    assert len(a) > 30
    assert a == b


def test_little_work_is_repeated(runs: tuple[Path, Path]) -> None:
    whole, broken = map(ledger, runs)
    kills = len(KILLS)
    assert kills == 10
    assert len({r["pid"] for r in broken}) >= 9
    assert len(broken) <= len(whole) + kills * CHECKPOINT_EVERY


def test_nothing_half_written_is_left(runs: tuple[Path, Path]) -> None:
    assert not [p for p in runs[1].rglob(".*") if ".partial-" in p.name or ".previous-" in p.name]
