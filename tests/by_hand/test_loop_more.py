"""The loop's bookkeeping by hand: which rows a minibatch and a micro-batch hold, with which weights, and what a state brings back."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator

from tests_support import Numbers
from trueup.core.errors import UserError
from trueup.core.rng import Key
from trueup.learn.table import Loss, Mean
from trueup.loop.config import LoopConfig, learning_rate_at
from trueup.loop.state import load_state, save_state
from trueup.loop.train import Step, train


class Weighing:
    """One weight w; the loss is w times the sum of (row's weight, which is its number squared) times (its number)."""

    def __init__(self) -> None:
        self.module = torch.nn.Linear(1, 1, bias=False)
        torch.nn.init.zeros_(self.module.weight)
        self.seen: list[list[float]] = []
        self.calls = 0.0

    def modules(self) -> dict[str, torch.nn.Module]:
        return {"w": self.module}

    def state_dict(self) -> dict[str, Any]:
        return {"calls": self.calls}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.calls = float(state["calls"])

    def collect(self, batch: Numbers, key: Key) -> Numbers:
        assert not torch.is_grad_enabled()
        self.calls += 1
        return batch

    def totals(self, experience: Numbers) -> torch.Tensor:
        self.seen.append(experience.x.tolist())
        return torch.tensor([1.0])

    def weigh(self, experience: Numbers, totals: torch.Tensor) -> torch.Tensor:
        return experience.x**2

    def loss(self, experience: Numbers, weight: torch.Tensor) -> Loss:
        return Loss((weight * experience.x).sum() * self.module.weight[0, 0], {"rows": Mean(float(len(experience)), 1)})


def steps(learner: Weighing, count: int = 1, rows: int = 4, **loop: Any) -> list[Step]:
    numbers = Numbers(x=torch.arange(1.0, rows + 1))
    config = LoopConfig(**{"max_grad_norm": 1e9, **loop})
    return list(train(learner, lambda i: numbers, steps=count, config=config, key=Key(0), accelerator=Accelerator(cpu=True)))


@pytest.mark.parametrize("micro", [None, 1, 2, 3, 4, 9])
def test_each_row_keeps_its_own_weight_in_a_micro_batch(micro: int | None) -> None:
    # d loss / d w = 1 + 8 + 27 + 64
    assert steps(Weighing(), micro_rows=micro)[0].metrics["grad_norm"] == pytest.approx(100)


def test_the_gradient_is_cut_and_its_length_told_before_that() -> None:
    learner = Weighing()
    # one Adam step moves by the learning rate whatever the length; from 0 downhill
    found = steps(learner, max_grad_norm=0.5, learning_rate=0.25)[0].metrics
    assert found["grad_norm"] == pytest.approx(100)
    assert learner.module.weight.grad is not None
    assert learner.module.weight.grad.item() == pytest.approx(0.5, rel=1e-4)
    assert learner.module.weight.item() == pytest.approx(-0.25, abs=1e-6)
    assert found["learning_rate"] == 0.25


def test_every_step_has_its_own_learning_rate() -> None:
    learner = Weighing()
    found = [s.metrics["learning_rate"] for s in steps(learner, count=4, learning_rate=0.4, lr_scheduler_type="linear")]
    assert found == pytest.approx([0.4, 0.3, 0.2, 0.1])
    assert learner.module.weight.item() == pytest.approx(-1.0, abs=1e-5)  # equal gradients: each Adam step moves by its rate


def test_minibatches_hold_every_row_once_an_iteration_in_a_new_order() -> None:
    learner = Weighing()
    found = steps(learner, rows=6, num_iterations=3, minibatch_rows=4)[0].metrics
    assert [len(x) for x in learner.seen] == [4, 2] * 3
    orders = [learner.seen[i] + learner.seen[i + 1] for i in (0, 2, 4)]
    assert [sorted(o) for o in orders] == [[1, 2, 3, 4, 5, 6]] * 3
    assert len({tuple(o) for o in orders}) == 3
    assert found["rows"] == 3  # the mean of 4 and 2, all iterations counted
    again = Weighing()
    steps(again, rows=6, num_iterations=3, minibatch_rows=4)
    assert again.seen == learner.seen
    whole = Weighing()
    steps(whole, rows=6, num_iterations=2)
    assert whole.seen == [[1, 2, 3, 4, 5, 6]] * 2


def test_the_optimizer_is_adamw_as_configured() -> None:
    # two steps with gradients g = 100, beta1 .5, beta2 .75, no epsilon to speak of. m = 50, 75; v = 2500, 4375; corrected by
    # 1 - .5^t and 1 - .75^t both give 100 and 100^2, so each step is the rate. Decay: w <- w (1 - rate * decay) first
    learner = Weighing()
    steps(learner, count=2, learning_rate=0.1, adam_beta1=0.5, adam_beta2=0.75, adam_epsilon=1e-12, weight_decay=2.0)
    assert learner.module.weight.item() == pytest.approx(-0.1 * 0.8 - 0.1, abs=1e-6)


def test_schedules_after_warm_up() -> None:
    # four steps of warm-up, then six: linear 1 - k/6, cosine (1 + cos(pi k/6)) / 2
    linear = LoopConfig(learning_rate=2.0, warmup_steps=4, lr_scheduler_type="linear")
    assert [learning_rate_at(linear, i, 10) for i in (0, 3, 4, 7)] == pytest.approx([0.5, 2.0, 2.0, 1.0])
    cosine = LoopConfig(learning_rate=2.0, warmup_steps=4, lr_scheduler_type="cosine")
    assert [learning_rate_at(cosine, i, 10) for i in (4, 6, 7)] == pytest.approx([2.0, 1 + math.cos(math.pi / 3), 1.0])


def test_a_state_holds_weights_moments_and_the_learners_own(tmp_path: Path) -> None:
    learner = Weighing()
    state = steps(learner, count=3)[-1].snapshot()
    save_state(tmp_path / "s", state)
    found = load_state(tmp_path / "s")
    assert found is not None
    assert (found.step, found.learner) == (3, {"calls": 3.0})
    assert found.tensors["weights/w/weight"].tolist() == learner.module.weight.tolist()
    assert {k for k in found.tensors if k.startswith("optimizer/0/")} == {f"optimizer/0/{k}" for k in ("step", "exp_avg", "exp_avg_sq")}
    assert found.tensors["optimizer/0/step"].item() == 3
    again = Weighing()
    numbers = Numbers(x=torch.arange(1.0, 5.0))
    config, accelerator = LoopConfig(max_grad_norm=1e9), Accelerator(cpu=True)
    # a start at its own stop takes no step, but puts everything back
    assert not list(train(again, lambda i: numbers, steps=3, config=config, key=Key(0), accelerator=accelerator, start=found))
    assert (again.calls, again.module.weight.item()) == (3.0, learner.module.weight.item())
    assert load_state(tmp_path / "nothing") is None
    (tmp_path / "s" / "state.safetensors").write_bytes(b"torn")
    with pytest.raises(UserError, match="cannot be read back"):
        load_state(tmp_path / "s")
