"""Stages that runs may share: what an SFT policy and a first reward model depend on, as one digest."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch

from trueup.core.config import digest
from trueup.data.rows import Demonstration, Judged
from trueup.pipeline.config import resolve_path
from trueup.pipeline.context import Context
from trueup.store.files import file_sha256
from trueup.store.manifest import versions
from trueup.store.stage_cache import StageCache


def share(context: Context, stage: str, folder: Path, depends_on: Callable[[], dict[str, Any] | None], make: Callable[[], None]) -> None:
    """Make a stage, or take it from the cache of `trueup.store.stage_cache`; a run in several processes makes its own.

    Args:
        context: the run.
        stage: its name.
        folder: where its model lies.
        depends_on: everything its model depends on beside code, libraries and seed; None where that cannot be told.
        make: makes the stage and marks it done.
    """
    store = StageCache.from_environment()
    found = depends_on() if store is not None and context.accelerator.num_processes == 1 else None
    if store is None or found is None:
        make()
        return
    name = digest({"stage": stage, **_everything_else(context), **found})
    if store.fetch(name, context.run, stage, folder):
        context.note(stage, f"taken from the cache ({name})")
        return
    make()
    store.keep(name, context.run, stage, folder)


def model_digest(path: str | None, base: Path) -> str | None:
    """Content of a model folder; empty without a path, None for a hub name, whose content may change."""
    if path is None:
        return ""
    folder = Path(resolve_path(path, base))
    return folder_digest(folder) if folder.is_dir() else None


def folder_digest(folder: Path) -> str:
    """Content of all files of a folder."""
    total = hashlib.sha256()
    for file in sorted(p for p in folder.rglob("*") if p.is_file()):
        total.update(file.relative_to(folder).as_posix().encode() + b"\0")
        total.update(file_sha256(file).encode())
    return total.hexdigest()[:32]


def demonstrations_digest(rows: Sequence[Demonstration]) -> str:
    """Content of demonstrations, in order."""
    return _lines([d.prompt.text, d.reply.text, d.reply.finished] for d in rows)


def groups_digest(groups: Sequence[Judged]) -> str:
    """Content of judged groups, in order."""
    return _lines([g.prompt.text, [(r.text, r.finished) for r in g.replies], g.ratings, g.margin, g.annotator] for g in groups)


def _lines(rows: Iterable[list[object]]) -> str:
    total = hashlib.sha256()
    for row in rows:
        total.update(repr(row).encode("utf-8", "surrogatepass") + b"\0")
    return total.hexdigest()[:32]


def _everything_else(context: Context) -> dict[str, Any]:
    config = context.config
    return {
        "seed": config.seed,
        "device": str(context.accelerator.device),
        "mixed_precision": config.mixed_precision,
        "threads": torch.get_num_threads(),
        "versions": versions(),
        "sources": _sources(),
    }


@cache
def _sources() -> str:
    """Content of this package: another line of code is another stage."""
    root = Path(__file__).resolve().parents[1]
    return _lines([p.relative_to(root).as_posix(), p.read_bytes()] for p in sorted(root.rglob("*.py")))
