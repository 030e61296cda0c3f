"""Frames of replies for diagnoses by hand: one function says what stands in every place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd

Cell = Callable[[int, int, int], Mapping[str, Any]]


def replies(cell: Cell, prompts: int, steps: int, samples: int, variant: str | None) -> pd.DataFrame:
    """``cell(prompt, step, sample)`` gives the columns of a reply; steps are 0, 10, 20, ..."""
    rows = []
    for p in range(prompts):
        for s in range(steps):
            for k in range(samples):
                place = f"{10 * s}:{p}:{k}"
                row = {"arm": "a", "split": "test", "step": 10 * s, "prompt_id": f"p{p:02d}", "sample_id": place, "response": "words"}
                rows.append({**row, "variant": variant, **cell(p, s, k)})
    return pd.DataFrame(rows)
