"""Conversations: messages checked, transcripts parsed, the shared beginning of two of them found."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence

from trueup.core.errors import UserError
from trueup.data.rows import Conversation, Message

Turns = tuple[Message, ...]
ROLES = ("system", "developer", "user", "assistant", "tool")
_HEAD = re.compile(r"(?:\A\s*|\n\n)(Human|Assistant):")
_ROLE_OF = {"Human": "user", "Assistant": "assistant"}


def is_transcript(text: str) -> bool:
    """Whether a text begins as a transcript does: ``\\n\\nHuman: ...``."""
    return re.match(r"\s*Human:", text) is not None


def parse_transcript(text: str) -> Turns:
    """Turns of a transcript in the layout of Anthropic's hh-rlhf.

    Turns begin with ``Human:`` or ``Assistant:`` after an empty line; consecutive ones of the same speaker become one. A last
    ``Assistant:`` without text, as prompts have it, is kept as an empty turn.
    """
    parts = _HEAD.split(text)
    merged: list[Message] = []
    for speaker, said in zip(parts[1::2], parts[2::2], strict=True):
        role, content = _ROLE_OF[speaker], said.strip()
        if merged and merged[-1]["role"] == role:
            content = f"{merged.pop()['content']}\n\n{content}".strip()
        merged.append(Message(role=role, content=content))
    return tuple(merged)


def check_messages(value: object, where: str) -> Turns:
    """A list of ``{"role", "content"}`` as turns; other keys of a message are dropped.

    Raises:
        UserError: not such a list; the message is named.
    """
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise UserError(f'must be a text or a non-empty list of {{"role", "content"}} messages, got {_show(value)}.', where=where)
    turns = []
    for i, message in enumerate(value):
        place = f"{where}, message {i + 1}"
        if not isinstance(message, dict) or "role" not in message or "content" not in message:
            raise UserError(f'must be {{"role": ..., "content": ...}}, got {_show(message)}.', where=place)
        if message["role"] not in ROLES:
            raise UserError(f"role must be one of {', '.join(ROLES)}, got {_show(message['role'])}.", where=place)
        if not isinstance(message["content"], str):
            raise UserError(f"content must be a text, got {_show(message['content'])}.", where=place)
        turns.append(Message(role=message["role"], content=message["content"]))
    return tuple(turns)


def conversation(value: object, where: str) -> Conversation:
    """A prompt: plain text as it is, a transcript or messages as turns. A transcript's open ``Assistant:`` is dropped.

    Raises:
        UserError: neither a text nor messages, empty, or ending with a reply.
    """
    if isinstance(value, str) and not is_transcript(value):
        if not value.strip():
            raise UserError("is empty. Every prompt needs a text.", where=where)
        return value
    turns = parse_transcript(value) if isinstance(value, str) else check_messages(value, where)
    if turns[-1]["role"] == "assistant" and not turns[-1]["content"]:
        turns = turns[:-1]
    if not turns or turns[-1]["role"] == "assistant":
        raise UserError("must end with a turn to answer, not with the assistant's.", where=where)
    return turns


def shared(first: Turns, second: Turns) -> Turns:
    """The turns both conversations begin with."""
    n = 0
    while n < min(len(first), len(second)) and first[n] == second[n]:
        n += 1
    return first[:n]


def opening_turn(prompt: Conversation) -> str:
    """The first thing the user says, whitespace and case evened out: prompts that share it belong to one split."""
    text = prompt if isinstance(prompt, str) else next((m["content"] for m in prompt if m["role"] == "user"), prompt[0]["content"])
    return " ".join(text.casefold().split())


def prompt_id(prompt: Conversation) -> str:
    """A name for the prompt made from its text, so that equal prompts have equal names: ``p-`` and 12 hexadecimal digits."""
    return "p-" + hashlib.sha256(json.dumps(prompt, ensure_ascii=False).encode()).hexdigest()[:12]


def _show(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else f"{text[:77]}..."
