"""Replies to imitate, from files: ``prompt`` with ``completion`` (texts or messages), ``messages``, or ``text`` alone."""

from __future__ import annotations

from typing import Unpack

from trueup.core.errors import UserError
from trueup.data.reading import Bad, Options, Reading, name_of, read_each, text_of
from trueup.data.rows import Conversation, Demonstration, Prompt, Reply, Split
from trueup.data.source import Row, Source
from trueup.data.turns import check_messages, conversation, prompt_id

ALLOWED = 'Allowed: {"prompt", "completion"} as texts or messages; {"messages"} that end with a reply; or {"text"} without a prompt'


def read_demonstrations(source: Source, **options: Unpack[Options]) -> list[Demonstration]:
    """The rows of `load_demonstrations`."""
    return load_demonstrations(source, **options).rows


def load_demonstrations(source: Source, **options: Unpack[Options]) -> Reading[Demonstration]:
    """Read demonstrations and say how they were read.

    Args:
        source: a file, a hub data set's name, several of them, or rows in memory.
        options: see `Options`, such as ``fields={"text": "story"}``; an empty reply teaches nothing.

    Raises:
        UserError: missing or damaged file, malformed row, or (with ``on_bad="error"``) an empty reply; file, line and field are named.
    """
    return read_each(source, _demonstration, "usable demonstration", **options)


def _demonstration(row: Row, split: Split) -> tuple[str, Demonstration]:
    layout, prompt, reply = _parts(row)
    if not reply.strip():
        raise Bad("empty reply", layout.split(" and ")[-1])
    named = Prompt(id=name_of(row, "prompt_id", prompt_id(prompt)), text=prompt, split=split)
    return layout, Demonstration(prompt=named, reply=Reply(text=reply), source=name_of(row, "source"))


def _parts(row: Row) -> tuple[str, Conversation, str]:
    """Layout, prompt and reply of a row. A text alone has the empty prompt."""
    if row.values.get("messages") is not None:
        where = f"{row.where}, field 'messages'"
        turns = check_messages(row.values["messages"], where)
        if turns[-1]["role"] != "assistant":
            raise UserError("must end with the assistant's reply.", where=where)
        if len(turns) == 1:
            raise UserError("must hold a turn to answer before the reply.", where=where)
        return "messages", conversation(turns[:-1], where), turns[-1]["content"]
    if row.values.get("prompt") is not None and row.values.get("completion") is not None:
        prompt = conversation(row.values["prompt"], f"{row.where}, field 'prompt'")
        if isinstance(row.values["completion"], str):
            return "prompt and completion", prompt, row.values["completion"]
        where = f"{row.where}, field 'completion'"
        replies = check_messages(row.values["completion"], where)
        if len(replies) != 1 or replies[0]["role"] != "assistant":
            raise UserError("must be one assistant message.", where=where)
        return "prompt and completion", prompt, replies[0]["content"]
    if row.values.get("text") is not None:
        return "text", "", text_of(row, "text")
    raise UserError(f"no known layout (found {', '.join(row.values) or 'no field'}). {ALLOWED}.", where=row.where)
