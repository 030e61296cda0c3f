"""Finished stages shared between runs: a study's arms and seeds fit the same SFT policy and first reward model once.

The folder is named by the environment variable ``TRUEUP_CACHE``; without it nothing is shared. An entry is named by a digest of
everything its model depends on (`trueup.pipeline.shared`), so an entry is either the very same stage or never found.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from trueup.store.atomic import atomic_folder, write_text
from trueup.store.run import Run

VARIABLE = "TRUEUP_CACHE"


class StageCache:
    """A folder of finished stages.

    Args:
        root: the folder; made when the first stage is kept.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    @classmethod
    def from_environment(cls) -> StageCache | None:
        """The cache that ``TRUEUP_CACHE`` names, if it names one."""
        named = os.environ.get(VARIABLE)
        return cls(Path(named)) if named else None

    @property
    def embeddings(self) -> Path:
        """Where sentence embeddings are shared."""
        return self.root / "embeddings"

    def fetch(self, digest: str, run: Run, stage: str, folder: Path) -> bool:
        """Copy a finished stage into a run: its model, its metrics, its facts.

        Args:
            digest: what the stage depends on.
            run: the run that needs it.
            stage: its name; it belongs to no arm.
            folder: where the run keeps the stage's model.

        Returns:
            False where the cache does not have it.
        """
        entry = self.root / "stages" / digest
        if not (entry / "facts.json").exists():
            return False
        with atomic_folder(folder) as new:
            shutil.copytree(entry / "model", new, dirs_exist_ok=True)
        run.rewind(stage, None, 0)
        for row in json.loads((entry / "metrics.json").read_text(encoding="utf-8")):
            run.log(row)
        run.mark_done(stage, {**json.loads((entry / "facts.json").read_text(encoding="utf-8")), "from_cache": digest})
        return True

    def keep(self, digest: str, run: Run, stage: str, folder: Path) -> None:
        """Copy a finished stage of a run into the cache; two runs that finish it at once write the same."""
        facts: dict[str, Any] = run.done(stage) or {}
        rows = [row for row in run.metrics() if row["stage"] == stage and row["arm"] is None]
        with atomic_folder(self.root / "stages" / digest) as new:
            shutil.copytree(folder, new / "model")
            write_text(new / "metrics.json", json.dumps(rows))
            write_text(new / "facts.json", json.dumps(facts))
