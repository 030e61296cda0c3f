"""What a run was made with: code, versions, machine. Read from package metadata, so nothing heavy is imported."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = (
    "torch", "transformers", "tokenizers", "accelerate", "peft", "safetensors", "huggingface-hub", "sentence-transformers", "trl",
    "numpy", "scipy", "pandas", "pyarrow", "pydantic",
)  # fmt: skip
"""Packages whose versions can change a number."""


def environment() -> dict[str, Any]:
    """Facts of the code and the machine: ``trueup, commit, changed`` (None outside a clone), ``versions, python, platform, cores``."""
    commit, changed = _commit()
    return {
        "trueup": metadata.version("trueup"),
        "commit": commit,
        "changed": changed,
        "versions": versions(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": os.cpu_count(),
    }


def versions() -> dict[str, str]:
    """Installed versions of `PACKAGES`; those that are not installed are left out."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _commit() -> tuple[str | None, bool | None]:
    """The clone's commit and whether its files were changed since; None where this is no clone."""
    root = Path(__file__).resolve().parents[3]
    if not (root / ".git").exists():
        return None, None
    head, status = _git(root, "rev-parse", "HEAD"), _git(root, "status", "--porcelain")
    return head, None if status is None else bool(status)


def _git(root: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
