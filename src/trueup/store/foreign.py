"""Samples that other programs wrote, as records: few columns are needed, and what is missing or not understood is named.

docs/auditing.md holds the table of names. Records of our own are read alike, since their columns are among the names. Nothing is
guessed: a column of no known name is listed as ignored, an absent one stays absent, and texts that no file has are empty.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from trueup.core.errors import UserError, did_you_mean
from trueup.core.record import OFFLINE_ARM
from trueup.store.columns import conform
from trueup.store.foreign_files import ForeignFile
from trueup.store.foreign_types import as_type
from trueup.store.records import record_files, schema

NAMES: Mapping[str, tuple[str, ...]] = {
    "step": ("step", "global_step"),
    "prompt": ("prompt", "input", "query", "question"),
    "prompt_id": ("prompt_id",),
    "response": ("response", "completion", "output", "reply"),
    "proxy_fixed": ("proxy_fixed", "proxy", "reward", "score"),
    "gold": ("gold",),
    "kl_policy_ref_exact_nats": ("kl_policy_ref_exact_nats", "kl", "kl_nats"),
    "logp_policy_nats": ("logp_policy_nats", "logp_policy"),
    "logp_ref_nats": ("logp_ref_nats", "logp_ref"),
    "n_tokens": ("n_tokens", "response_length", "completion_length"),
    "finished": ("finished",),
    "arm": ("arm", "run"),
}
"""Our column -> names it goes by, the first that a file has being read: ours, TRL's (``completion``), OpenRLHF's (``input``, ``output``,
``reward``), verl's (``input``, ``output``, ``score``). Every other column of records is known by its own name."""
PREFIXES: Mapping[str, tuple[str, ...]] = {
    "scores": ("scores.", "score."),
    "evaluations": ("evaluations.", "eval."),
    "gold_components": ("gold_components.",),
    "win_probability": ("win_probability.",),
}
"""Our map -> how the names of its columns begin; the rest is the key."""
WANTED: Mapping[str, str] = {
    "response": "nothing is said of texts",
    "proxy_fixed": "the reward cannot be compared with anything",
    "gold": "over-optimisation cannot be shown, unless evaluations or labels stand in for it",
    "kl_policy_ref_exact_nats": "there is no distance from the reference (logp_policy with logp_ref give one too)",
    "n_tokens": "lengths are counted in words",
    "finished": "nobody knows which replies were cut off",
    "evaluations": "the reward cannot be compared with evaluations",
    "labels": "no pair has a preference",
}
"""Columns that diagnoses look for -> what cannot be said without."""


@dataclass(frozen=True, kw_only=True)
class Foreign:
    """Records, and how they were read."""

    table: pa.Table
    """As `trueup.store.records.schema` has it."""
    files: tuple[str, ...]
    read: dict[str, str]
    """Our column -> the files' name of it."""
    ignored: tuple[str, ...]
    """Columns of no known name."""

    def missing(self) -> dict[str, str]:
        """Wanted columns without a single value -> what cannot be said without them."""
        known = {name for name in self.table.column_names if _has(self.table.column(name))}
        if {"logp_policy_nats", "logp_ref_nats"} <= known:
            known.add("kl_policy_ref_exact_nats")
        return {name: why for name, why in WANTED.items() if name not in known}


def read_foreign(paths: Sequence[str | Path], columns: Mapping[str, str] | None = None) -> Foreign:
    """Read samples of other programs.

    Args:
        paths: files (CSV, JSON lines, Parquet), or run folders of ours.
        columns: our name (or a name of `NAMES`, or ``score.x``, ``eval.x``) -> the files' name of that column.

    Raises:
        UserError: a file cannot be read, lacks what is needed, or holds what no column may; file, line and column are named.
    """
    given = {_ours(name): theirs for name, theirs in (columns or {}).items()}
    files = [file for path in paths for file in (record_files(path) if Path(path).is_dir() else [Path(path)])]
    tables: list[pa.Table] = []
    read, ignored, seen = dict[str, str](), dict[str, None](), set[str]()
    for file in files:
        found = ForeignFile(file)
        table, names = found.read(lambda name: _type(name, given))
        chosen = _chosen(names, given)
        seen |= set(names)
        read |= {ours: theirs for ours, theirs in chosen.items() if ours not in read}
        ignored |= dict.fromkeys(n for n in names if n not in chosen.values())
        if len(table):
            tables.append(_records(table, chosen, found, before=sum(len(t) for t in tables)))
    _check_given(given, seen)
    if not tables:
        raise UserError("holds no rows.", where=", ".join(map(str, files)))
    whole = pa.concat_tables(tables).combine_chunks()
    _refuse_repeats(whole, files)
    return Foreign(table=whole, files=tuple(map(str, files)), read=read, ignored=tuple(n for n in ignored if n))


