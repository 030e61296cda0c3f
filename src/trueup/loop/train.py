"""The loop every learner shares: policies, reward models, supervised models. A generator; its consumer logs, probes, saves or breaks."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from trueup.core.errors import UserError
from trueup.core.rng import Key
from trueup.learn.learner import Learner
from trueup.learn.table import Mean, Measured, Table
from trueup.loop.config import LoopConfig, learning_rate_at
from trueup.loop.sharding import Shards, clip_gradients, is_split
from trueup.loop.state import TrainState, capture, restore, trainable

B = TypeVar("B", bound=Table)
E = TypeVar("E", bound=Table)


@dataclass(frozen=True, slots=True)
class Step:
    """One step, done."""

    index: int
    """Counted from 0."""
    metrics: dict[str, float]
    """Means over every minibatch, micro-batch and process of the step; a metric that counted nothing is absent."""
    experience: Table
    seconds: float
    snapshot: Callable[[], TrainState]
    """Captures the state after this step; where weights are split over processes, every process must call it."""


def train(
    learner: Learner[B, E],
    batch_of: Callable[[int], B],
    *,
    steps: int,
    config: LoopConfig,
    key: Key,
    accelerator: Accelerator,
    start: TrainState | None = None,
    stop: int | None = None,
) -> Iterator[Step]:
    """Take steps ``start.step`` … ``stop - 1``, yielding each when done.

    Args:
        learner: what learns.
        batch_of: the *global* batch of a step, a pure function of its number; each process takes its contiguous share of the rows.
        steps: length of the whole schedule (of the learning rate).
        config: how steps are taken.
        key: root of this run's random streams; step ``i`` draws from ``key / i``.
        accelerator: devices, precision and processes.
        start: where to go on from; the beginning if None.
        stop: step to stop before; ``steps`` if None.

    Raises:
        UserError: the loss is not finite.
    """
    modules = prepare(learner.modules(), accelerator)
    shards = Shards(modules if config.shard else {}, accelerator.device, accelerator.num_processes)
    shards.split()
    parameters = [p for m in modules.values() for p in trainable(m).values()]
    shards.gather()
    optimizer = _adamw(parameters, config)
    if start is not None:
        restore(start, modules, optimizer)
        learner.load_state_dict(start.learner)
    for index in range(start.step if start else 0, steps if stop is None else stop):
        began = time.perf_counter()
        for group in optimizer.param_groups:
            group["lr"] = learning_rate_at(config, index, steps)
        with torch.no_grad():
            experience = learner.collect(_share(batch_of(index), accelerator), key / index)
        means: dict[str, Mean] = defaultdict(lambda: Mean(0.0, 0.0))
        shards.split()
        for iteration in range(config.num_iterations):
            for rows in _minibatches(len(experience), config, key / index / iteration, accelerator):
                _update(learner, experience if rows is None else experience.take(rows), config, parameters, optimizer, accelerator, means)
                _check_finite(means, index)
        if shards:
            optimizer.zero_grad(set_to_none=True)  # whole weights need the memory
        shards.gather()
        metrics = _merge(means, accelerator)
        metrics["learning_rate"] = optimizer.param_groups[0]["lr"]

        def snapshot(done: int = index + 1) -> TrainState:
            return capture(done, modules, optimizer, learner.state_dict())

        yield Step(index, metrics, experience, time.perf_counter() - began, snapshot)


def prepare(modules: Mapping[str, nn.Module], accelerator: Accelerator) -> dict[str, nn.Module]:
    """Move modules to their device and precision. Gradients are summed by `_update`, or where weights are split: no module is wrapped."""
    return {name: accelerator.prepare_model(module, evaluation_mode=True) for name, module in modules.items()}


def _adamw(parameters: list[nn.Parameter], config: LoopConfig) -> torch.optim.AdamW:
    mixed = len({is_split(p) for p in parameters}) > 1  # one call of a kernel takes whole parameters or split ones
    return torch.optim.AdamW(
        parameters,
        lr=config.learning_rate,
        betas=(config.adam_beta1, config.adam_beta2),
        eps=config.adam_epsilon,
        weight_decay=config.weight_decay,
        fused=None if mixed else True,
        foreach=False if mixed else None,
    )


def _share(batch: B, accelerator: Accelerator) -> B:
    """This process's contiguous rows of a global batch."""
    world = accelerator.num_processes
    if world == 1:
        return batch
    if len(batch) % world:
        raise UserError(f"a batch of {len(batch)} rows cannot be shared by {world} processes. Choose a multiple of {world}.")
    size = len(batch) // world
    return batch.take(torch.arange(size) + accelerator.process_index * size)


