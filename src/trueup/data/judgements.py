"""Judged groups of replies from files: every layout that people keep judgements of reward models in, detected and stated.

| layout | fields |
|---|---|
| pairs | ``chosen``, ``rejected``: all layouts of `trueup.data.preferences`; ``subset`` or ``domain`` is kept (RewardBench 1) |
| best of several | ``prompt``, ``chosen`` and ``rejected`` as lists of texts: every chosen reply beats every rejected one (RewardBench 2) |
| styles | the same with three texts each and ``domain``: concise, detailed, detailed in Markdown (RM-Bench) |
| ranking | ``prompt``, ``responses``, ``ranking``: the rank of each response, 1 is best, equal ranks are ties |
| votes | ``prompt`` or ``instruction`` and ``input``; ``response1``, ``response2`` or ``responses``; labels as `trueup.data.annotations` |
| ratings | ``prompt``, ``responses``, ``ratings`` (or ``scores``): one number a response, higher is better, null where it was not rated |

Of votes the majority decides: a pair is a tie where no side has more votes than the other and than ties.

Layouts after allenai/reward-bench, allenai/reward-bench-2, THU-KEG/RM-Bench, WeOpenML/PandaLM, and the K-wise sets of UltraFeedback's kind.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Unpack

from trueup.core.errors import UserError
from trueup.data.annotations import FIRST, SECOND, TIE, has_labels, labels_of
from trueup.data.preferences import preference_of
from trueup.data.reading import Bad, Options, Reading, name_of, read_each, text_of
from trueup.data.rows import Judged, Prompt, Reply, Split, Vote, judged
from trueup.data.source import Row, Source
from trueup.data.turns import conversation, prompt_id

STYLES = ("concise", "detailed", "markdown")
"""RM-Bench's three styles, in its order."""
_SIGN = {FIRST: 1, SECOND: -1, TIE: 0}
ALLOWED = (
    'Allowed: {"prompt", "chosen", "rejected"} as texts, messages or lists of texts; {"prompt", "responses", "ranking"}; '
    '{"prompt", "responses", "ratings"}; or {"prompt", "response1", "response2"} with labels of several annotators'
)


def read_judged(source: Source, **options: Unpack[Options]) -> Reading[Judged]:
    """Read judged groups and say how they were read.

    Args:
        source: a file, a hub data set's name, several of them, or rows in memory.
        options: see `Options`; an empty reply, fewer than two replies, and two equal ones of different rating teach nothing.

    Raises:
        UserError: missing or damaged file, malformed row, or (with ``on_bad="error"``) a row that teaches nothing; the place is named.
    """
    long = set[str]()

    def one(row: Row, split: Split) -> tuple[str, Judged]:
        layout, group = _judged(row, split)
        if layout == "votes" and labels_of(row)[0] == "long":
            long.add(group.id)
        return layout, group

    reading = read_each(source, one, "usable judgement", **options)
    return replace(reading, rows=_merged(reading.rows, long)) if long else reading


def _judged(row: Row, split: Split) -> tuple[str, Judged]:
    layout = _layout(row)
    if layout == "pairs":
        return layout, replace(judged(preference_of(row, split)[1]), domain=_domain(row))
    return layout, _voted(row, split) if layout == "votes" else _group(row, layout, split)


def _layout(row: Row) -> str:
    values = row.values
    if values.get("response1") is not None or values.get("response2") is not None:
        if has_labels(row):
            return "votes"
        raise UserError(f"needs labels of several annotators beside 'response1' and 'response2'. {ALLOWED}.", where=row.where)
    if values.get("responses") is not None:
        if values.get("ranking") is not None:
            return "ranking"
        if values.get("ratings") is not None or values.get("scores") is not None:
            return "ratings"
        if has_labels(row):
            return "votes"
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


def _voted(row: Row, split: Split) -> Judged:
    layout, item, labels = labels_of(row)
    if not labels:
        raise Bad("no label", "label" if layout == "long" else "votes" if layout == "votes" else "annotator")
    prompt, where = row.values.get("prompt"), f"{row.where}, field 'prompt'"
    if prompt is None:
        prompt = "\n".join(text_of(row, name) for name in ("instruction", "input") if row.values.get(name))
        if not prompt:
            raise UserError(f"the field is missing. {ALLOWED}.", where=where)
    asked = conversation(prompt, where)
    texts = _two(row)
    votes = tuple(Vote(annotator, _SIGN[label]) for annotator, label in labels.items())
    ratings = majority(votes)
    _check(texts, ratings, "responses" if row.values.get("responses") is not None else "response2")
    return Judged(
        id=item if layout == "long" else name_of(row, "id", row.id),
        prompt=Prompt(id=name_of(row, "prompt_id", prompt_id(asked)), text=asked, split=split),
        replies=tuple(Reply(text=t) for t in texts),
        ratings=ratings,
        domain=_domain(row),
        votes=votes,
        where=row.where,
    )


def _two(row: Row) -> list[str]:
    """The two replies of a row with votes."""
    if row.values.get("responses") is not None:
        texts = _texts(row.values["responses"])
        if texts is None or len(texts) != 2:
            raise UserError("must be a list of two texts where annotators voted.", where=f"{row.where}, field 'responses'")
        return texts
    for name in ("response1", "response2"):
        if not isinstance(row.values.get(name), str):
            raise Bad("reply that is no text", name)
        if not row.values[name].strip():
            raise Bad("empty reply", name)
    return [row.values["response1"], row.values["response2"]]


def majority(votes: Sequence[Vote]) -> tuple[float, float]:
    """Ratings of a pair: 1 and 0 where one side has more votes than the other and than ties, else equal."""
    counts = Counter(v.sign for v in votes)
    for sign, ratings in ((1, (1.0, 0.0)), (-1, (0.0, 1.0))):
        if counts[sign] > max(counts[-sign], counts[0]):
            return ratings
    return 0.5, 0.5


def _merged(groups: Sequence[Judged], long: set[str]) -> list[Judged]:
    """Groups of the long layout with all votes of their item."""
    found: dict[str | int, Judged] = {}
    for number, group in enumerate(groups):
        key = group.id if group.id in long else number
        first = found.setdefault(key, group)
        if first is group:
            continue
        if (first.prompt.text, first.replies) != (group.prompt.text, group.replies):
            raise UserError(f"item '{group.id}' has other texts than at {first.where}.", where=group.where)
        twice = {v.annotator for v in first.votes} & {v.annotator for v in group.votes}
        if twice:
            raise UserError(f"annotator '{min(twice)}' labelled item '{group.id}' twice.", where=group.where)
        votes = first.votes + group.votes
        found[key] = replace(first, votes=votes, ratings=majority(votes))
    return list(found.values())


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


def _check(texts: Sequence[str], ratings: Sequence[float], field: str = "responses") -> None:
    if len(texts) < 2:
        raise Bad("fewer than two replies", field)
    if not all(t.strip() for t in texts):
        raise Bad("empty reply", field)
    rated: dict[str, float] = {}
    for text, rating in zip(texts, ratings, strict=True):
        if rated.setdefault(text.strip(), rating) != rating:
            raise Bad("equal replies of different rating", field)
    if len(rated) < 2:
        raise Bad("identical replies", field)


def _domain(row: Row) -> str:
    return name_of(row, "domain") or name_of(row, "subset")
