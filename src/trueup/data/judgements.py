"""Judged groups of replies from files: every layout that people keep judgements of reward models in, detected and stated.

| layout | fields |
|---|---|
| pairs | ``chosen``, ``rejected``: all layouts of `trueup.data.preferences`; ``subset`` or ``domain`` is kept (RewardBench 1) |
| best of several | ``prompt``, ``chosen`` and ``rejected`` as lists of texts: every chosen reply beats every rejected one (RewardBench 2) |
| styles | the same with three texts each and ``domain``: concise, detailed, detailed in Markdown (RM-Bench) |
| ranking | ``prompt``, ``responses``, ``ranking``: the rank of each response, 1 is best, equal ranks are ties |
| ratings | ``prompt``, ``responses``, ``ratings`` (or ``scores``): one number a response, higher is better, null where it was not rated |

Layouts after allenai/reward-bench, allenai/reward-bench-2, THU-KEG/RM-Bench, and the K-wise sets of UltraFeedback's kind.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any, Unpack

from trueup.core.errors import UserError
from trueup.data.preferences import preference_of
from trueup.data.reading import Bad, Options, Reading, name_of, read_each
from trueup.data.rows import Judged, Prompt, Reply, Split, judged
from trueup.data.source import Row, Source
from trueup.data.turns import conversation, prompt_id

STYLES = ("concise", "detailed", "markdown")
"""RM-Bench's three styles, in its order."""
ALLOWED = (
    'Allowed: {"prompt", "chosen", "rejected"} as texts, messages or lists of texts; {"prompt", "responses", "ranking"}; '
    'or {"prompt", "responses", "ratings"}'
)


def read_judged(source: Source, **options: Unpack[Options]) -> Reading[Judged]:
    """Read judged groups and say how they were read.

    Args:
        source: a file, a hub data set's name, several of them, or rows in memory.
        options: see `Options`; an empty reply, fewer than two replies, and two equal ones of different rating teach nothing.

    Raises:
        UserError: missing or damaged file, malformed row, or (with ``on_bad="error"``) a row that teaches nothing; the place is named.
    """
    return read_each(source, _judged, "usable judgement", **options)


def _judged(row: Row, split: Split) -> tuple[str, Judged]:
    layout = _layout(row)
    if layout == "pairs":
        return layout, replace(judged(preference_of(row, split)[1]), domain=_domain(row))
    return layout, _group(row, layout, split)


def _layout(row: Row) -> str:
    values = row.values
    if values.get("responses") is not None:
        if values.get("ranking") is not None:
            return "ranking"
        if values.get("ratings") is not None or values.get("scores") is not None:
            return "ratings"
        raise UserError(f"needs 'ranking' or 'ratings' beside 'responses'. {ALLOWED}.", where=row.where)
    sides = [_texts(values.get(name)) for name in ("chosen", "rejected")]
    if None in sides:
        return "pairs"
    styled = bool(name_of(row, "domain")) and all(side is not None and len(side) == len(STYLES) for side in sides)
    return "styles" if styled else "best of several"


def _texts(value: Any) -> list[str] | None:
    """A list of texts, also as JSON text (as CSV has it); None where it is something else."""
    if isinstance(value, str) and value.startswith("["):
        try:
            value = json.loads(value)
        except ValueError:
            return None
    return list(value) if isinstance(value, list | tuple) and value and all(isinstance(x, str) for x in value) else None


def _group(row: Row, layout: str, split: Split) -> Judged:
    if row.values.get("prompt") is None:
        raise UserError(f"the field is missing. {ALLOWED}.", where=f"{row.where}, field 'prompt'")
    prompt = conversation(row.values["prompt"], f"{row.where}, field 'prompt'")
    styles: tuple[str, ...] = ()
    if layout in ("ranking", "ratings"):
        texts, ratings = _rated(row, layout)
    else:
        sides = [_texts(row.values[name]) or [] for name in ("chosen", "rejected")]
        texts, ratings = sides[0] + sides[1], [1.0] * len(sides[0]) + [0.0] * len(sides[1])
        styles = STYLES * 2 if layout == "styles" else ()
    _check(texts, ratings)
    return Judged(
        id=name_of(row, "id", row.id),
        prompt=Prompt(id=name_of(row, "prompt_id", prompt_id(prompt)), text=prompt, split=split),
        replies=tuple(Reply(text=t) for t in texts),
        ratings=tuple(ratings),
        annotator=name_of(row, "annotator"),
        domain=_domain(row),
        styles=styles,
        where=row.where,
    )


def _rated(row: Row, layout: str) -> tuple[list[str], list[float]]:
    texts = _texts(row.values["responses"])
    if texts is None:
        raise UserError("must be a list of texts.", where=f"{row.where}, field 'responses'")
    name = "ranking" if layout == "ranking" else "ratings" if row.values.get("ratings") is not None else "scores"
    numbers = row.values[name]
    if isinstance(numbers, str):
        try:
            numbers = json.loads(numbers)
        except ValueError:
            numbers = None
    place = f"{row.where}, field '{name}'"
    if not isinstance(numbers, list | tuple) or len(numbers) != len(texts):
        raise UserError(f"must be a list of {len(texts)} numbers, one a response.", where=place)
    kept = [(t, x) for t, x in zip(texts, numbers, strict=True) if x is not None]
    for _, x in kept:
        if isinstance(x, bool) or not isinstance(x, int | float) or not math.isfinite(x):
            raise UserError(f"must hold finite numbers, got {x!r}.", where=place)
    sign = -1.0 if layout == "ranking" else 1.0
    return [t for t, _ in kept], [sign * x for _, x in kept]


def _check(texts: list[str], ratings: list[float]) -> None:
    if len(texts) < 2:
        raise Bad("fewer than two replies", "responses")
    if not all(t.strip() for t in texts):
        raise Bad("empty reply", "responses")
    rated: dict[str, float] = {}
    for text, rating in zip(texts, ratings, strict=True):
        if rated.setdefault(text.strip(), rating) != rating:
            raise Bad("equal replies of different rating", "responses")
    if len(rated) < 2:
        raise Bad("identical replies", "responses")


def _domain(row: Row) -> str:
    return name_of(row, "domain") or name_of(row, "subset")
