"""`trueup compare` from a configuration to its page, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from trueup.cli import main
from trueup.core.config import validate
from trueup.core.errors import UserError
from trueup.pipeline.compare_config import CompareConfig

RUN: dict[str, Any] = {
    "name": "small",
    "threads": 1,
    "world": {"kind": "helpdesk", "train_prompts": 12, "validation_prompts": 6, "test_prompts": 6, "demonstrations": 32,
              "train_pairs": 24, "validation_pairs": 10},
    "policy_model": {"hidden_size": 16, "layers": 1, "heads": 2},
    "sft": {"epochs": 1, "batch_size": 16},
    "reward": {"epochs": 1, "batch_size": 12, "reference_samples": 12, "loop": {"learning_rate": 1e-2}},
    "policy": {"steps": 2, "prompts_per_step": 4, "loop": {"learning_rate": 1e-2},
               "optimizer": {"kind": "rloo", "num_generations": 2, "max_completion_length": 6}},
    "probe": {"every": 1, "prompts": 6, "samples_per_prompt": 2},
    "arms": [{"name": "rloo"}, {"name": "dpo", "optimizer": {"kind": "dpo"}, "loop": {"learning_rate": 5e-3}, "prompts_per_step": 6}],
}  # fmt: skip
DECODERS = [{"name": "bon", "settings": [{"kind": "best_of_n", "n": 1}, {"kind": "best_of_n", "n": 3}]}]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("compare")
    (folder / "c.yaml").write_text(yaml.safe_dump({"run": RUN, "decoders": DECODERS, "kl_nats": [1e-6, 500]}))
    assert main.invoke(["compare", str(folder / "c.yaml"), "--out", str(folder / "out"), "--quiet"]) == 0
    return folder, json.loads((folder / "out" / "report" / "report.json").read_text())


def test_all_methods_stand_on_one_page(done: tuple[Path, dict[str, Any]]) -> None:
    folder, data = done
    methods = {m["method"]: m for m in data["methods"]}
    assert list(methods) == ["rloo", "dpo", "bon"]
    assert [methods[m]["steps"] for m in methods] == [[0, 1, 2], [0, 1, 2], [0, 1]]
    assert (methods["bon"]["decodes"], methods["bon"]["kl_is_bound"]) == (True, True)
    for m in methods.values():
        assert m["points"]["kl_nats"][0] == pytest.approx(0.0, abs=1e-6)
        costs = m["points"]["core_hours"]
        assert all(c is not None and c >= 0 for c in costs)
    # the first points of the optimizers are the same policy on the same random numbers
    assert methods["rloo"]["points"]["gold"][0] == methods["dpo"]["points"]["gold"][0]
    at = {(c["arm"], c["axis"], c["budget"]): c for c in data["at_budget"] if c["column"] == "gold"}
    assert at["rloo", "kl_nats", 1e-6]["difference"] is None
    assert at["bon", "kl_nats", 500.0]["value"]["value"] is None
    # all of the cheaper optimizer's cost buys its last checkpoint
    whole = max(b for _, axis, b in at if axis == "core_hours")
    cheap = min(("rloo", "dpo"), key=lambda m: methods[m]["points"]["core_hours"][-1])
    assert at[cheap, "core_hours", whole]["value"]["value"] == pytest.approx(methods[cheap]["points"]["gold"][-1])
    page = (folder / "out" / "report" / "index.html").read_text()
    assert "not reached" in page
    assert page.count("<svg") >= 2


def test_an_arm_takes_steps_of_its_own(done: tuple[Path, dict[str, Any]]) -> None:
    rows = [json.loads(line) for line in (done[0] / "out" / "run" / "metrics.jsonl").read_text().splitlines()]
    rates = {r["arm"]: r["metrics"]["learning_rate"] for r in rows if r["stage"] == "policy"}
    assert rates == {"rloo": 1e-2, "dpo": 5e-3}


def test_a_finished_comparison_is_read_again(done: tuple[Path, dict[str, Any]], capfd: pytest.CaptureFixture[str]) -> None:
    folder, data = done
    capfd.readouterr()
    assert main.invoke(["compare", str(folder / "c.yaml"), "--out", str(folder / "out"), "--resume", "--quiet", "--json"]) == 0
    found = json.loads(capfd.readouterr().out)
    assert found["at_budget"] == data["at_budget"]
    assert main.invoke(["compare", str(folder / "c.yaml"), "--out", str(folder / "out"), "--quiet"]) == 2
    assert "--resume" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"decoders": [{"name": "rloo", "settings": ["greedy"]}]}, "distinct names"),
        ({"decoders": [], "run": {**RUN, "arms": [{"name": "a"}]}}, "two or more"),
        ({"against": "ppo"}, "'against' names 'ppo'"),
        ({"kl_nats": [0.0]}, "above 0"),
        ({"run": {**RUN, "policy": None}}, "policy stage"),
        ({"run": {**RUN, "reward": None, "arms": [{"name": "dpo", "optimizer": "dpo"}]}}, "run.reward"),
    ],
)
def test_what_cannot_be_compared_is_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        validate({"run": RUN, "decoders": DECODERS, **change}, CompareConfig, where="here")


def test_a_file_that_is_not_there(capfd: pytest.CaptureFixture[str]) -> None:
    assert main.invoke(["compare", "nowhere.yaml"]) == 2
    assert "nowhere.yaml" in capfd.readouterr().err
