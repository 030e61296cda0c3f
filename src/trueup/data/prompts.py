"""Prompts from files: ``prompt`` (text, transcript or messages), ``messages``, or plain text files with one prompt a line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from trueup.core.errors import UserError
from trueup.data.reading import Bad, OnBad, Reading, Tally, name_of, renamed
from trueup.data.rows import Prompt, Split
from trueup.data.source import Row, Source, read_rows
from trueup.data.turns import check_messages, conversation, prompt_id


def read_prompts(
    source: Source,
    *,
    on_bad: OnBad = "error",
    fields: Mapping[str, str] | None = None,
    tags: Sequence[str] = (),
    split: Split = "train",
    hub_split: str = "train",
    hub_subset: str | None = None,
) -> list[Prompt]:
    """The rows of `load_prompts`."""
    return load_prompts(source, on_bad=on_bad, fields=fields, tags=tags, split=split, hub_split=hub_split, hub_subset=hub_subset).rows


def load_prompts(
    source: Source,
    *,
    on_bad: OnBad = "error",
    fields: Mapping[str, str] | None = None,
    tags: Sequence[str] = (),
    split: Split = "train",
    hub_split: str = "train",
    hub_subset: str | None = None,
) -> Reading[Prompt]:
    """Read prompts and say how they were read.

    Args:
        source: a file, a hub dataset's name, several of them, or rows in memory.
        on_bad: what to do with a prompt that occurred before.
        fields: our field name -> the file's, where they differ.
        tags: fields to keep as tags.
        split: which split the prompts are put in.
        hub_split: which split of a hub dataset to read.
        hub_subset: which configuration or folder of a hub dataset to read.

    Raises:
        UserError: missing or damaged file, malformed row, or (with ``on_bad="error"``) a repeated prompt; file, line and field are named.
    """
    tally, rows, seen = Tally(on_bad), [], set[str]()
    for found in read_rows(source, hub_split=hub_split, hub_subset=hub_subset):
        row = renamed(found, fields)
        layout = "messages" if row.values.get("messages") is not None else "prompt"
        prompt = _prompt(row, layout, tags, split)
        if prompt.id in seen:
            tally.left_out(Bad("repeated prompt", layout), row)
            continue
        seen.add(prompt.id)
        tally.saw(layout)
        rows.append(prompt)
    if not rows:
        raise UserError("holds no prompt.", where=str(source) if not isinstance(source, list) else None)
    return Reading(rows=rows, layouts=tally.layouts, skipped=tally.skipped)


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
    return Prompt(id=name_of(row, "id", prompt_id(text)), text=text, split=split, tags={name: name_of(row, name) for name in tags})
