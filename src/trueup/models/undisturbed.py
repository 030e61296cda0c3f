"""Looking at a model in the middle of someone's training, so that the training never knows."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from trueup.core.errors import UserError
from trueup.core.rng import generators_kept

_PATCHED = ("forward", "_original_forward")


@contextmanager
def undisturbed(*models: nn.Module) -> Iterator[None]:
    """Inside, the models are in inference mode and nothing is differentiated; afterwards all is as it was.

    That is: the mode of every single module, and the global generators of torch (CPU and CUDA), numpy and Python. Dropout and the
    recomputation of activations follow the mode, and a cache is asked for call by call, so that no configuration is written to.

    Args:
        models: policy, reference, and whatever else is run.
    """
    modes = [(module, module.training) for model in models for module in model.modules()]
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    with generators_kept(), torch.random.fork_rng(devices=devices), torch.no_grad():
        try:
            for model in models:
                model.eval()
            yield
        finally:
            for module, training in modes:
                module.training = training


def frozen_copy(model: Any) -> Any:
    """A copy that does not learn, in inference mode.

    accelerate puts a function into ``forward`` that calls the model it was made for: the copy gets back the method of its class, or it
    would be no copy.
    """
    twin = copy.deepcopy(model)
    for name in _PATCHED:
        vars(twin).pop(name, None)
    twin.requires_grad_(False)
    return twin.eval()


def refuse_split(model: nn.Module) -> None:
    """Refuse a model whose weights are not whole in this process.

    Raises:
        UserError: they are split over processes.
    """
    split = any(isinstance(p, DTensor) or p.numel() == 0 or p.is_meta for p in model.parameters())
    if split or any(type(m).__name__ == "FullyShardedDataParallel" for m in model.modules()):
        raise UserError(
            "the weights are split over processes (FSDP or ZeRO 3), so no reply can be sampled here. Save checkpoints and use "
            "`trueup audit --policy` on them.",
            where="TrueupCallback",
        )
