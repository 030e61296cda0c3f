"""A run of ensembles, averages and shaped rewards, stopped in each kind of stage: it must end as if nothing happened."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from trueup.core.config import validate
from trueup.pipeline.config import RunConfig
from trueup.pipeline.events import Event
from trueup.pipeline.run import execute
from trueup.store.records import frame
from trueup.store.stage_cache import VARIABLE

CONFIG: dict[str, Any] = {
    "threads": 1,
    "world": {"kind": "helpdesk", "train_prompts": 12, "validation_prompts": 6, "test_prompts": 4, "demonstrations": 32,
              "train_pairs": 32, "validation_pairs": 60},
    "policy_model": {"hidden_size": 16, "layers": 1, "heads": 2},
    "sft": {"epochs": 1, "batch_size": 8},
    "reward": {"epochs": 1, "batch_size": 8, "reference_samples": 8, "loop": {"learning_rate": 3e-3}, "model": {"lora": {"rank": 2}}},
    "policy": {"steps": 4, "prompts_per_step": 4, "optimizer": {"kind": "rloo", "num_generations": 2, "max_completion_length": 6}},
    "probe": {"every": 2, "prompts": 4, "samples_per_prompt": 1},
    "checkpoint_every": 2,
    "arms": [
        {"name": "own", "reward": {"kind": "ensemble", "members": 2, "differ": "pretraining", "rule": "min"}},
        {"name": "warm", "reward": {"kind": "average", "members": 2, "differ": "adapter"}},
        {"name": "shaped", "reward": {"kind": "sigmoid", "references": 2},
         "realign": {"every": 2, "prompts": 4, "epochs": 2, "batch_size": 8, "select": {"kind": "random", "size": 16}}},
    ],
}  # fmt: skip
STOPS = [("sft-pretraining-1", None, 3), ("reward-pretraining-1", None, 1), ("policy", "own", 3), ("reward-adapter-1", None, 3),
         ("policy", "warm", 1), ("refit-000002", "shaped", 3), ("policy", "shaped", 3)]  # fmt: skip


class Stopped(Exception):
    """The process is gone."""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """An unbroken run, and one stopped seven times."""
    whole, broken = tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("broken")
    config = validate(CONFIG, RunConfig, where="here")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(VARIABLE, raising=False)
        execute(config, whole, resume=True)
        for stop in STOPS:

            def listening(event: Event, stop: tuple[str, str | None, int] = stop) -> None:
                if event.kind == "step" and (event.stage, event.arm, event.step) == stop:
                    raise Stopped

            with pytest.raises(Stopped):
                execute(config, broken, resume=True, on_event=listening)
        execute(config, broken, resume=True)
    return whole, broken


@pytest.mark.slow
def test_weights_are_bit_identical(runs: tuple[Path, Path]) -> None:
    names, others = (sorted(p.relative_to(r / "checkpoints") for p in (r / "checkpoints").rglob("*.safetensors")) for r in runs)
    assert names == others
    folders = {str(n.parent) for n in names}
    assert {"reward-pretraining-1", "reward-adapter-1", "reward-average-adapter-2", "sft-pretraining-1", "shaped/reward-000002"} <= folders
    for name in names:
        a, b = (load_file(r / "checkpoints" / name) for r in runs)
        assert a.keys() == b.keys()
        assert all((a[k] == b[k]).all() for k in a), name


@pytest.mark.slow
def test_records_facts_and_metrics_are_identical(runs: tuple[Path, Path]) -> None:
    a, b = (frame(r / "records") for r in runs)
    assert list(a.columns) == list(b.columns)
    assert {"disagreement", "scores.own/reward", "scores.shaped/rm-1"} <= set(a.columns)
    assert a.astype(str).equals(b.astype(str))
    for name in sorted(p.relative_to(runs[0]) for p in (runs[0] / "stages").rglob("*.json")):
        assert json.loads((runs[0] / name).read_text()) == json.loads((runs[1] / name).read_text()), name

    def rows(out: Path) -> list[dict[str, Any]]:
        found = [json.loads(x) for x in (out / "metrics.jsonl").read_text().splitlines()]
        return [{k: v for k, v in r.items() if k not in ("seconds", "time")} for r in found]

    assert rows(runs[0]) == rows(runs[1])
    texts = ["data/references-2.jsonl", *(str(p.relative_to(runs[0])) for p in runs[0].rglob("trueup_calibration.json"))]
    assert all((runs[0] / t).read_bytes() == (runs[1] / t).read_bytes() for t in texts)
