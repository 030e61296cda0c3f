"""Reading Hugging Face folders safely: safetensors only, no remote code, every tensor accounted for."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging

from trueup.core.errors import UserError, one_line
from trueup.core.rng import Key

_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt", ".h5", ".msgpack")


@contextmanager
def seeded(key: Key) -> Iterator[None]:
    """Inside, what libraries draw from torch's global generator comes from ``key``; outside, that generator is as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(key.integer())
        yield


def load_model_config(path: str | Path) -> PreTrainedConfig:
    """The configuration of a model folder or hub name.

    Raises:
        UserError: there is none, or its weights are not safetensors.
    """
    check_folder(path)
    try:
        return AutoConfig.from_pretrained(str(path), trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"no model can be loaded ({one_line(error)}). Give a Hugging Face folder or a hub name.", where=str(path)
        ) from error


def check_folder(path: str | Path) -> None:
    """Refuse a local folder without whole safetensors weights; a hub name passes.

    Raises:
        UserError: no such folder, no config.json, a shard missing, or only pickled weights.
    """
    folder = Path(path)
    if not folder.exists():
        if folder.is_absolute() or str(path).startswith((".", "~")) or str(path).count("/") > 1:
            raise UserError("no such folder. Give a Hugging Face folder (config.json, model.safetensors) or a hub name.", where=str(path))
        return
    if not folder.is_dir():
        raise UserError("is a file. Give the folder that holds config.json and model.safetensors.", where=str(path))
    if not (folder / "config.json").is_file():
        raise UserError("has no config.json, so it is not a Hugging Face model folder.", where=str(path))
    files = sorted(folder.iterdir())
    _check_shards(folder)
    if not any(f.suffix == ".safetensors" for f in files):
        partial = [f for f in files if f.name.endswith((".incomplete", ".part", ".tmp"))]
        if partial:
            raise UserError("is an unfinished download. Download the model again.", where=str(partial[0]))
        pickles = [f for f in files if f.suffix in _PICKLES]
        if pickles:
            raise UserError(
                "is a pickle, which can run code when it is read; only safetensors are loaded. Convert it with "
                "`save_pretrained` in a place you trust, or download the safetensors version.",
                where=str(pickles[0]),
            )
        raise UserError("has no *.safetensors file.", where=str(path))


def _check_shards(folder: Path) -> None:
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, AttributeError) as error:
        raise UserError(f"is not a readable index of weight files: {one_line(error)}.", where=str(index)) from error
    missing = [n for n in names if not (folder / n).is_file()]
    if missing:
        raise UserError(
            f"{len(missing)} of {len(names)} weight files are missing. Download the model again.", where=str(folder / missing[0])
        )


def load_weights(auto: Any, path: str | Path, dtype: torch.dtype, **settings: Any) -> tuple[PreTrainedModel, list[str]]:
    """Load a model with one of transformers' auto classes; also the names of tensors that the file does not hold in the model's shape.

    Raises:
        UserError: the weights are missing, cut short, of another shape, or not safetensors.
    """
    check_folder(path)
    try:
        with quiet():
            model, info = auto.from_pretrained(
                str(path), dtype=dtype, use_safetensors=True, trust_remote_code=False, output_loading_info=True, **settings
            )
    except SafetensorError as error:
        raise UserError(
            f"the weights cannot be read ({one_line(error)}): probably an interrupted download or copy. Fetch the folder again.",
            where=str(path),
        ) from error
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        if "mismatch" in str(error):
            raise UserError(
                "the weights do not have the shapes that config.json states. Fetch the folder again.", where=str(path)
            ) from error
        raise UserError(f"the model cannot be loaded: {one_line(error)}.", where=str(path)) from error
    mismatched = [m[0] if isinstance(m, tuple) else m for m in info["mismatched_keys"]]
    return model.eval(), sorted({*info["missing_keys"], *mismatched})


@contextmanager
def quiet() -> Iterator[None]:
    """Inside, transformers shows no progress bar and only errors: what is wrong with a folder is said in a `UserError`."""
    verbosity, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()


def without_dropout(model: nn.Module) -> nn.Module:
    """Switch off dropout for good, also where it is not a module: log-probabilities are compared, so they may not be noisy."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name, value in vars(module).items():
            if "dropout" in name and isinstance(value, float):
                setattr(module, name, 0.0)
    return model.eval()


def recompute_activations(model: Any) -> None:
    """Keep only what enters each layer and compute the rest again in the backward pass: less memory, about a third more time.

    Values and gradients stay the same. transformers does so in training mode only, which changes nothing else: dropout is off for good.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # transformers is giving the method another name, which older versions lack
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.train()
