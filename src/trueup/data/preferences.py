"""Preference pairs from files: the layouts people have, one row type out.

| layout | fields |
|---|---|
| explicit prompt | ``prompt`` (text, transcript or messages), ``chosen``, ``rejected`` (texts or messages) |
| implicit prompt | ``chosen``, ``rejected``: whole conversations as messages; what they share is the prompt |
| transcripts | ``chosen``, ``rejected``: texts of ``\\n\\nHuman: … \\n\\nAssistant: …`` turns (hh-rlhf); what they share is the prompt |

Optional fields of all: ``id, margin, annotator, chosen_source, rejected_source``. Layouts after TRL's dataset formats.
"""

from __future__ import annotations

from typing import Unpack

from trueup.core.errors import UserError
from trueup.data.reading import Bad, Options, Reading, name_of, number_of, read_each, text_of
from trueup.data.rows import Conversation, Preference, Prompt, Reply, Split
from trueup.data.source import Row, Source
from trueup.data.turns import Turns, check_messages, conversation, is_transcript, parse_transcript, prompt_id, shared

ALLOWED = (
    'Allowed: {"prompt", "chosen", "rejected"} as texts or messages; {"chosen", "rejected"} as whole conversations in messages; '
    'or {"chosen", "rejected"} as transcripts that begin with "Human:"'
)


def read_preferences(source: Source, **options: Unpack[Options]) -> list[Preference]:
    """The rows of `load_preferences`."""
    return load_preferences(source, **options).rows


def load_preferences(source: Source, **options: Unpack[Options]) -> Reading[Preference]:
    """Read preference pairs and say how they were read.

    Args:
        source: a file, a hub data set's name, several of them, or rows in memory.
        options: see `Options`; an empty or identical reply, and conversations that part before the last reply, teach nothing.

    Raises:
        UserError: missing or damaged file, malformed row, or (with ``on_bad="error"``) a row that teaches nothing; the place is named.
    """
    return read_each(source, preference_of, "usable preference pair", **options)


def preference_of(row: Row, split: Split) -> tuple[str, Preference]:
    """Layout and pair of one row.

    Raises:
        Bad: it teaches nothing.
        UserError: it is malformed.
    """
    layout = _layout(row)
    prompt, chosen, rejected = _READERS[layout](row)
    _check_pair(chosen, rejected)
    return layout, _preference(row, prompt, chosen, rejected, split)


def _preference(row: Row, prompt: Conversation, chosen: str, rejected: str, split: Split) -> Preference:
    return Preference(
        id=name_of(row, "id", row.id),
        prompt=Prompt(id=name_of(row, "prompt_id", prompt_id(prompt)), text=prompt, split=split),
        chosen=Reply(text=chosen),
        rejected=Reply(text=rejected),
        chosen_source=name_of(row, "chosen_source"),
        rejected_source=name_of(row, "rejected_source"),
        annotator=name_of(row, "annotator"),
        margin=number_of(row, "margin"),
        where=row.where,
    )


def _layout(row: Row) -> str:
    for name in ("chosen", "rejected"):
        if row.values.get(name) is None:
            has = f"found {', '.join(row.values) or 'none'}" if name not in row.values else "it is null"
            raise UserError(f"the field is missing ({has}). {ALLOWED}.", where=f"{row.where}, field '{name}'")
        if not isinstance(row.values[name], str | list | tuple):
            got = type(row.values[name]).__name__
            raise UserError(f"must be a text or a list of messages, got {got}. {ALLOWED}.", where=f"{row.where}, field '{name}'")
    chosen, rejected = row.values["chosen"], row.values["rejected"]
    if isinstance(chosen, str) != isinstance(rejected, str):
        raise UserError("must be of the same kind as 'chosen': both texts, or both messages.", where=f"{row.where}, field 'rejected'")
    if row.values.get("prompt") is not None:
        return "explicit prompt"
    if not isinstance(chosen, str):
        return "implicit prompt"
    if is_transcript(chosen) and is_transcript(rejected):
        return "transcripts"
    raise UserError(f"there is no prompt, and chosen and rejected are no transcripts. {ALLOWED}.", where=f"{row.where}, field 'prompt'")


def _explicit(row: Row) -> tuple[Conversation, str, str]:
    prompt = conversation(row.values["prompt"], f"{row.where}, field 'prompt'")
    if isinstance(row.values["chosen"], str):
        return prompt, text_of(row, "chosen"), text_of(row, "rejected")
    chosen, rejected = (check_messages(row.values[name], f"{row.where}, field '{name}'") for name in ("chosen", "rejected"))
    if len(chosen) == len(rejected) == 1:
        return prompt, _reply(chosen, 0, "chosen"), _reply(rejected, 0, "rejected")
    # Whole conversations beside their prompt: the messages say more than the text, as long as the two agree.
    common, first, second = _part(chosen, rejected)
    agrees = prompt in [m["content"] for m in common] if isinstance(prompt, str) else common[-len(prompt) :] == prompt
    if not agrees:
        raise UserError("differs from the turns that 'chosen' and 'rejected' begin with.", where=f"{row.where}, field 'prompt'")
    return common, first, second


def _implicit(row: Row) -> tuple[Conversation, str, str]:
    chosen, rejected = (check_messages(row.values[name], f"{row.where}, field '{name}'") for name in ("chosen", "rejected"))
    return _part(chosen, rejected)


def _transcripts(row: Row) -> tuple[Conversation, str, str]:
    return _part(parse_transcript(text_of(row, "chosen")), parse_transcript(text_of(row, "rejected")))


def _part(chosen: Turns, rejected: Turns) -> tuple[Turns, str, str]:
    """The shared turns and the two last replies."""
    if chosen == rejected:
        raise Bad("identical replies", "rejected")
    common = shared(chosen, rejected)
    if common and common[-1]["role"] == "assistant":
        raise Bad("no reply after the shared turns", "chosen" if len(chosen) == len(common) else "rejected")
    if not common:
        raise Bad("no shared beginning", "rejected")
    return common, _reply(chosen, len(common), "chosen"), _reply(rejected, len(common), "rejected")


def _reply(turns: Turns, start: int, name: str) -> str:
    rest = turns[start:]
    if len(rest) != 1 or rest[0]["role"] != "assistant":
        raise Bad("not one assistant reply after the shared turns", name)
    return rest[0]["content"]


def _check_pair(chosen: str, rejected: str) -> None:
    for name, text in (("chosen", chosen), ("rejected", rejected)):
        if not text.strip():
            raise Bad(f"empty {name} reply", name)
    if chosen.strip() == rejected.strip():
        raise Bad("identical replies", "rejected")


_READERS = {"explicit prompt": _explicit, "implicit prompt": _implicit, "transcripts": _transcripts}
