"""Comparisons of replies, from a file, put beside the samples they are about.

A row names two replies by ``sample_id_a`` and ``sample_id_b``, or by ``prompt`` (or ``prompt_id``) with ``response_a`` and
``response_b``, or with ``chosen`` and ``rejected``. ``preference`` says which one won. A pair that is not among the samples is kept
as an offline pair where its rewards are known (``score_a``, ``score_b``); else it is counted, since nothing can be made of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from trueup.core.errors import UserError
from trueup.core.record import OFFLINE_ARM, Label, SampleRecord
from trueup.store.foreign import Foreign, text_id
from trueup.store.foreign_files import ForeignFile
from trueup.store.records import schema, to_table

_TEXTS = ("sample_id_a", "sample_id_b", "prompt", "prompt_id", "response_a", "response_b", "chosen", "rejected", "preference", "annotator")
_NUMBERS = ("score_a", "score_b", "gold_a", "gold_b")
_PREFERENCES = {"1": 1.0, "1.0": 1.0, "a": 1.0, "0": 0.0, "0.0": 0.0, "b": 0.0, "0.5": 0.5, "tie": 0.5}
_LAYOUTS = (
    "'sample_id_a' and 'sample_id_b'; or 'prompt' (or 'prompt_id') with 'response_a' and 'response_b', or with 'chosen' and 'rejected'"
)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two replies, by id or by text, and who preferred which."""

    ids: tuple[str, str] | None
    prompt: str | None
    prompt_id: str | None
    texts: tuple[str, str] | None
    preference: float
    """1 the first won, 0 the second, 0.5 a tie."""
    annotator: str
    scores: tuple[float, float] | None
    golds: tuple[float, float] | None


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """Samples with their labels, and what became of the comparisons."""

    found: Foreign
    among_samples: int
    offline: int
    """Pairs of other replies whose rewards are known."""
    left_out: int
    """Pairs of other replies."""


def with_labels(found: Foreign, path: str | Path) -> Labelled:
    """Put the comparisons of a file beside the samples.

    Where a text is among the samples more than once, two replies of the same checkpoint are taken before others.

    Raises:
        UserError: the file cannot be read, a row names no pair or no preference, or no row is of any use.
    """
    comparisons = read_comparisons(path)
    places = _Places(found.table, comparisons)
    labels: dict[int, list[dict[str, Any]]] = {}
    rest: list[Comparison] = []
    for c in comparisons:
        pair = places.of(c)
        if pair is None:
            rest.append(c)
            continue
        other = places.name(pair[1])
        labels.setdefault(pair[0], []).append({"annotator": c.annotator, "other_sample_id": other, "preference": c.preference})
    known = [c for c in rest if c.scores is not None and c.texts is not None]
    if not labels and not known:
        raise UserError(
            f"none of its {len(comparisons)} comparisons is about two of the samples, and none has 'score_a' and 'score_b'. Give the "
            "same prompts and replies, or sample ids.",
            where=str(path),
        )
    table = _with(found.table, labels)
    if known:
        table = pa.concat_tables([table, to_table(_offline(known))]).combine_chunks()
    whole = replace(found, table=table, files=(*found.files, str(path)))
    return Labelled(found=whole, among_samples=len(comparisons) - len(rest), offline=len(known), left_out=len(rest) - len(known))


def read_comparisons(path: str | Path) -> list[Comparison]:
    """The rows of a file of comparisons: CSV, JSON lines or Parquet.

    Raises:
        UserError: the file cannot be read, or a row names no pair or no preference; file, line and column are named.
    """
    file = ForeignFile(Path(path))
    types = {**dict.fromkeys(_TEXTS, pa.string()), **dict.fromkeys(_NUMBERS, pa.float64())}
    table, names = file.read(types.get)
    sides = next(
        (s for s in (("sample_id_a", "sample_id_b"), ("response_a", "response_b"), ("chosen", "rejected")) if set(s) <= set(names)), None
    )
    if sides is None or (sides[0] != "sample_id_a" and not {"prompt", "prompt_id"} & set(names)):
        raise UserError(f"must name two replies: {_LAYOUTS}. Found: {', '.join(names)}.", where=str(path))
    if "preference" not in names and sides != ("chosen", "rejected"):
        raise UserError(f"has no column 'preference' (1 or a, 0 or b, 0.5 or tie). Found: {', '.join(names)}.", where=str(path))
    found = [_comparison(row, sides, file, i) for i, row in enumerate(table.to_pylist())]
    if not found:
        raise UserError("holds no comparisons.", where=str(path))
    return found


