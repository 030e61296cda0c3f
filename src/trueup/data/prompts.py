"""Prompts from files: ``prompt`` (text, transcript or messages), ``messages``, or plain text files with one prompt a line."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Unpack

from trueup.core.errors import UserError
from trueup.data.reading import Bad, Options, Reading, name_of, read_each
from trueup.data.rows import Prompt, Split
from trueup.data.source import Row, Source
from trueup.data.turns import check_messages, conversation, prompt_id


def read_prompts(source: Source, *, tags: Sequence[str] = (), **options: Unpack[Options]) -> list[Prompt]:
    """The rows of `load_prompts`."""
    return load_prompts(source, tags=tags, **options).rows


def load_prompts(source: Source, *, tags: Sequence[str] = (), **options: Unpack[Options]) -> Reading[Prompt]:
    """Read prompts and say how they were read.

    Args:
        source: a file, a hub data set's name, several of them, or rows in memory.
        tags: fields to keep as tags.
        options: see `Options`; a prompt that occurred before teaches nothing.

    Raises:
        UserError: missing or damaged file, malformed row, or (with ``on_bad="error"``) a repeated prompt; file, line and field are named.
    """
    seen = set[str]()

    def one(row: Row, split: Split) -> tuple[str, Prompt]:
        layout = "messages" if row.values.get("messages") is not None else "prompt"
        prompt = _prompt(row, layout, tags, split)
        if prompt.id in seen:
            raise Bad("repeated prompt", layout)
        seen.add(prompt.id)
        return layout, prompt

    return read_each(source, one, "prompt", **options)


def _prompt(row: Row, layout: str, tags: Sequence[str], split: Split) -> Prompt:
    where = f"{row.where}, field '{layout}'"
    if layout == "messages":
        turns = check_messages(row.values["messages"], where)
        # A finished conversation is a prompt with its last reply.
        text = conversation(turns[:-1] if turns[-1]["role"] == "assistant" and len(turns) > 1 else turns, where)
    elif row.values.get("prompt") is None:
        message = (
            f'the field is missing (found {", ".join(row.values) or "none"}). Allowed: {{"prompt"}} as text or messages, or {{"messages"}}.'
        )
        raise UserError(message, where=where)
    else:
        text = conversation(row.values["prompt"], where)
    for name in tags:
        if name not in row.values:
            raise UserError(
                f"the field is missing (asked for as a tag; found {', '.join(row.values)}).", where=f"{row.where}, field '{name}'"
            )
    return Prompt(id=name_of(row, "id", prompt_id(text)), text=text, split=split, tags={name: _tag(row, name) for name in tags})


def _tag(row: Row, name: str) -> str:
    """A text as it is; numbers and lists, such as of several right answers, as JSON text."""
    value = row.values[name]
    if isinstance(value, list | tuple) or (isinstance(value, float) and math.isfinite(value)):
        return json.dumps(value, ensure_ascii=False)
    return name_of(row, name)
