"""Run by torchrun: learners take four steps with their weights split over processes; a state is left after two of them.

torchrun --nproc_per_node 2 tests/processes/sharded.py FOLDER NAME ...

FOLDER holds NAME-one, a state that one process left after two steps; NAME-two is written, and FOLDER/two.json.
"""

from __future__ import annotations

import copy
import json
import sys
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from accelerate import Accelerator
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

import tests_support
from contract import test_learners as contract
from tests_support import Numbers, parameters, tiny_parts
from trueup.core.errors import UserError
from trueup.core.rng import Key
from trueup.decoding.rollout import Rollout
from trueup.loop.config import LoopConfig
from trueup.loop.sharding import clip_gradients
from trueup.loop.state import TrainState, load_state, save_state
from trueup.loop.train import _check_rows, train
from trueup.models.loading import recompute_activations
from trueup.models.policy import LoraSettings, Policy, adapted, reference_of
from trueup.optimizers.ppo import PPOConfig
from trueup.optimizers.protocol import Parts

ROWS, STEPS, HALF = 8, 4, 2


def adapted_parts() -> Parts:
    """An adapter on frozen weights, with activations computed again; it does not start as the identity."""
    whole = tests_support.tiny_parts()
    policy = Policy(adapted(whole.policy.model, LoraSettings(rank=2)), whole.policy.tokenizer)
    with torch.no_grad():
        for name, p in policy.model.named_parameters():
            if "lora_B" in name:
                p.add_(0.05)
    recompute_activations(policy.model)
    return replace(whole, policy=policy, reference=reference_of(policy), rollout=Rollout(policy))


CASES = {**contract.LEARNERS, "adapter": contract.Case(lambda: PPOConfig(**contract.ONLINE).build(adapted_parts()), contract.prompts)}


@dataclass
class Seen:
    """What the weights looked like when a loss was computed."""

    split: set[str] = field(default_factory=set)
    whole: set[str] = field(default_factory=set)
    numbers: int = 0
    """Weights of all that are split."""
    local: int = 0
    """Of them, in this process."""

    def look(self, learner: Any) -> None:
        """Called before each loss."""
        self.numbers = self.local = 0
        for module, m in learner.modules().items():
            for name, p in m.named_parameters():
                (self.split if isinstance(p, DTensor) else self.whole).add(f"{module}/{name}")
                if isinstance(p, DTensor):
                    self.numbers += p.numel()
                    self.local += p.to_local().numel()


def built(name: str, accelerator: Accelerator) -> tuple[Any, Seen]:
    """A learner of the contract, and what is seen of its weights at each loss."""

    def add(x: torch.Tensor) -> torch.Tensor:
        return accelerator.reduce(x, "sum") if accelerator.num_processes > 1 else x

    with ExitStack() as stack:
        for module in (contract, tests_support):
            stack.enter_context(patch.object(module, "tiny_parts", lambda *a, **k: replace(tiny_parts(*a, **k), sum_over_processes=add)))
        learner = CASES[name].build()
    seen, loss = Seen(), learner.loss

    def looked(experience: Any, weight: torch.Tensor) -> Any:
        seen.look(learner)
        return loss(experience, weight)

    learner.loss = looked
    return learner, seen


def steps(name: str, learner: Any, accelerator: Accelerator, *, shard: bool = True, **between: Any) -> Any:
    """The loop; steps in proportion to gradients, some clipped, in micro-batches. ``between`` are `train`'s ``start`` and ``stop``."""
    config = LoopConfig(learning_rate=3e-3, adam_epsilon=1e-2, num_iterations=2, micro_rows=3, max_grad_norm=0.05, shard=shard)
    data = CASES[name].data
    return train(learner, lambda i: data(ROWS, Key(i)), steps=STEPS, config=config, key=Key(7), accelerator=accelerator, **between)


def weights(learner: Any) -> list[float]:
    """All weights, in order."""
    flat: list[float] = torch.cat([p.detach().flatten() for p in parameters(learner)]).tolist()
    return flat


def taken(name: str, accelerator: Accelerator, folder: Path | None = None, start: TrainState | None = None) -> dict[str, Any]:
    """Metrics of each step, the last weights, and what they looked like in between; a state after half the steps is left in ``folder``."""
    learner, seen = built(name, accelerator)
    metrics = []
    for s in steps(name, learner, accelerator, start=start):
        metrics.append(s.metrics)
        if folder is not None and s.index + 1 == HALF:
            state = s.snapshot()
            if accelerator.is_main_process:
                save_state(folder, state)
    found = {"metrics": metrics, "weights": weights(learner), "split": sorted(seen.split), "whole": sorted(seen.whole)}
    locals_ = accelerator.gather(torch.tensor([seen.local])).tolist()
    return {**found, "numbers": seen.numbers, "locals": locals_}


def paused(accelerator: Accelerator, folder: Path) -> dict[str, Any]:
    """A policy that stops half-way and goes on from the state, in the same process; what it is between; one process saves it."""
    learner, _ = built("sft", accelerator)
    made, state = type(learner.policy.model), None
    for s in steps("sft", learner, accelerator, stop=HALF):
        state = s.snapshot()
    twin = copy.deepcopy(learner.policy.model)
    for _ in steps("sft", learner, accelerator, start=state):
        pass
    if accelerator.is_main_process:
        learner.policy.save(folder / "policy")
    kinds = {type(learner.policy.model) is made, type(twin) is made}
    plain = not any(isinstance(v, DTensor) for m in (learner.policy.model, twin) for v in m.state_dict().values())
    return {"weights": weights(learner), "plain": kinds == {True} and plain}


def clipped(accelerator: Accelerator, largest: float) -> dict[str, Any]:
    """Gradients 3, 0, 4, 0 split over two processes beside a whole one of 12, and what is left of them."""
    mesh = init_device_mesh("cpu", (2,))
    split, whole = nn.Parameter(distribute_tensor(torch.zeros(4), mesh, [Shard(0)])), nn.Parameter(torch.zeros(1))
    split.grad, whole.grad = distribute_tensor(torch.tensor([3.0, 0, 4, 0]), mesh, [Shard(0)]), torch.tensor([12.0])
    norm = clip_gradients([split, whole], largest, lambda x: accelerator.reduce(x, "sum"))
    assert isinstance(split.grad, DTensor)
    return {"norm": norm.item(), "gradients": [*split.grad.full_tensor().tolist(), *whole.grad.tolist()]}


def uneven(accelerator: Accelerator) -> str:
    """What is said where one process has more rows than the other."""
    try:
        _check_rows(Numbers(x=torch.zeros(2 + accelerator.process_index)), accelerator)
    except UserError as error:
        return str(error)
    return ""


def main() -> None:
    """All learners named."""
    torch.set_num_threads(1)
    accelerator, folder, found = Accelerator(cpu=True), Path(sys.argv[1]), {}
    for name in sys.argv[2:]:
        found[name] = taken(name, accelerator, folder / f"{name}-two")
        found[name]["resumed"] = taken(name, accelerator, start=load_state(folder / f"{name}-one"))["weights"]
    out = {"processes": accelerator.num_processes, "learners": found, "paused": paused(accelerator, folder)}
    out |= {"clipped": [clipped(accelerator, n) for n in (6.5, 20.0)], "uneven": uneven(accelerator)}
    if accelerator.is_main_process:
        (folder / "two.json").write_text(json.dumps(out))
    accelerator.end_training()


if __name__ == "__main__":
    main()
