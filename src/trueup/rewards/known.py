"""What is known of a prompt: its answer, its tests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from trueup.core.errors import UserError
from trueup.data.rendering import plain_text
from trueup.data.rows import Conversation
from trueup.data.turns import prompt_id

T = TypeVar("T")


def known_of(known: Mapping[str, T], prompt: Conversation, what: str) -> T:
    """What is known of a prompt.

    Args:
        known: by the prompt's text, or by `trueup.data.turns.prompt_id` of its messages.
        prompt: text or messages.
        what: for the message.

    Raises:
        UserError: nothing is.
    """
    try:
        return known[prompt if isinstance(prompt, str) else prompt_id(prompt)]
    except KeyError:
        shown = plain_text(prompt, "").strip()
        raise UserError(f"there is no {what} for the prompt '{shown[:80]}'. Every prompt needs one.", where="reward") from None
