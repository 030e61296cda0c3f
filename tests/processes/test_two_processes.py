"""Two processes take the same steps as one: every learner of the contract, started by torchrun with gloo."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from contract.test_learners import LEARNERS
from processes.launch import launched


def started(processes: int, out: Path) -> dict[str, Any]:
    """What the child wrote."""
    launched("child.py", processes, str(out))
    found: dict[str, Any] = json.loads(out.read_text())
    return found


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, Any]]:
    folder = tmp_path_factory.mktemp("processes")
    one, two = started(1, folder / "one.json"), started(2, folder / "two.json")
    assert (one["processes"], two["processes"]) == (1, 2)
    return one["learners"], two["learners"]


@pytest.mark.parametrize("name", LEARNERS)
def test_two_processes_take_the_steps_of_one(name: str, both: tuple[dict[str, Any], dict[str, Any]]) -> None:
    one, two = (b[name] for b in both)
    for alone, shared in zip(one["metrics"], two["metrics"], strict=True):
        assert shared == pytest.approx(alone, rel=1e-3, abs=1e-5)
    assert two["weights"] == pytest.approx(one["weights"], rel=1e-3, abs=1e-5)
