"""The two kinds of failure: what a user can fix, and bugs."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """Something the user can fix: shown without a traceback, exit status 2.

    The message says what is wrong with the value it shows, what is allowed, and what to do.

    Args:
        message: one or two sentences.
        where: the place, such as ``prefs.jsonl, line 17, field 'chosen'``; printed first.
    """

    def __init__(self, message: str, *, where: str | None = None) -> None:
        self.message, self.where = message, where
        super().__init__(f"{where}: {message}" if where else message)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The sentence `` Did you mean 'x'?`` for the nearest known word, or nothing."""
    near = get_close_matches(word, list(known), n=1)
    return f" Did you mean '{near[0]}'?" if near else ""


def one_line(error: Exception) -> str:
    """The first line of an error, without its full stop."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