def text_id(prompt: str) -> str:
    """The name that prompts of this text have, here and in preference files of ours."""
    return "p-" + hashlib.sha256(json.dumps(prompt, ensure_ascii=False).encode()).hexdigest()[:12]


def _ours(name: str) -> str:
    """A name that a user may give a column -> ours."""
    for ours, names in NAMES.items():
        if name in names:
            return ours
    for column, prefixes in PREFIXES.items():
        for prefix in prefixes:
            if name.startswith(prefix) and len(name) > len(prefix):
                return f"{column}.{name.removeprefix(prefix)}"
    if name in schema().names:
        return name
    known = [n for names in NAMES.values() for n in names] + ["score.NAME", "eval.NAME"]
    raise UserError(f"no column '{name}' is known.{did_you_mean(name, known)} Known: {', '.join(known)}.", where="--column")


def _known(name: str) -> str | None:
    try:
        return _ours(name)
    except UserError:
        return None


def _type(name: str, given: Mapping[str, str]) -> pa.DataType | None:
    """What a file's column is read as."""
    ours = next((o for o, theirs in given.items() if theirs == name), None) or _known(name)
    if ours is None:
        return None
    if "." in ours:
        return pa.float64()
    kind = schema().field(ours).type
    # pandas writes whole numbers with gaps as 3.0; whether they are whole is asked later
    return pa.float64() if pa.types.is_integer(kind) else kind


def _chosen(names: Sequence[str], given: Mapping[str, str]) -> dict[str, str]:
    """Our column -> the file's, of those it has; the first name of `NAMES` wins, and what the user said wins over that."""
    found = {ours: theirs for ours, theirs in given.items() if theirs in names}
    for ours, known in NAMES.items():
        name = next((n for n in known if n in names), None)
        if name is not None:
            found.setdefault(ours, name)
    for name in names:
        known_as = _known(name)
        if known_as is not None and known_as not in NAMES and name not in found.values():
            found.setdefault(known_as, name)
    if "run" in names and "run" not in found:
        found["run"] = "run"
    return found


def _check_given(given: Mapping[str, str], seen: set[str]) -> None:
    for ours, theirs in given.items():
        if theirs not in seen:
            known = sorted(seen)
            raise UserError(
                f"no file has a column '{theirs}' (for '{ours}').{did_you_mean(theirs, known)} Found: {', '.join(known)}.", where="--column"
            )


def _records(table: pa.Table, chosen: Mapping[str, str], file: ForeignFile, before: int) -> pa.Table:
    """Rows of one file as records."""
    flat = {
        ours: as_type(table.column(theirs), schema().field(ours).type, file, theirs)
        for ours, theirs in chosen.items()
        if "." not in ours and not pa.types.is_nested(schema().field(ours).type)
    }
    for name in schema().names:
        if pa.types.is_nested(schema().field(name).type) and name in chosen:
            flat[name] = table.column(chosen[name]).combine_chunks()
    for column in PREFIXES:
        keys = {ours.removeprefix(f"{column}."): theirs for ours, theirs in chosen.items() if ours.startswith(f"{column}.")}
        if keys and column not in flat:
            flat[column] = _map(
                {key: as_type(table.column(theirs), pa.float64(), file, theirs) for key, theirs in keys.items()}, len(table)
            )
    _fill(flat, len(table), file, before)
    return conform(pa.table(flat), schema(), str(file.path))


def _map(columns: Mapping[str, pa.Array], rows: int) -> pa.Array:
    """Numbers under keys as one map a row, absent ones left out."""
    order = sorted(columns)
    present = np.column_stack([np.asarray(columns[k].is_valid()) for k in order])
    values = np.column_stack([columns[k].to_numpy(zero_copy_only=False) for k in order]).astype(float)
    offsets = np.concatenate([[0], np.cumsum(present.sum(1))]).astype(np.int32)
    codes = np.broadcast_to(np.arange(len(order), dtype=np.int32), present.shape)[present]
    keys = pa.DictionaryArray.from_arrays(pa.array(codes), pa.array(order, pa.string())).cast(pa.string())
    return pa.MapArray.from_arrays(pa.array(offsets), keys, pa.array(values[present], pa.float64()))


