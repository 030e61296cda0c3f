"""Replies to imitate, from files: ``prompt`` with ``completion`` (texts or messages), ``messages``, or ``text`` alone."""

from __future__ import annotations

from collections.abc import Mapping

from trueup.core.errors import UserError
from trueup.data.reading import Bad, OnBad, Reading, Tally, name_of, renamed, text_of
from trueup.data.rows import Conversation, Demonstration, Prompt, Reply, Split
from trueup.data.source import Row, Source, read_rows
from trueup.data.turns import check_messages, conversation, prompt_id

ALLOWED = 'Allowed: {"prompt", "completion"} as texts or messages; {"messages"} that end with a reply; or {"text"} without a prompt'


def read_demonstrations(
    source: Source,
    *,
    on_bad: OnBad = "error",
    fields: Mapping[str, str] | None = None,
    split: Split = "train",
    hub_split: str = "train",
    hub_subset: str | None = None,
) -> list[Demonstration]:
    """The rows of `load_demonstrations`."""
    return load_demonstrations(source, on_bad=on_bad, fields=fields, split=split, hub_split=hub_split, hub_subset=hub_subset).rows


def load_demonstrations(
    source: Source,
    *,
    on_bad: OnBad = "error",
    fields: Mapping[str, str] | None = None,
    split: Split = "train",
    hub_split: str = "train",
    hub_subset: str | None = None,
) -> Reading[Demonstration]:
    """Read demonstrations and say how they were read.

    Args:
        source: a file, a hub dataset's name, several of them, or rows in memory.
        on_bad: what to do with an empty reply.
        fields: our field name -> the file's, where they differ, such as ``{"text": "story"}``.
        split: which split the prompts are put in.
        hub_split: which split of a hub dataset to read.
        hub_subset: which configuration or folder of a hub dataset to read.

    Raises:
        UserError: missing or damaged file, malformed row, or (with ``on_bad="error"``) an empty reply; file, line and field are named.
    """
    tally, rows = Tally(on_bad), []
    for found in read_rows(source, hub_split=hub_split, hub_subset=hub_subset):
        row = renamed(found, fields)
        layout, prompt, reply = _parts(row)
        if not reply.strip():
            tally.left_out(Bad("empty reply", layout.split(" and ")[-1]), row)
            continue
        tally.saw(layout)
        named = Prompt(id=name_of(row, "prompt_id", prompt_id(prompt)), text=prompt, split=split)
        rows.append(Demonstration(prompt=named, reply=Reply(text=reply), source=name_of(row, "source")))
    if not rows:
        raise UserError("holds no usable demonstration.", where=str(source) if not isinstance(source, list) else None)
    return Reading(rows=rows, layouts=tally.layouts, skipped=tally.skipped)


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