def _minibatches(rows: int, config: LoopConfig, key: Key, accelerator: Accelerator) -> Iterator[Tensor | None]:
    """Row numbers of each minibatch, shuffled; None stands for all rows in their order."""
    size = rows if config.minibatch_rows is None else max(config.minibatch_rows // accelerator.num_processes, 1)
    if size >= rows:
        yield None
        return
    order = torch.from_numpy((key / accelerator.process_index).permutation(rows))
    yield from order.split(size)


def _update(
    learner: Learner[Any, E],
    minibatch: E,
    config: LoopConfig,
    parameters: list[nn.Parameter],
    optimizer: torch.optim.Optimizer,
    accelerator: Accelerator,
    means: dict[str, Mean],
) -> None:
    """One optimizer step on one minibatch, in micro-batches that add up exactly."""
    if any(is_split(p) for p in parameters):
        _check_rows(minibatch, accelerator)
    totals = learner.totals(minibatch)
    if accelerator.num_processes > 1:
        totals = accelerator.reduce(totals.to(accelerator.device), "sum")
    weight = learner.weigh(minibatch, totals)
    optimizer.zero_grad(set_to_none=True)
    for part in _micro_batches(minibatch, config.micro_rows or len(minibatch)):
        loss = learner.loss(minibatch, weight) if part is None else learner.loss(minibatch.take(part), weight[part])
        torch.autograd.backward(loss.value)
        means["loss"] += Mean(loss.value.item(), 0)
        for name, mean in loss.metrics.items():
            means[name] += mean
    means["loss"] += Mean(0.0, 1)
    if accelerator.num_processes > 1:
        _sum_gradients([p for p in parameters if not is_split(p)], accelerator)
    norm = clip_gradients(parameters, config.max_grad_norm, lambda x: accelerator.reduce(x, "sum"))
    means["grad_norm"] += Mean(norm.item(), 1)
    if math.isfinite(means["loss"].total) and math.isfinite(norm.item()):
        optimizer.step()


def _check_rows(minibatch: Table, accelerator: Accelerator) -> None:
    """Processes gather split weights together, so each must make as many passes as the others."""
    rows = accelerator.gather(torch.tensor([len(minibatch)], device=accelerator.device)).tolist()
    if len(set(rows)) > 1:
        raise UserError(
            f"weights that are split over processes need as many rows in each, but a minibatch has {rows}. Set shard: false.",
            where="loop.shard",
        )


def _micro_batches(minibatch: Table, size: int) -> Sequence[Tensor | None]:
    """Row numbers of each micro-batch, rows of like length together, for a padded pass costs what its longest row costs; None for all."""
    if size >= len(minibatch):
        return [None]
    columns = (getattr(minibatch, f.name) for f in fields(minibatch))
    lengths = [c.lengths.reshape(len(minibatch), -1).sum(1).cpu() for c in columns if isinstance(c, Measured)]
    order = torch.stack(lengths).sum(0).argsort(stable=True) if lengths else torch.arange(len(minibatch))
    return order.split(size)


def _sum_gradients(parameters: list[nn.Parameter], accelerator: Accelerator) -> None:
    """Sum gradients over processes in one message: weights already carry the global counts, so a sum is the whole gradient."""
    if not parameters:
        return
    flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters])
    flat = accelerator.reduce(flat, "sum")
    for p, part in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
        p.grad = part.view_as(p).clone()


def _check_finite(means: Mapping[str, Mean], index: int) -> None:
    if not (math.isfinite(means["loss"].total) and math.isfinite(means["grad_norm"].total)):
        raise UserError(
            f"the loss or its gradient is not finite (loss {means['loss'].total}, gradient norm {means['grad_norm'].total}). "
            "The weights before this step are untouched; lower learning_rate, or look for extreme rewards.",
            where=f"step {index}",
        )


def _merge(means: Mapping[str, Mean], accelerator: Accelerator) -> dict[str, float]:
    """Metrics over all processes; the loss is a sum over processes of parts that already carry global weights."""
    names = sorted(means)
    table = torch.tensor([[means[n].total, means[n].count] for n in names], dtype=torch.float64)
    if accelerator.num_processes > 1:
        table = accelerator.reduce(table.to(accelerator.device), "sum").cpu()
        table[names.index("loss"), 1] /= accelerator.num_processes
    return {n: total / count for n, (total, count) in zip(names, table.tolist(), strict=True) if count}
