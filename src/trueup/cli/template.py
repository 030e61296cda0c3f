"""Complete, commented YAML of a configuration class: every field with its help, bounds and default."""

from __future__ import annotations

import textwrap
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

WIDTH = 110


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One field, for programs."""

    name: str
    """Dotted place."""
    type: str
    default: Any
    """Plain value; None also where it is required."""
    required: bool
    help: str
    bounds: str


Kinds = Mapping[str, Sequence[str]]
"""Name of a family's configuration class -> the kinds one may write."""


def render(schema: type[BaseModel], kinds: Kinds) -> str:
    """The YAML text; reading it back gives the defaults, as far as every field has one."""
    head = [f"# {line}" for line in textwrap.wrap(_summary(schema), WIDTH)]
    return "\n".join([*head, *_lines(schema, None, 0, kinds)]) + "\n"


def entries(schema: type[BaseModel], place: str = "") -> Iterator[Entry]:
    """Every field and those of nested groups, in order."""
    for name, field in schema.model_fields.items():
        default = _default(field)
        group = type(default) if isinstance(default, BaseModel) else _group(field.annotation)
        yield Entry(
            name=place + name,
            type=type_name(field.annotation),
            default=None if default is PydanticUndefined else plain(default),
            required=default is PydanticUndefined,
            help=field.description or "",
            bounds=bounds(field),
        )
        if group is not None and get_origin(_bare(field.annotation)) not in (list, tuple, dict):
            yield from entries(group, f"{place}{name}.")


def _lines(schema: type[BaseModel], values: BaseModel | None, depth: int, kinds: Kinds) -> Iterator[str]:
    pad = "  " * depth
    for name, field in schema.model_fields.items():
        value = _default(field) if values is None else getattr(values, name)
        for line in textwrap.wrap(_comment(field, kinds), WIDTH - len(pad)):
            yield f"{pad}# {line}"
        if value is PydanticUndefined:
            yield f"{pad}{name}:  # required"
        elif isinstance(value, BaseModel):
            yield f"{pad}{name}:"
            yield from _lines(type(value), value, depth + 1, kinds)
        elif isinstance(value, list | tuple) and value and isinstance(value[0], BaseModel):
            yield f"{pad}{name}:"
            for number, item in enumerate(value):
                lines = list(_lines(type(item), item, depth + 2, kinds))
                yield f"{pad}  -"
                yield from lines if number == 0 else _without_comments(lines)
        else:
            yield f"{pad}{name}: {_scalar(value)}"
        yield from _unused(field, value, pad, kinds)


def _unused(field: FieldInfo, value: Any, pad: str, kinds: Kinds) -> Iterator[str]:
    """What a group may hold that is left out by default, commented out."""
    group = _group(field.annotation)
    if value is None and group is not None and "kind" not in group.model_fields:
        yield from (f"{pad}#   {line}" for line in _without_comments(_lines(group, None, 0, kinds)))


def _without_comments(lines: Iterable[str]) -> list[str]:
    return [line for line in lines if not line.lstrip().startswith("#")]


def _comment(field: FieldInfo, kinds: Kinds) -> str:
    allowed = ", ".join(part for part in (_kinds_of(field.annotation, kinds), _choices(field.annotation), bounds(field)) if part)
    return f"{field.description or ''}{f' [{allowed}]' if allowed else ''}"


def _kinds_of(annotation: Any, kinds: Kinds) -> str:
    group = _group(annotation)
    names = next((kinds[c.__name__] for c in group.__mro__ if c.__name__ in kinds), ()) if group else ()
    return f"kind: {' | '.join(names)}" if names else ""


def _choices(annotation: Any) -> str:
    """The allowed words of a Literal, or ``null`` where that is allowed."""
    bare, optional = _bare(annotation), _optional(annotation)
    words = [str(a) for a in get_args(bare)] if get_origin(bare) is Literal else []
    if len(words) == 1:
        words = []  # a kind: naming the file is choice enough
    return " | ".join([*words, *(["null"] if optional else [])])


def bounds(field: FieldInfo) -> str:
    """The bounds of a number, a text or a list, in words."""
    said = []
    names = {
        "gt": "above {}",
        "ge": "at least {}",
        "lt": "below {}",
        "le": "at most {}",
        "min_length": "at least {} long",
        "max_length": "at most {} long",
    }
    for limit in field.metadata:
        for name, words in names.items():
            value = getattr(limit, name, None)
            if value is not None:
                said.append(words.format(value))
        pattern = getattr(limit, "pattern", None)
        if pattern is not None:
            said.append(f"like {pattern}")
    return ", ".join(said)


def type_name(annotation: Any) -> str:
    """A type for people: ``number``, ``text``, ``list of text``, a group's name."""
    bare, optional = _bare(annotation), _optional(annotation)
    origin, arguments = get_origin(bare), get_args(bare)
    if origin is Literal:
        name = " | ".join(map(str, arguments))
    elif origin in (list, tuple):
        name = f"list of {type_name(arguments[0])}"
    elif origin in (Union, types.UnionType):
        name = " | ".join(type_name(a) for a in arguments if a is not types.NoneType)
    else:
        name = {int: "whole number", float: "number", str: "text", bool: "true | false"}.get(bare, getattr(bare, "__name__", str(bare)))
    return f"{name} | null" if optional else name


def plain(value: Any) -> Any:
    """A default as JSON values."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return value


def _default(field: FieldInfo) -> Any:
    return field.get_default(call_default_factory=True, validated_data={})


def _scalar(value: Any) -> str:
    """A value on one line, as YAML reads it back."""
    text = yaml.safe_dump(plain(value), default_flow_style=True, width=10_000, allow_unicode=True, sort_keys=False).strip()
    return text.removesuffix("\n...").removesuffix("...").strip()


def _group(annotation: Any) -> type[BaseModel] | None:
    """The nested configuration of a field, if it is one or a list of them."""
    bare = _bare(annotation)
    if isinstance(bare, type) and issubclass(bare, BaseModel):
        return bare
    found = (_group(a) for a in get_args(bare) if a is not types.NoneType)
    return next((g for g in found if g is not None), None)


def _bare(annotation: Any) -> Any:
    """The annotation without ``Annotated`` and ``| None``."""
    while True:
        origin, arguments = get_origin(annotation), get_args(annotation)
        if origin is Annotated:
            annotation = arguments[0]
        elif origin in (Union, types.UnionType) and types.NoneType in arguments and len(arguments) == 2:
            annotation = next(a for a in arguments if a is not types.NoneType)
        else:
            return annotation


def _optional(annotation: Any) -> bool:
    if get_origin(annotation) is Annotated:
        return _optional(get_args(annotation)[0])
    return get_origin(annotation) in (Union, types.UnionType) and types.NoneType in get_args(annotation)


def _summary(schema: type[BaseModel]) -> str:
    return " ".join((schema.__doc__ or "").split("\n\n")[0].split())
