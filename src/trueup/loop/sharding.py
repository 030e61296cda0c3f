"""Weights, gradients and optimizer slots split over processes: torch's `fully_shard` (Zhao et al. 2023, arXiv 2304.11277) behind one seam.

Deviations:
1. Gradients are summed, not averaged: weights of losses carry the global counts.
2. Modules are split only while they are updated. Between updates every process holds them plain and whole, so that sampling, probes,
   copies and files know nothing of processes. What is saved is the memory of gradients, of both optimizer slots, and of weights under
   the activations of a backward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from trueup.learn.as_forward import DOOR

_KEPT = "_trueup_sharded"
"""Attribute of a module that was split before: torch does so once."""


@dataclass(frozen=True)
class _Face:
    """What a module looks like in one of its two states: its class, its own parameters, its hooks."""

    kind: type[nn.Module]
    entries: dict[str, Any]

    def put_on(self, module: nn.Module, instead: _Face) -> None:
        for name in instead.entries.keys() - self.entries.keys():
            del vars(module)[name]
        vars(module).update(self.entries)
        module.__class__ = self.kind


class Sharded:
    """A module that can be split over processes and made whole again, in place. It begins whole.

    Args:
        module: with layers of a transformer inside; each is gathered when it is its turn.
        mesh: the processes.
    """

    def __init__(self, module: nn.Module, mesh: DeviceMesh) -> None:
        before = {m: (type(m), dict(vars(m))) for m in module.modules()}
        plain = {m: _Face(kind, {k: v.copy() for k, v in seen.items() if _changes(k)}) for m, (kind, seen) in before.items()}
        for part in [*_layers(module), module]:
            fully_shard(part, mesh=mesh)
            # the sum of what each process found; gloo knows no other reduction than sums
            part.set_gradient_divide_factor(1.0)  # type: ignore[operator]
            part.set_force_sum_reduction_for_comms(True)  # type: ignore[operator]
        # a parameter without a gradient on one process must not leave the others waiting
        module.set_reduce_scatter_unused_params(True)  # type: ignore[operator]
        setattr(module, DOOR, MethodType(_called, module))
        register_fsdp_forward_method(module, DOOR)
        self._split = {
            m: _Face(type(m), {k: v for k, v in vars(m).items() if _changes(k) or k not in before[m][1]}) for m in module.modules()
        }
        self._plain, self.whole = plain, False
        self.gather()

    def __deepcopy__(self, memo: object) -> None:
        """None: a copy of the module was never split."""

    @torch.no_grad()
    def gather(self) -> None:
        """Make the module plain and whole; every process must call it."""
        if self.whole:
            return
        for module in self._split:
            if isinstance(module, FSDPModule):
                module.reshard()
        full: dict[int, nn.Parameter | None] = {}
        for m, face in self._split.items():
            for name, p in face.entries["_parameters"].items():
                if id(p) not in full:
                    full[id(p)] = nn.Parameter(p.full_tensor(), p.requires_grad) if isinstance(p, DTensor) else p
                self._plain[m].entries["_parameters"][name] = full[id(p)]
        for m, face in self._plain.items():
            face.put_on(m, instead=self._split[m])
        self.whole = True

    @torch.no_grad()
    def split(self) -> None:
        """Split the module again, with the weights that it has now; every process must have the same."""
        if not self.whole:
            return
        for m, face in self._split.items():
            own = self._plain[m].entries["_parameters"]
            for name, p in face.entries["_parameters"].items():
                if isinstance(p, DTensor):
                    p.copy_(placed_like(own[name].detach(), p))
            face.put_on(m, instead=self._plain[m])
            own.update(dict.fromkeys(own))  # lets go of whole weights
        self.whole = False


class Shards:
    """All modules of a learner that can be split; none in one process.

    Args:
        modules: of the learner, on their device. Those without layers of a transformer are small and stay whole.
        device: theirs.
        processes: how many there are.
    """

    def __init__(self, modules: Mapping[str, nn.Module], device: torch.device, processes: int) -> None:
        large = [m for m in modules.values() if any(True for _ in _layers(m))] if processes > 1 else []
        mesh = init_device_mesh(device.type, (processes,)) if any(vars(m).get(_KEPT) is None for m in large) else None
        for m in large:
            if vars(m).get(_KEPT) is None:
                assert mesh is not None
                setattr(m, _KEPT, Sharded(m, mesh))
        self._modules: list[Sharded] = [vars(m)[_KEPT] for m in large]

    def __len__(self) -> int:
        """Modules that can be split."""
        return len(self._modules)

    def split(self) -> None:
        """See `Sharded.split`."""
        for module in self._modules:
            module.split()

    def gather(self) -> None:
        """See `Sharded.gather`."""
        for module in self._modules:
            module.gather()


def placed_like(value: Tensor, parameter: Tensor) -> Tensor:
    """A whole tensor, split as the parameter is; every process must have the same. Whole where the parameter is.

    Args:
        value: of the parameter's whole shape.
        parameter: whole or split.
    """
    if not isinstance(parameter, DTensor):
        return value.to(parameter.device)
    return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements, src_data_rank=None)


def gathered(value: Tensor) -> Tensor:
    """The whole tensor; every process must call it where it is split."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def clip_gradients(parameters: Sequence[nn.Parameter], largest: float, add: Callable[[Tensor], Tensor]) -> Tensor:
    """Scale gradients down to a norm, whole or split ones alike; see `torch.nn.utils.clip_grad_norm_`.

    Args:
        parameters: whose gradients are scaled.
        largest: norm of all gradients together.
        add: sums a tensor over processes.

    Returns:
        The norm before, a number.
    """
    found = [p.grad for p in parameters if p.grad is not None]
    if not any(isinstance(g, DTensor) for g in found):
        return nn.utils.clip_grad_norm_(parameters, largest)
    split = [g.to_local() for g in found if isinstance(g, DTensor)]
    whole = [g for g in found if not isinstance(g, DTensor)]
    squares = add(nn.utils.get_total_norm(split).square()) + nn.utils.get_total_norm(whole).to(split[0].device).square()
    norm = squares.sqrt()
    torch._foreach_mul_([*split, *whole], (largest / (norm + 1e-6)).clamp(max=1.0))
    return norm


def is_split(parameter: Tensor) -> bool:
    """Whether the parameter is split over processes."""
    return isinstance(parameter, DTensor)


def _layers(module: nn.Module) -> Iterator[nn.Module]:
    """The layers of transformers inside, as transformers names them."""
    names = {name for m in module.modules() for name in getattr(m, "_no_split_modules", None) or ()}
    for stack in module.modules():
        if isinstance(stack, nn.ModuleList):
            yield from (layer for layer in stack if type(layer).__name__ in names)


def _changes(name: str) -> bool:
    """Whether that attribute of a module differs between its two states."""
    return name == "_parameters" or "hooks" in name


def _called(module: nn.Module, call: Callable[[], Any]) -> Any:
    found = call()
    # a view could be changed in place without autograd asking for the weights again
    return found.clone() if isinstance(found, Tensor) and found._is_view() else found
