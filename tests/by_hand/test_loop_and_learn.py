"""The loop, its schedule, its tables and its keyed random numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from tests_support import Numbers
from trueup.core.errors import UserError
from trueup.core.rng import Key, epoch_rows
from trueup.learn.table import Loss, Mean, Table
from trueup.loop.config import LoopConfig, learning_rate_at
from trueup.loop.train import train


class Counting:
    """One weight; metrics that count rows. The gradient of its loss is the weighted sum of the numbers."""

    def __init__(self) -> None:
        self.module = torch.nn.Linear(1, 1, bias=False)
        self.module.weight.data.zero_()

    def modules(self) -> dict[str, torch.nn.Module]:
        return {"w": self.module}

    def state_dict(self) -> dict[str, object]:
        return {}

    def load_state_dict(self, state: dict[str, object]) -> None: ...

    def collect(self, batch: Numbers, key: Key) -> Numbers:
        return batch

    def totals(self, experience: Numbers) -> torch.Tensor:
        return torch.tensor([float(len(experience))])

    def weigh(self, experience: Numbers, totals: torch.Tensor) -> torch.Tensor:
        return torch.ones(len(experience)) / totals[0]

    def loss(self, experience: Numbers, weight: torch.Tensor) -> Loss:
        rows = len(experience)
        return Loss((weight * experience.x * self.module.weight[0, 0]).sum(), {"ten": Mean(10.0 * rows, rows), "size": Mean(rows, 1)})


def steps_of(config: LoopConfig, rows: int = 4) -> list[dict[str, float]]:
    numbers = Numbers(x=torch.arange(float(rows)))
    return [s.metrics for s in train(Counting(), lambda i: numbers, steps=2, config=config, key=Key(0), accelerator=Accelerator(cpu=True))]


def test_metrics_average_over_every_minibatch_and_micro_batch() -> None:
    first = steps_of(LoopConfig(minibatch_rows=3))[0]
    assert first["ten"] == 10
    assert first["size"] == 2  # minibatches of 3 and 1 rows
    assert steps_of(LoopConfig(micro_rows=1))[0]["size"] == 1


def test_the_gradient_does_not_depend_on_micro_batches() -> None:
    # d loss / d w = mean(0, 1, 2, 3) = 1.5
    for micro in (None, 1, 3):
        assert steps_of(LoopConfig(micro_rows=micro, max_grad_norm=100))[0]["grad_norm"] == pytest.approx(1.5)


def test_a_loss_that_is_not_finite_stops_before_the_weights_are_touched() -> None:
    learner, bad = Counting(), Numbers(x=torch.tensor([float("nan"), 1.0]))
    with pytest.raises(UserError, match=r"step 0.*not finite"):
        list(train(learner, lambda i: bad, steps=1, config=LoopConfig(), key=Key(0), accelerator=Accelerator(cpu=True)))
    assert learner.module.weight.item() == 0


def test_learning_rate_schedules() -> None:
    warm = LoopConfig(learning_rate=1.0, warmup_steps=4)
    assert [learning_rate_at(warm, i, 10) for i in (0, 3, 4, 9)] == [0.25, 1.0, 1.0, 1.0]
    linear = LoopConfig(learning_rate=1.0, lr_scheduler_type="linear")
    assert [learning_rate_at(linear, i, 4) for i in range(4)] == [1.0, 0.75, 0.5, 0.25]
    cosine = LoopConfig(learning_rate=1.0, lr_scheduler_type="cosine")
    assert learning_rate_at(cosine, 5, 10) == pytest.approx(0.5)


def test_uniforms_of_a_row_do_not_depend_on_its_company() -> None:
    key = Key(5) / "rollout"
    together, alone = key.uniforms(range(10), 7), key.uniforms([6], 3)
    np.testing.assert_array_equal(together[6, :3], alone[0])
    assert len(np.unique(together)) == 70
    assert (together >= 0).all()
    assert (together < 1).all()


def test_uniforms_are_uniform_and_unrelated() -> None:
    u = Key(1).uniforms(range(400), 50)
    # mean of n uniforms has deviation 1/sqrt(12 n); neighbours' correlation has 1/sqrt(n)
    assert abs(u.mean() - 0.5) < 4 / np.sqrt(12 * u.size)
    assert abs(np.corrcoef(u[:-1].ravel(), u[1:].ravel())[0, 1]) < 4 / np.sqrt(u.size)


def test_keys_differ_by_type_and_place() -> None:
    assert (Key(0) / 1).words() != (Key(0) / "1").words()
    assert (Key(0) / "a" / "b").words() != (Key(0) / "b" / "a").words()
    assert Key(0).words() != Key(1).words()


def test_epochs_read_every_row_once() -> None:
    rows = [epoch_rows(Key(2), 10, 4, step) for step in range(5)]
    flat = np.concatenate(rows)
    assert sorted(flat[:10]) == list(range(10))
    assert sorted(flat[10:]) == list(range(10))
    assert list(flat[:10]) != list(flat[10:])


def test_tables_take_and_join() -> None:
    from dataclasses import dataclass

    @dataclass(frozen=True, kw_only=True)
    class Mixed(Table):
        x: torch.Tensor
        name: tuple[str, ...]
        inner: Numbers

    t = Mixed(x=torch.arange(3), name=("a", "b", "c"), inner=Numbers(x=torch.arange(3.0)))
    part = t.take(torch.tensor([2, 0]))
    assert (part.x.tolist(), part.name, part.inner.x.tolist()) == ([2, 0], ("c", "a"), [2.0, 0.0])
    joined = Mixed.concat([t, part])
    assert (len(joined), joined.name, joined.inner.x.tolist()) == (5, ("a", "b", "c", "c", "a"), [0.0, 1.0, 2.0, 2.0, 0.0])
    with pytest.raises(ValueError, match="differ in rows"):
        Mixed(x=torch.arange(2), name=("a",), inner=Numbers(x=torch.arange(2.0)))


def test_an_empty_mean_is_absent() -> None:
    assert Mean(0.0, 0.0).value is None
    assert (Mean(1.0, 2.0) + Mean(3.0, 2.0)).value == 1.0