def _comparison(row: Mapping[str, Any], sides: tuple[str, str], file: ForeignFile, number: int) -> Comparison:
    values = []
    for name in sides:
        if not isinstance(row.get(name), str | int) or (row[name] == "" and name.startswith("sample_id")):
            raise UserError(f"must be a text, got {row.get(name)!r}.", where=f"{file.place(number)}, column '{name}'")
        values.append(str(row[name]))
    told = str(row["preference"]).strip().lower() if row.get("preference") is not None else "1" if sides[0] == "chosen" else ""
    if told not in _PREFERENCES:
        raise UserError(
            f"must be 1 or a (the first won), 0 or b (the second), 0.5 or tie, got {told!r}.",
            where=f"{file.place(number)}, column 'preference'",
        )
    by_id = sides[0] == "sample_id_a"
    prompt, known = row.get("prompt"), row.get("prompt_id")
    if not by_id and prompt is None and known is None:
        raise UserError("is empty; the two replies answer one prompt.", where=f"{file.place(number)}, column 'prompt'")
    pair = (values[0], values[1])
    return Comparison(
        ids=pair if by_id else None, prompt=None if prompt is None else str(prompt), prompt_id=None if known is None else str(known),
        texts=None if by_id else pair, preference=_PREFERENCES[told], annotator=str(row.get("annotator") or "annotator"),
        scores=_both(row, "score"), golds=_both(row, "gold"),
    )  # fmt: skip


def _both(row: Mapping[str, Any], name: str) -> tuple[float, float] | None:
    a, b = row.get(f"{name}_a"), row.get(f"{name}_b")
    return None if a is None or b is None else (float(a), float(b))


class _Places:
    """Where the compared replies stand among the samples; only rows that may be meant are looked at."""

    def __init__(self, table: pa.Table, comparisons: Sequence[Comparison]) -> None:
        self.table = table
        ids = {i for c in comparisons if c.ids for i in c.ids}
        texts = {t for c in comparisons if c.texts for t in c.texts}
        self.by_id = {row["sample_id"]: i for i, row in self._rows("sample_id", ids)}
        self.by_text: dict[tuple[str, str, str], list[int]] = {}
        self.checkpoint: dict[int, tuple[str, int | None]] = {}
        for i, row in self._rows("response", texts):
            self.checkpoint[i] = row["arm"], row["step"]
            for kind in ("prompt", "prompt_id"):
                self.by_text.setdefault((kind, row[kind], row["response"]), []).append(i)

    def _rows(self, column: str, wanted: set[str]) -> list[tuple[int, dict[str, Any]]]:
        if not wanted:
            return []
        kept = pc.indices_nonzero(pc.is_in(self.table.column(column), value_set=pa.array(sorted(wanted), pa.string())))
        rows = self.table.select(["sample_id", "prompt_id", "prompt", "response", "arm", "step"]).take(kept).to_pylist()
        return list(zip(kept.to_pylist(), rows, strict=True))

    def name(self, row: int) -> str:
        """Its sample_id."""
        return str(self.table.column("sample_id")[row].as_py())

    def of(self, c: Comparison) -> tuple[int, int] | None:
        """Rows of both replies; None where one is not among the samples."""
        if c.ids is not None:
            a, b = (self.by_id.get(i) for i in c.ids)
            return None if a is None or b is None or a == b else (a, b)
        assert c.texts is not None
        kind, prompt = ("prompt_id", c.prompt_id) if c.prompt_id is not None else ("prompt", c.prompt or "")
        first, second = (self.by_text.get((kind, prompt or "", t), []) for t in c.texts)
        pairs = [(a, b) for a in first[:20] for b in second[:20] if a != b]
        together = [p for p in pairs if self.checkpoint[p[0]] == self.checkpoint[p[1]]]
        return next(iter([*together, *pairs]), None)


def _with(table: pa.Table, labels: Mapping[int, list[dict[str, Any]]]) -> pa.Table:
    """The table with labels added to those its rows have."""
    if not labels:
        return table
    column: list[list[dict[str, Any]]] = [value or [] for value in table.column("labels").to_pylist()]
    for row, added in labels.items():
        column[row] = [*column[row], *added]
    place = table.schema.get_field_index("labels")
    return table.set_column(place, table.schema.field("labels"), pa.array(column, schema().field("labels").type))


def _offline(comparisons: Sequence[Comparison]) -> list[SampleRecord]:
    """Two rows a pair."""
    rows = []
    for n, c in enumerate(comparisons):
        assert c.texts is not None
        assert c.scores is not None
        for side, text in enumerate(c.texts):
            labels = [Label(annotator=c.annotator, other_sample_id=f"label-{n}-b", preference=c.preference)] if side == 0 else []
            rows.append(
                SampleRecord(
                    run="audit",
                    arm=OFFLINE_ARM,
                    seed=0,
                    step=None,
                    split="test",
                    prompt_id=c.prompt_id or text_id(c.prompt or ""),
                    sample_id=f"label-{n}-{'ab'[side]}",
                    policy_id="labels",
                    prompt=c.prompt or "",
                    response=text,
                    proxy_fixed=c.scores[side],
                    gold=None if c.golds is None else c.golds[side],
                    labels=labels,
                )
            )
    return rows
