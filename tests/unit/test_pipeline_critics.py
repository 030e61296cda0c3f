"""Runs whose optimizers look inside the reward, begin with it as critic, or mix demonstrations in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import trueup
from trueup.core.errors import UserError
from trueup.loop.state import load_state

SHORT = {"num_generations": 2, "max_completion_length": 6}
HELD = {"kind": "sum", "parts": [{"reward": "learned"}, {"weight": 2, "reward": {"kind": "pattern", "expression": "the"}}]}
SMALL: dict[str, Any] = {
    "threads": 1,
    "world": {"kind": "helpdesk", "train_prompts": 12, "validation_prompts": 6, "test_prompts": 6, "demonstrations": 32,
              "train_pairs": 24, "validation_pairs": 10},
    "policy_model": {"hidden_size": 16, "layers": 1, "heads": 2},
    "sft": {"epochs": 1, "batch_size": 16},
    "reward": {"epochs": 1, "batch_size": 12, "reference_samples": 12, "loop": {"learning_rate": 1e-2}},
    "policy": {"steps": 2, "prompts_per_step": 4, "optimizer": {"kind": "ppo", **SHORT, "critic": "reward", "ptx_coef": 0.1}},
    "probe": {"every": 2, "prompts": 6, "samples_per_prompt": 2},
}  # fmt: skip
ARMS = [
    {"name": "ppo"},
    {"name": "held", "reward": HELD, "optimizer": {"kind": "constrained", **SHORT, "thresholds": {"learned": 0.5, "pattern": 0.2}}},
    {"name": "stars", "reward": {"kind": "noisy", "granularity": 2, "low": -1, "high": 1}},
    {
        "name": "centred",
        "optimizer": {"kind": "advantage_model_ppo", **SHORT, "clusters": 2, "per_cluster": 2},
        "realign": {"first": 1, "every": 1, "prompts": 4, "samples_per_prompt": 2, "batch_size": 4},
    },
]


def test_they_run_and_say_what_they_did(tmp_path: Path) -> None:
    arms = [a if a["name"] != "stars" else {**a, "optimizer": {"kind": "rloo", **SHORT}} for a in ARMS]
    out = tmp_path / "out"
    trueup.train({**SMALL, "arms": arms}, out)
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    by_arm = {a["name"]: [r["metrics"] for r in rows if r["arm"] == a["name"] and r["stage"] == "policy"] for a in arms}
    assert all(len(found) == 2 for found in by_arm.values())
    assert all(m["loss/ptx"] > 0 for m in (*by_arm["ppo"], *by_arm["centred"]))
    # xi begins at 0 and moves by its rate times threshold less mean, tanh being almost straight there
    first = by_arm["held"][0]
    for name, threshold in (("learned", 0.5), ("pattern", 0.2)):
        assert first[f"multiplier/{name}"] == pytest.approx(0.03 * (threshold - first[f"reward/{name}"]), abs=1e-3)
    assert first["reward"] == pytest.approx(first["reward/learned"] + 2 * first["reward/pattern"], abs=1e-5)
    # three ratings: -1, 0 and 1, and so means of eight replies in eighths
    assert all((8 * m["reward"]) == pytest.approx(round(8 * m["reward"]), abs=1e-5) for m in by_arm["stars"])
    state = load_state(out / "states" / "centred" / "policy")
    assert state is not None
    assert len(state.learner["rehearsed"]) in (2, 3, 4)


@pytest.mark.parametrize(
    ("policy", "arm", "said"),
    [
        ({"ptx_coef": 0.1}, {}, "mixes in demonstrations, and this world has none"),
        ({}, {"optimizer": {"kind": "advantage_model_ppo", **SHORT}}, "mixes in demonstrations, and this world has none"),
        ({}, {"optimizer": {"kind": "constrained", "thresholds": {"a": 0.0}}}, "this one has none"),
        ({"critic": "reward"}, {"reward": HELD}, "the reward 'sum' is none"),
    ],
)
def test_what_cannot_work_is_said_before_anything_is_trained(tmp_path: Path, policy: Any, arm: Any, said: str) -> None:
    config = {
        **SMALL,
        "world": {**SMALL["world"], "demonstrations": 0},
        "policy": {"steps": 1, "optimizer": {"kind": "ppo", **SHORT, **policy}},
        "arms": [{"name": "a", **arm}],
    }
    with pytest.raises(UserError, match=said):
        trueup.train(config, tmp_path / "out")
    assert not list(tmp_path.glob("out/checkpoints/*"))
