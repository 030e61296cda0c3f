"""Strict configurations: frozen pydantic models read from YAML, all errors of a file shown together with their lines.

The docstring below a field is its only help text; numbers carry their bounds; derived values are methods, never fields.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from trueup.core.component import config_class
from trueup.core.errors import UserError, did_you_mean

C = TypeVar("C", bound="Config")


class Config(BaseModel):
    """Base of every configuration: frozen, no unknown keys, descriptions taken from field docstrings."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        validate_default=True,
        allow_inf_nan=False,
        arbitrary_types_allowed=False,
    )

    def digest(self) -> str:
        """16 hexadecimal digits that identify the values (not the file's layout)."""
        return digest(self.model_dump(mode="json"))


class Component(Config):
    """A configuration chosen by its ``kind``: the file of that name in the family's folder."""

    kind: str
    """Name of the file in the family's folder, or a dotted Python module."""


def digest(value: object) -> str:
    """16 hexadecimal digits that identify a JSON-like value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]


def resolve(package: str, base: type[C], value: object) -> C:
    """Turn ``{"kind": ..., ...}`` (or a bare kind) into the configuration of that kind; pydantic's `BeforeValidator` calls it."""
    if isinstance(value, base):
        return value
    if isinstance(value, str):
        value = {"kind": value}
    if not isinstance(value, dict) or not isinstance(value.get("kind"), str):
        raise ValueError(f"needs 'kind', the name of a file in {package.replace('.', '/')}")
    try:
        found = config_class(package, value["kind"], base)
    except UserError as error:
        raise ValueError(str(error)) from error
    return found.model_validate(value)


def load_config(path: str | Path, schema: type[C], overrides: Iterable[str] = ()) -> C:
    """Read a YAML file into a configuration.

    Args:
        path: the file.
        schema: the configuration class.
        overrides: ``a.b=c`` texts, as given with ``--set``; the value is read as YAML.

    Raises:
        UserError: the file is missing or malformed, or any of its values is wrong; all errors are in one message with their lines.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise UserError(
            "no such configuration file. Give the path of a YAML file; `trueup list` names the kinds it may use.", where=str(path)
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot be read: {error}.", where=str(path)) from error
    try:
        values, lines = yaml.safe_load(text), dict(_lines(yaml.compose(text)))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{path}, line {mark.line + 1}" if mark else str(path)
        raise UserError(f"is not valid YAML: {getattr(error, 'problem', error)}.", where=place) from error
    if values is None:
        values = {}
    if not isinstance(values, dict):
        raise UserError("must hold `key: value` lines at the top.", where=str(path))
    return validate(applied(values, overrides), schema, where=str(path), lines=lines)


def applied(values: dict[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """Plain values after ``a.b=c`` texts, in place.

    Raises:
        UserError: a text names no place, or its value is no YAML.
    """
    for override in overrides:
        _apply(values, override)
    return values


def validate(values: dict[str, Any], schema: type[C], *, where: str, lines: dict[tuple[str, ...], int] | None = None) -> C:
    """Check plain values against a configuration class; every error is listed, with its line where known."""
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        raise UserError(_explain(error, schema, values, lines or {}), where=where) from error


def _explain(error: ValidationError, schema: type[BaseModel], values: object, lines: dict[tuple[str, ...], int]) -> str:
    rows = []
    found = error.errors()
    for e in found:
        place = tuple(str(p) for p in e["loc"])
        if e["type"] == "too_short" and any(o["loc"][: len(e["loc"])] == e["loc"] and o is not e for o in found):
            continue  # the items are there, but wrong, which is said already
        line = next((lines[place[:n]] for n in range(len(place), 0, -1) if place[:n] in lines), None)
        message = e["msg"].removeprefix("Value error, ")
        if e["type"] == "extra_forbidden":
            message = f"unknown key.{did_you_mean(place[-1], _fields(schema, values, place[:-1]))}"
        elif e["type"] != "missing" and not isinstance(e["input"], dict | list):
            message = f"{message}, got {e['input']!r}"
        rows.append(f"  {'.'.join(place) or '(top)'}{f' (line {line})' if line else ''}: {message}")
    count = f"{len(rows)} wrong value" + ("s" if len(rows) > 1 else "")
    return f"{count}:\n" + "\n".join(rows)


def _fields(schema: type[BaseModel], values: object, place: tuple[str, ...]) -> list[str]:
    """Names of the fields allowed at a place; of the whole schema where it cannot be told."""
    current: Any = schema
    for part in place:
        fields = getattr(current, "model_fields", {})
        if part not in fields:
            break
        annotation = fields[part].annotation
        current = next(
            (a for a in [annotation, *getattr(annotation, "__args__", ())] if isinstance(a, type) and issubclass(a, BaseModel)), None
        )
        if current is None:
            return []
    return list(getattr(current, "model_fields", {}))


def _apply(values: dict[str, Any], override: str) -> None:
    name, found, text = override.partition("=")
    if not found or not name:
        raise UserError("must look like a.b=c, for example --set policy.steps=40.", where=f"--set {override}")
    *parents, last = name.split(".")
    here: Any = values
    for parent in parents:
        if isinstance(here, list):
            here = _item(here, parent, override)
        else:
            if here.get(parent) is None:
                here[parent] = {}
            here = here[parent]
        if not isinstance(here, dict | list):
            raise UserError(f"'{parent}' holds the value {here!r}, not a group of keys.", where=f"--set {override}")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"the value is not valid YAML: {error}.", where=f"--set {override}") from error
    if isinstance(here, list):
        _item(here, last, override)
        here[int(last)] = value
    else:
        here[last] = value


def _item(items: list[Any], index: str, override: str) -> Any:
    if not index.isdigit() or int(index) >= len(items):
        raise UserError(f"'{index}' is no position of a list of {len(items)} (count from 0).", where=f"--set {override}")
    return items[int(index)]


def _lines(node: yaml.Node | None, place: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], int]]:
    """Every key path of a YAML document with its line, counted from 1."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield (*place, str(key.value)), key.start_mark.line + 1
            yield from _lines(value, (*place, str(key.value)))
    elif isinstance(node, yaml.SequenceNode):
        for i, value in enumerate(node.value):
            yield (*place, str(i)), value.start_mark.line + 1
            yield from _lines(value, (*place, str(i)))