def _fill(flat: dict[str, pa.Array], rows: int, file: ForeignFile, before: int) -> None:
    """Required columns that the file does not have; what has no default is refused."""
    defaults: dict[str, str | int] = {"run": "audit", "arm": "policy", "split": "test", "response": "", "seed": 0}
    for name, value in defaults.items():
        kind = schema().field(name).type
        flat[name] = pc.fill_null(flat.get(name, pa.nulls(rows, kind)), pa.scalar(value, kind))
    _fill_prompts(flat, rows, file)
    offline = pc.equal(flat["arm"], OFFLINE_ARM)
    if "step" not in flat:
        if not pc.all(offline).as_py():
            raise _lacks(file, "step", "the checkpoint that wrote a reply is needed, as a whole number")
        flat["step"] = pa.nulls(rows, pa.int64())
    _refuse_null(pc.if_else(offline, 0, flat["step"]), "step", file)
    if "sample_id" not in flat:
        # of equal width, so that names are in the order of rows
        numbers = pc.utf8_lpad(pa.array(np.arange(before, before + rows)).cast(pa.string()), width=9, padding="0")
        flat["sample_id"] = pc.binary_join_element_wise("row", numbers, "-")
    if "policy_id" not in flat:
        steps = pc.fill_null(flat["step"].cast(pa.string()), "")
        flat["policy_id"] = pc.binary_join_element_wise(flat["arm"], steps, "/")


def _fill_prompts(flat: dict[str, pa.Array], rows: int, file: ForeignFile) -> None:
    """Texts name prompts where ids do not."""
    if "prompt_id" not in flat:
        if "prompt" not in flat:
            raise _lacks(file, "prompt", "which prompt a reply answers is needed, as its text or as 'prompt_id'")
        _refuse_null(flat["prompt"], "prompt", file)
        encoded = pc.dictionary_encode(flat["prompt"])
        names = pa.array([text_id(t) for t in encoded.dictionary.to_pylist()], pa.string())
        flat["prompt_id"] = pa.DictionaryArray.from_arrays(encoded.indices, names).cast(pa.string())
    _refuse_null(flat["prompt_id"], "prompt_id", file)
    flat["prompt"] = pc.fill_null(flat.get("prompt", pa.nulls(rows, pa.string())), "")


def _lacks(file: ForeignFile, name: str, why: str) -> UserError:
    found = file.names() if file.kind != "jsonl" else sorted({n for _, row in file.lines() for n in row})
    known = "', '".join(NAMES[name])
    return UserError(
        f"has no column '{known}': {why}. Found: {', '.join(found)}. Name another column with --column {name}=NAME.", where=str(file.path)
    )


def _refuse_null(column: pa.Array, name: str, file: ForeignFile) -> None:
    if column.null_count:
        row = int(np.flatnonzero(np.asarray(column.is_null()))[0])
        raise UserError(f"is empty in {column.null_count} rows; every sample needs it.", where=f"{file.place(row)}, column '{name}'")


def _refuse_repeats(table: pa.Table, files: Sequence[Path]) -> None:
    names = table.select(["run", "seed", "sample_id"]).to_pandas()
    repeated = names.duplicated()
    if repeated.any():
        run, _, sample = names[repeated].iloc[0]
        raise UserError(
            f"sample_id '{sample}' of run '{run}' occurs more than once. Give each sample a name of its own, or leave the column out.",
            where=", ".join(map(str, files)),
        )


def _has(column: Any) -> bool:
    """Whether any row has a value: a number, a text that is not empty, a map or list with something in it."""
    kind = column.type
    if pa.types.is_map(kind) or pa.types.is_list(kind):
        return any(len(c.offsets) and c.offsets[-1].as_py() > c.offsets[0].as_py() for c in column.chunks)
    if pa.types.is_string(kind):
        return bool(pc.any(pc.not_equal(column, "")).as_py())
    return bool(column.null_count < len(column))
