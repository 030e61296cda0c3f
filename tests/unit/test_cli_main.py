"""The command line as a whole: fast help, one JSON object, exit statuses."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from trueup.cli import main, quickstart, run
from trueup.cli.launch import Stopped, words
from trueup.core.errors import UserError
from trueup.core.record import SampleRecord
from trueup.store.run import Run

VERBS = [
    "quickstart",
    "run",
    "sft",
    "reward",
    "policy",
    "merge",
    "decode",
    "compare",
    "isolate",
    "report",
    "audit",
    "list",
    "version",
    "config show",
    "data ceiling",
    "reward evaluate",
]


def python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120)


def test_help_is_fast_and_imports_nothing_heavy() -> None:
    code = (
        "import sys; from trueup.cli.main import invoke; s = invoke(['--help']); print(sorted(sys.modules), file=sys.stderr); sys.exit(s)"
    )
    times = []
    for _ in range(4):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = python(code)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
        assert done.returncode == 0, done.stderr
    assert all(verb.split()[0] in done.stdout for verb in VERBS)
    loaded = set(json.loads(done.stderr.replace("'", '"')))
    assert not loaded & {"torch", "transformers", "numpy", "pandas", "pyarrow", "pydantic", "matplotlib"}
    # Processor seconds, the best of four: on an idle machine they are the time a user waits, on a busy one they stay the same.
    assert min(times) < 0.5, times


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_and_json(verb: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main.invoke([*verb.split(), "--help"]) == 0
    assert "--json" in capfd.readouterr().out


def test_with_json_standard_output_holds_one_object(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    def noisy(*_: Any, **__: Any) -> Any:
        print("a library that prints")
        os.write(1, b"a library in C that prints\n")
        subprocess.run(["echo", "a child process that prints"], check=True)
        raise UserError("nope", where="here")

    monkeypatch.setattr(run, "launch", noisy)
    assert main.invoke(["run", "x.yaml", "--json"]) == 2
    out, err = capfd.readouterr()
    assert json.loads(out) == {"command": "run", "error": {"message": "nope", "where": "here", "exit": 2}}
    assert out.count("\n") == 1
    for said in ("a library that prints", "a library in C", "a child process", "here: nope"):
        assert said in err
    print("back")  # standard output is as it was
    os.write(1, b"back\n")
    assert capfd.readouterr().out.count("back") == 2


def test_a_user_error_is_one_message_and_status_2(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        raise UserError("must be above 0, got [-1].", where="a [b].yaml, line 3")

    monkeypatch.setattr(run, "launch", fails)
    assert main.invoke(["run", "x.yaml"]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err == "error: a [b].yaml, line 3: must be above 0, got [-1].\n"  # brackets are text, not markup


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        raise RuntimeError("unexpected")

    monkeypatch.setattr(run, "launch", fails)
    with pytest.raises(RuntimeError, match="unexpected"):
        main.invoke(["run", "x.yaml", "--json"])
    assert json.loads(capfd.readouterr().out)["error"]["exit"] == 1
    code = "import sys; from trueup.cli import main, run\ndef fails(*a, **k): raise RuntimeError('unexpected')\n"
    done = python(code + "run.launch = fails\nsys.argv = ['trueup', 'run', 'x.yaml']\nmain.main()")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "RuntimeError: unexpected" in done.stderr


def test_stopping_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    def stops(*_: Any, again: list[str], **__: Any) -> Any:
        raise Stopped(" ".join(["trueup", *again, "--resume"]))

    monkeypatch.setattr(run, "launch", stops)
    assert main.invoke(["run", "x.yaml", "--set", "a=1", "--out", "o"]) == 130
    assert capfd.readouterr().err == "stopped. Go on with: trueup run x.yaml --set a=1 --out o --resume\n"


def test_an_interrupt_inside_a_run_is_a_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    from trueup.pipeline import run as pipeline

    def interrupted(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "execute", interrupted)
    (tmp_path / "my run.yaml").write_text("world: helpdesk\n")
    assert main.invoke(["run", str(tmp_path / "my run.yaml"), "-q"]) == 130
    assert f"trueup run '{tmp_path}/my run.yaml' --quiet --resume" in capfd.readouterr().err


def test_quickstart_runs_the_packaged_example(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    from trueup.core.config import load_config
    from trueup.pipeline.config import RunConfig

    def launched(output: Any, config: Path, *, out: Path, **_: Any) -> Any:
        found = load_config(config, RunConfig)
        raise UserError(f"{found.name} {out} {len(found.arms)}")

    monkeypatch.setattr(quickstart, "launch", launched)
    assert main.invoke(["quickstart"]) == 2
    name, out, arms = capfd.readouterr().err.removeprefix("error: ").split()
    assert (name, out) == ("quickstart", "runs/quickstart")
    assert int(arms) >= 3  # static, random refit, realigned


def test_words_of_a_command() -> None:
    assert words("run", Path("a.yaml"), ["x=1"], None, quiet=True, json=True) == ["run", "a.yaml", "--set", "x=1", "--quiet", "--json"]
    assert words("quickstart", None, [], Path("o"), quiet=False, json=False) == ["quickstart", "--out", "o"]


def test_a_wrong_command_line(capfd: pytest.CaptureFixture[str]) -> None:
    assert main.invoke(["runn", "x.yaml"]) == 2
    assert "runn" in capfd.readouterr().err
    assert main.invoke(["run", "--json"]) == 2
    out, err = capfd.readouterr()
    assert json.loads(out)["error"]["exit"] == 2
    assert "CONFIG" in err


def test_version(capfd: pytest.CaptureFixture[str]) -> None:
    import trueup

    assert main.invoke(["version", "--json"]) == 0
    found = json.loads(capfd.readouterr().out)
    assert found["trueup"] == trueup.__version__
    assert "torch" in found["versions"]
    assert main.invoke(["version"]) == 0
    assert capfd.readouterr().out.startswith(f"trueup {trueup.__version__}")


def records(arm: str, step: int, gold: float) -> list[SampleRecord]:
    return [
        SampleRecord(
            run="r", arm=arm, seed=0, step=step, split="test", prompt_id=f"p{i}", sample_id=f"{arm}-{step}-{i}-{k}",
            policy_id=f"policy-{step}", prompt=f"question {i}", response="so it is", n_tokens=3, finished=True,
            logp_policy_nats=-1.0, logp_ref_nats=-1.0 - step / 100, kl_policy_ref_exact_nats=step / 100,
            scores={"rm-0": gold + k}, proxy_fixed=gold + k, proxy_current=gold + k, gold=gold + 0.1 * k,
        )
        for i in range(12)
        for k in range(2)
    ]  # fmt: skip


def made(folder: Path, seed: int) -> Path:
    """A run of three checkpoints, written without training."""
    with Run.create(folder, {"seed": seed}) as run:
        for step, gold in ((0, 0.0), (10, 1.0), (20, 0.5)):
            run.write_records(f"static-{step:06d}", [replace(r, seed=seed) for r in records("static", step, gold)])
        run.write_manifest(name=folder.name, seed=seed, arms=["static"], main_arm="static")
    return folder


REPORT = (
    "import sys; from trueup.cli.main import invoke; s = invoke(['report', *sys.argv[1:], '--json']);"
    "assert not {'torch', 'transformers'} & set(sys.modules); sys.exit(s)"
)


def test_a_report_needs_no_torch(tmp_path: Path) -> None:
    done = python(REPORT, str(made(tmp_path / "run", 0)))
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["command"] == "report"
    assert [Path(p).exists() for p in found["reports"][0]["report"].values()] == [True] * 3
    assert found["reports"][0]["main_arm"] == "static"
    assert found["together"] is None


def test_several_runs_have_a_common_page(tmp_path: Path) -> None:
    done = python(REPORT, *(str(made(tmp_path / f"run-{seed}", seed)) for seed in range(2)))
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [Path(r["report"]["html"]) for r in found["reports"]] == [
        tmp_path / f"run-{seed}" / "report" / "index.html" for seed in range(2)
    ]
    assert Path(found["together"]["html"]) == tmp_path / "report" / "index.html"
    assert all(Path(p).exists() for p in found["together"].values())


def test_modules_in_the_present_folder_can_be_named(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "desk.py").write_text(
        "from typing import Literal\nfrom trueup.sandbox.helpdesk import HelpdeskConfig\n"
        'class Mine(HelpdeskConfig):\n    kind: Literal[\'mine.desk\'] = \'mine.desk\'\n    """This file."""\n'
    )
    script = "import sys; sys.argv = ['trueup', 'config', 'show', 'mine.desk']; from trueup.cli.main import main; main()"
    # -P keeps the present folder off the path, as it is under the installed command.
    done = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert "kind: mine.desk" in done.stdout, done.stderr
