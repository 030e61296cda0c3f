"""The run folder: who may write it, what resuming finds, what is logged."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from trueup.core.errors import UserError
from trueup.core.record import SampleRecord
from trueup.store.run import Run

CONFIG = {"seed": 3, "policy": {"steps": 40, "learning_rate": 1e-5}, "arms": [{"name": "static"}], "note": None}


def record(sample: str) -> SampleRecord:
    return SampleRecord(
        run="r", arm="a", seed=0, step=0, split="test", prompt_id="p", sample_id=sample, policy_id="x", prompt="q", response="a"
    )


def row(stage: str, arm: str | None, step: int, **metrics: float) -> dict[str, object]:
    return {"stage": stage, "arm": arm, "step": step, "metrics": metrics}


def test_a_new_run_writes_its_configuration(tmp_path: Path) -> None:
    with Run.create(tmp_path / "runs" / "a", CONFIG) as run:
        assert run.config() == CONFIG
        assert run.config_path == tmp_path / "runs" / "a" / "config.yaml"


def test_a_folder_in_use_is_refused_and_untouched(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(UserError, match=r"not empty.*--resume.*--out"):
        Run.create(tmp_path, CONFIG)
    with pytest.raises(UserError, match=r"no config\.yaml"):
        Run.create(tmp_path, CONFIG, resume=True)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_resuming_wants_the_same_configuration(tmp_path: Path) -> None:
    Run.create(tmp_path / "a", CONFIG).close()
    changed = {**CONFIG, "policy": {"steps": 60, "learning_rate": 1e-5}, "extra": {"k": [1]}}
    changed.pop("note")
    with pytest.raises(UserError) as found:
        Run.create(tmp_path / "a", changed, resume=True)
    message = str(found.value)
    assert "policy.steps: 40 in the run, 60 now" in message
    assert "note: None in the run, absent now" in message
    assert "extra.k.0: absent in the run, 1 now" in message
    assert "learning_rate" not in message
    Run.create(tmp_path / "a", dict(reversed(CONFIG.items())), resume=True).close()  # order of keys means nothing


def test_resuming_nothing_starts(tmp_path: Path) -> None:
    with Run.create(tmp_path / "a", CONFIG, resume=True) as run:
        assert run.config() == CONFIG


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    with Run.create(tmp_path / "a", CONFIG), pytest.raises(UserError, match="another process is writing this run") as found:
        Run.create(tmp_path / "a", CONFIG, resume=True)
    assert found.value.where == str(tmp_path / "a")
    Run.create(tmp_path / "a", CONFIG, resume=True).close()


def test_the_other_processes_of_a_run_only_read(tmp_path: Path) -> None:
    with Run.create(tmp_path / "a", CONFIG) as run:
        run.mark_done("sft", {"steps": 1})
        with Run.create(tmp_path / "a", CONFIG, writer=False) as other:
            assert other.done("sft") == {"steps": 1}
        with pytest.raises(UserError, match="another process"):
            Run.create(tmp_path / "a", CONFIG, resume=True)  # closing the reader freed nothing


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    code = "import sys, time; from trueup.store.run import Run; r = Run.create(sys.argv[1], {'a': 1}); print('held', flush=True)"
    code += "; time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "a")], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=f"pid {holder.pid}"):
            Run.create(tmp_path / "a", {"a": 1}, resume=True)
        holder.send_signal(signal.SIGKILL)
        holder.wait(10)
    Run.create(tmp_path / "a", {"a": 1}, resume=True).close()


def test_metrics_rewind_to_the_step_that_runs_again(tmp_path: Path) -> None:
    with Run.create(tmp_path / "a", CONFIG) as run:
        for step in range(2):
            run.log(row("sft", None, step, loss=1.0))
        for step in range(4):
            run.log(row("policy", "static", step, reward=float(step)))
            if step == 1:
                run.log(row("refit-2", "static", 0, loss=0.5))
        run.log(row("refit-4", "static", 0, loss=0.5))
        whole = run.metrics()
        # A refit logged before step 2 stays; what came after step 2 goes.
        assert run.rewind("policy", "static", 2) == 3
        assert run.metrics() == whole[:5]
        assert run.rewind("policy", "other", 0) == 0
        assert run.rewind("policy", "static", 9) == 0
        for lost in whole[5:]:
            run.log(lost)
        assert run.metrics() == whole
        mark = run.mark()
        run.log(row("policy", "static", 4))
        assert run.rewind_to(mark) == 1
        assert run.metrics() == whole


def test_a_line_cut_short_by_a_kill_is_dropped(tmp_path: Path) -> None:
    with Run.create(tmp_path / "a", CONFIG) as run:
        run.log(row("sft", None, 0, loss=1.0))
    with open(run.metrics_path, "a") as file:
        file.write('{"stage": "sft", "ar')
    assert len(Run(tmp_path / "a").metrics()) == 1  # a reader passes over it
    with Run.create(tmp_path / "a", CONFIG, resume=True) as run:
        run.log(row("sft", None, 1, loss=0.5))
    assert [json.loads(line)["step"] for line in run.metrics_path.read_text().splitlines()] == [0, 1]


def test_a_damaged_line_is_reported_with_its_number(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.metrics_path.write_text('{"stage": "sft"}\nnot json\n')
    with pytest.raises(UserError, match=r"metrics\.jsonl, line 2"):
        run.metrics()


def test_what_is_not_finite_is_absent(tmp_path: Path) -> None:
    with Run.create(tmp_path / "a", CONFIG) as run:
        run.log(row("sft", None, 0, loss=float("nan"), other=float("inf"), good=1.5))
        assert run.metrics()[0]["metrics"] == {"loss": None, "other": None, "good": 1.5}
        with pytest.raises(ValueError, match="metrics"):
            run.log({"stage": "sft", "arm": None, "step": 0})


def test_the_ledger_counts_all_processes(tmp_path: Path) -> None:
    for _ in range(2):
        with Run.create(tmp_path / "a", CONFIG, resume=True) as run:
            run.ledger("sft", None, 0)
            run.rewind("sft", None, 0)
    rows = list(run.ledger_rows())
    assert [(r["stage"], r["arm"], r["step"]) for r in rows] == [("sft", None, 0)] * 2
    assert all(r["pid"] > 0 and abs(r["time"] - time.time()) < 3600 for r in rows)


def test_finished_stages_and_records(tmp_path: Path) -> None:
    with Run.create(tmp_path / "a", CONFIG) as run:
        assert run.done("static/policy") is None
        run.mark_done("static/policy", {"steps": 40})
        assert run.done("static/policy") == {"steps": 40}
        assert run.done("static") is None
        path = run.write_records("static-000000", [record("s0")])
        assert path == run.records_dir / "static-000000.parquet"
        assert run.checkpoint("static/policy-000040").parent.parent.name == "checkpoints"
        assert run.state("sft").parent.name == "states"


@pytest.mark.parametrize("name", ["", "../x", "/etc/x", "a/../../x", "."])
def test_names_stay_inside_the_run(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="not a name inside"):
        Run(tmp_path).checkpoint(name)


def test_resuming_clears_what_a_killed_writer_left(tmp_path: Path) -> None:
    Run.create(tmp_path / "a", CONFIG).close()
    old = tmp_path / "a" / "checkpoints" / ".policy.previous-99999999"
    old.mkdir(parents=True)
    (old / "w").write_text("whole")
    (tmp_path / "a" / ".metrics.jsonl.partial-99999999").write_text("half")
    with Run.create(tmp_path / "a", CONFIG, resume=True) as run:
        assert (run.checkpoint("policy") / "w").read_text() == "whole"
    assert not [p for p in (tmp_path / "a").rglob(".*") if p.name != ".lock"]


def test_a_run_killed_before_its_configuration_is_a_new_run(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / ".lock").write_text("")
    (tmp_path / "a" / ".config.yaml.partial-99999999").write_text("se")
    with Run.create(tmp_path / "a", CONFIG) as run:
        assert run.config() == CONFIG


def test_the_manifest_says_what_made_the_run(tmp_path: Path) -> None:
    with Run.create(tmp_path / "a", CONFIG) as run:
        first = run.write_manifest(seed=3, arms=["static"], main_arm="static")
    assert {"commit", "trueup", "versions", "python", "seed", "started", "wall_s", "arms", "main_arm"} <= set(first)
    assert {"torch", "transformers", "numpy"} <= set(first["versions"])
    run.manifest_path.write_text(json.dumps({**first, "wall_s": 100.0, "started": "2020-01-01T00:00:00Z"}))
    with Run.create(tmp_path / "a", CONFIG, resume=True) as run:
        second = run.write_manifest(device="cpu")
    # Wall time adds up over processes, the first start and earlier facts stay.
    assert 100.0 <= second["wall_s"] < 160.0
    assert (second["started"], second["seed"], second["device"]) == ("2020-01-01T00:00:00Z", 3, "cpu")
    assert run.manifest() == second


def test_importing_the_store_imports_no_torch() -> None:
    code = "import sys, trueup.store.run; assert not {'torch', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
