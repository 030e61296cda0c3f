"""Weights split over two processes, started by torchrun with gloo: the steps are those of one, and states go from one to the other."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator

from processes.launch import launched
from processes.sharded import HALF, built, steps, taken, weights
from tests_support import tiny_policy, tiny_reward
from trueup.loop.sharding import Shards, _layers
from trueup.loop.state import load_state
from trueup.models.policy import load_policy

NAMES = ("sft", "pairs", "rloo", "ppo", "ilql", "values", "adapter")
"""A policy, a reward model, one that samples, two modules at once, buffers, outputs at every token, frozen weights."""


@dataclass
class Both:
    folder: Path
    one: dict[str, Any]
    two: dict[str, Any]
    out: dict[str, Any]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Both:
    folder = tmp_path_factory.mktemp("sharded")
    one = {name: taken(name, Accelerator(cpu=True), folder / f"{name}-one") for name in NAMES}
    launched("sharded.py", 2, str(folder), *NAMES)
    out = json.loads((folder / "two.json").read_text())
    assert out["processes"] == 2
    return Both(folder, one, out["learners"], out)


def same(a: list[float], b: list[float]) -> None:
    assert a == pytest.approx(b, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_is_split_while_losses_are_computed(name: str, both: Both) -> None:
    one, two = both.one[name], both.two[name]
    assert two["split"] == one["whole"]
    assert two["whole"] == one["split"] == []
    # rows of a matrix go to one process or the other; a matrix of one row, such as a score's, cannot be halved
    assert sum(two["locals"]) == two["numbers"]
    assert max(two["locals"]) < 0.51 * two["numbers"]


@pytest.mark.parametrize("name", NAMES)
def test_split_steps_are_those_of_one_process(name: str, both: Both) -> None:
    one, two = both.one[name], both.two[name]
    for alone, split in zip(one["metrics"], two["metrics"], strict=True):
        assert split == pytest.approx(alone, rel=1e-3, abs=1e-5)
    assert any(m["grad_norm"] > 0.05 for m in one["metrics"]), "some gradient must be clipped"
    same(two["weights"], one["weights"])


@pytest.mark.parametrize("name", NAMES)
def test_states_go_from_two_processes_to_one_and_back(name: str, both: Both) -> None:
    first, second = (load_state(both.folder / f"{name}-{n}") for n in ("one", "two"))
    assert first is not None
    assert second is not None
    assert second.step == HALF
    assert {k: v.shape for k, v in second.tensors.items()} == {k: v.shape for k, v in first.tensors.items()}
    assert any("/exp_avg" in k for k in second.tensors)
    for k, v in first.tensors.items():
        torch.testing.assert_close(second.tensors[k], v, rtol=1e-3, atol=1e-6)
    end = both.one[name]["weights"]
    same(taken(name, Accelerator(cpu=True), start=second)["weights"], end)
    same(both.two[name]["resumed"], end)


def test_between_steps_a_split_policy_is_like_any_other(both: Both) -> None:
    assert both.out["paused"]["plain"]
    same(both.out["paused"]["weights"], both.one["sft"]["weights"])
    saved = load_policy(both.folder / "policy").model
    same(torch.cat([p.detach().flatten() for p in saved.parameters()]).tolist(), both.out["paused"]["weights"])


def test_one_norm_of_split_and_whole_gradients(both: Both) -> None:
    # sqrt(3^2 + 4^2 + 12^2) = 13: at most 6.5 halves all, at most 20 changes nothing
    half, same_as_before = both.out["clipped"]
    assert half["norm"] == same_as_before["norm"] == 13
    assert half["gradients"] == pytest.approx([1.5, 0, 2, 0, 6], rel=1e-6)
    assert same_as_before["gradients"] == [3, 0, 4, 0, 12]


def test_processes_with_unequal_rows_are_told(both: Both) -> None:
    assert "[2, 3]" in both.out["uneven"]
    assert "shard: false" in both.out["uneven"]


def test_in_one_process_nothing_is_split() -> None:
    ends = []
    for shard in (False, True):
        learner, seen = built("sft", Accelerator(cpu=True))
        for _ in steps("sft", learner, Accelerator(cpu=True), shard=shard, stop=HALF):
            pass
        assert not seen.split
        ends.append(weights(learner))
    assert ends[0] == ends[1]


def test_layers_of_transformers_are_found() -> None:
    policy, reward = tiny_policy().model, tiny_reward().module
    assert list(_layers(policy)) == list(policy.model.layers)
    assert list(_layers(reward)) == list(reward.model.layers)
    small = {"head": torch.nn.Linear(3, 1)}
    assert len(Shards(small, torch.device("cpu"), 2)) == 0
    assert len(Shards({"policy": policy}, torch.device("cpu"), 1)) == 0
