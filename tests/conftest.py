"""Every test: quiet transformers, one torch thread, helpers importable."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

sys.path.insert(0, str(Path(__file__).parent))
# Shapes in the signatures of `ops` hold in every test; outside tests they cost nothing. Before the first import of the package.
install_import_hook("trueup.ops", "checked.typed")


@pytest.fixture(autouse=True)
def _no_shared_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a developer's own cache holds is nothing to a test."""
    monkeypatch.delenv("TRUEUP_CACHE", raising=False)


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    import torch
    from transformers.utils import logging

    torch.set_num_threads(1)
    logging.disable_progress_bar()
