"""Datasets of the Hugging Face hub, through ``datasets`` where that is installed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from trueup.core.errors import UserError


def hub_rows(name: str, split: str, subset: str | None = None) -> Iterator[dict[str, Any]]:
    """Rows of a hub dataset; no code of the dataset is run.

    Args:
        name: such as ``Anthropic/hh-rlhf``.
        split: such as ``train`` or ``test``.
        subset: a configuration's name, or a folder of the repository such as ``helpful-base``.

    Raises:
        UserError: ``datasets`` is not installed, the hub cannot be reached, or it has no such dataset or split.
    """
    try:
        import datasets
    except ImportError as error:
        message = (
            "no such file, and reading from the hub needs the package `datasets` (pip install datasets). Check the path, or install it."
        )
        raise UserError(message, where=name) from error
    try:
        found = _load(datasets, name, split, subset)
    except Exception as error:  # the library and the network below it raise many types; all mean that there is no data
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        message = (
            f"no such file, and the hub gave no dataset of that name ({type(error).__name__}: {reason}). "
            "Check name, split and network, or give a file."
        )
        raise UserError(message, where=f"{name} ({split})") from error
    yield from found


def _load(datasets: Any, name: str, split: str, subset: str | None) -> Any:
    if subset is not None:
        try:
            return datasets.load_dataset(name, data_dir=subset, split=split)
        except (ValueError, datasets.exceptions.DatasetNotFoundError, FileNotFoundError):
            return datasets.load_dataset(name, subset, split=split)
    return datasets.load_dataset(name, split=split)
