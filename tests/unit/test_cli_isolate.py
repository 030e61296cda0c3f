"""`trueup isolate` from a configuration to its page, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.unit.test_cli_compare import RUN
from trueup.cli import main
from trueup.core.config import validate
from trueup.core.errors import UserError
from trueup.pipeline.isolate_config import IsolateConfig, arm_name
from trueup.store.records import frame

BASE: dict[str, Any] = {**RUN, "arms": [{"name": "mine"}], "probe": {"every": 2, "prompts": 6, "samples_per_prompt": 2}}
ALTERNATIVES: dict[str, Any] = {
    "reward_models": [{"name": "biased", "changes": {"world": {"bias_strength": 2.0}}}, {"name": "truth", "reward": {"kind": "gold"}}],
    "optimizers": [{"name": "fast", "loop": {"learning_rate": 3e-2}}],
    "evaluations": [{"name": "words", "column": "evaluations.words"}],
}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("isolate")
    (folder / "c.yaml").write_text(yaml.safe_dump({"run": BASE, **ALTERNATIVES, "grid": True}))
    assert main.invoke(["isolate", str(folder / "c.yaml"), "--out", str(folder / "out"), "--quiet"]) == 0
    return folder, json.loads((folder / "out" / "report" / "report.json").read_text())


def test_every_combination_is_run_once(done: tuple[Path, dict[str, Any]]) -> None:
    folder, data = done
    arms = {f: set(frame(folder / "out" / f / "records")["arm"]) - {"offline"} for f in ("run", "run-biased")}
    assert arms == {"run": {"baseline", "fast", "truth", "truth-fast"}, "run-biased": {"biased", "biased-fast"}}
    assert len(data["outcomes"]) == 3 * 2 * 2
    whole = {c["cell"]["reward_model"]: c for c in data["shapley"]}
    assert set(whole) == {"biased", "truth"}
    for change in whole.values():
        # the parts add up to the change from the baseline to all exchanged
        outcome = {tuple(o[f] for f in ("reward_model", "optimizer", "evaluation")): o["outcome"]["value"] for o in data["outcomes"]}
        total = outcome[tuple(change["cell"].values())] - outcome["baseline", "baseline", "baseline"]
        assert change["total"]["value"] == pytest.approx(total)
        assert sum(e["value"] for e in change["effects"].values()) == pytest.approx(total)


def test_the_gain_is_read_from_the_records(done: tuple[Path, dict[str, Any]]) -> None:
    folder, data = done
    rows = frame(folder / "out" / "run" / "records")
    gold = {arm: rows[rows["arm"] == arm].groupby("step")["gold"] for arm in ("baseline", "fast")}
    scale = gold["baseline"].get_group(0).std(ddof=0)
    gain = {arm: (g.mean()[2] - g.mean()[0]) / scale for arm, g in gold.items()}
    alone = next(c for c in data["one_at_a_time"] if c["cell"]["reward_model"] == "truth")
    assert alone["effects"]["optimizer"]["value"] == pytest.approx(gain["fast"] - gain["baseline"])


def test_a_finished_isolation_is_read_again(done: tuple[Path, dict[str, Any]], capfd: pytest.CaptureFixture[str]) -> None:
    folder, data = done
    capfd.readouterr()
    assert main.invoke(["isolate", str(folder / "c.yaml"), "--out", str(folder / "out"), "--resume", "--quiet", "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["shapley"] == data["shapley"]
    page = (folder / "out" / "report" / "index.html").read_text()
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org", "")
    assert "reward model biased, optimizer fast, evaluation words" in page


def test_a_world_that_changes_more_is_refused_before_training(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    changed = {"run": BASE, "reward_models": [{"name": "other", "changes": {"world": {"test_prompts": 8}}}]}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(changed))
    assert main.invoke(["isolate", str(tmp_path / "c.yaml"), "--out", str(tmp_path / "out"), "--quiet"]) == 2
    assert "changes the world's test prompts" in capfd.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("reading", "said"),
    [({"prompts": "xyzzy"}, "no test prompt matches 'xyzzy'"), ({"column": "evaluations.task_corect"}, "Did you mean 'task_correct'")],
)
def test_an_evaluation_that_reads_nothing_is_refused_before_training(
    reading: dict[str, str], said: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({"run": BASE, "evaluations": [{"name": "x", **reading}]}))
    assert main.invoke(["isolate", str(tmp_path / "c.yaml"), "--out", str(tmp_path / "out"), "--quiet"]) == 2
    assert said in " ".join(capfd.readouterr().err.split())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "needs alternatives"),
        ({"optimizers": [{"name": "x"}]}, "needs 'optimizer', 'loop' or 'prompts_per_step'"),
        ({"reward_models": [{"name": "x"}]}, "needs 'reward' or 'changes'"),
        ({"reward_models": [{"name": "x", "changes": {"sft": None}}]}, "'changes' may hold reward, world"),
        ({"reward_models": [{"name": "x", "changes": {"reward": {"epochs": -1}}}]}, "alternatives x: reward.epochs"),
        ({"evaluations": [{"name": "baseline"}]}, "distinct names other than 'baseline'"),
        ({"evaluations": [{"name": "x", "prompts": "("}]}, "no regular expression"),
        ({"evaluations": [{"name": "x", "variant": "greedy"}]}, "run.probe.variants measures none"),
        ({"run": RUN, "evaluations": [{"name": "x"}]}, "needs one arm"),
    ],
)
def test_what_it_refuses(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        validate({"run": BASE, **changes}, IsolateConfig, where="c.yaml")


def test_without_the_grid_parts_are_exchanged_alone() -> None:
    config = validate({"run": BASE, **ALTERNATIVES}, IsolateConfig, where="c.yaml")
    assert [arm_name(c) for c in config.cells()] == ["baseline", "fast", "biased", "truth"]
    assert {f: [a.name for a in r.arms] for f, r in config.runs().items()} == {
        "run": ["baseline", "fast", "truth"],
        "run-biased": ["biased"],
    }
    assert config.runs()["run-biased"].world.bias_strength == 2.0
