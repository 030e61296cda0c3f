"""Everything a stopped run needs to go on bit-identically, as tensors and JSON; nothing is pickled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from trueup.core.errors import UserError
from trueup.loop.sharding import gathered, placed_like
from trueup.store.atomic import atomic_folder


@dataclass(frozen=True, kw_only=True)
class TrainState:
    """A training run between two steps. Random numbers are keyed by step, so they need no state."""

    step: int
    """Steps done."""
    tensors: dict[str, Tensor]
    """``weights/<module>/<name>``, ``buffers/<module>/<name>`` and ``optimizer/<number>/<slot>``."""
    learner: dict[str, Any]
    """The learner's own state: JSON values."""


def capture(step: int, modules: Mapping[str, nn.Module], optimizer: Optimizer, learner: dict[str, Any]) -> TrainState:
    """A copy of the present state, whole; where optimizer slots are split, every process must call it.

    Args:
        step: steps done.
        modules: what learns, with whole weights.
        optimizer: of its parameters, whole or split.
        learner: the learner's own state.
    """
    tensors = {f"weights/{m}/{n}": p.detach().cpu().clone() for m, module in modules.items() for n, p in trainable(module).items()}
    tensors |= {f"buffers/{m}/{n}": b.detach().cpu().clone() for m, module in modules.items() for n, b in _kept(module).items()}
    for i, p in enumerate(q for group in optimizer.param_groups for q in group["params"]):
        for slot, value in optimizer.state.get(p, {}).items():
            tensors[f"optimizer/{i}/{slot}"] = gathered(value.detach()).cpu().clone()
    return TrainState(step=step, tensors=tensors, learner=dict(learner))


def restore(state: TrainState, modules: Mapping[str, nn.Module], optimizer: Optimizer) -> None:
    """Put a state back into the modules, whole, and the optimizer, exactly; its slots are split where its parameters are."""
    for m, module in modules.items():
        for n, p in trainable(module).items():
            p.data.copy_(state.tensors[f"weights/{m}/{n}"])
        for n, b in _kept(module).items():
            b.copy_(state.tensors[f"buffers/{m}/{n}"])
    for i, p in enumerate(q for group in optimizer.param_groups for q in group["params"]):
        slots = {k.split("/")[2]: v for k, v in state.tensors.items() if k.startswith(f"optimizer/{i}/")}
        if slots:
            optimizer.state[p] = {k: v.clone() if k == "step" else placed_like(v, p).clone() for k, v in slots.items()}


def trainable(module: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that learn, by name; tied ones once."""
    return {n: p for n, p in module.named_parameters() if p.requires_grad}


def _kept(module: nn.Module) -> dict[str, Tensor]:
    """The buffers that change and are saved, such as a slow copy of weights; those that are computed anew are not."""
    saved = module.state_dict(keep_vars=True)
    return {n: b for n, b in module.named_buffers() if n in saved}


def save_state(folder: Path, state: TrainState) -> None:
    """Write a state; the previous one stays until the new one is whole."""
    with atomic_folder(folder) as new:
        save_file({k: v.contiguous() for k, v in state.tensors.items()}, new / "state.safetensors")
        (new / "state.json").write_text(json.dumps({"step": state.step, "learner": state.learner}))


def load_state(folder: Path) -> TrainState | None:
    """Read a state; None where there is none."""
    if not (folder / "state.json").exists():
        return None
    try:
        facts = json.loads((folder / "state.json").read_text())
        return TrainState(step=facts["step"], tensors=load_file(folder / "state.safetensors"), learner=facts["learner"])
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise UserError(f"cannot be read back ({error}). Delete the folder to start this stage again.", where=str(folder)) from error
