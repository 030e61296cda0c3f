"""What a verb says and to whom: results on standard output, everything else on standard error."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import IO, Any

from rich.console import Console, RenderableType
from rich.text import Text

from trueup.core.errors import UserError


class Output:
    """The two channels of one invocation.

    Args:
        command: the verb, named in every JSON object.
        json_to: where the one JSON object goes; None when results are for people.
    """

    def __init__(self, command: str, json_to: IO[str] | None = None) -> None:
        self.command, self._json_to = command, json_to
        self.console = Console(stderr=True, highlight=False)

    @property
    def wants_json(self) -> bool:
        """Whether the result is for a program."""
        return self._json_to is not None

    def result(self, values: Mapping[str, Any], *lines: RenderableType) -> None:
        """The verb's result: ``values`` as the one JSON object, or the lines for people."""
        if self._json_to is not None:
            print(json.dumps({"command": self.command, **values}, ensure_ascii=False, allow_nan=False), file=self._json_to, flush=True)
            return
        people = Console(highlight=False, soft_wrap=True)
        for line in lines:
            people.print(Text(line) if isinstance(line, str) else line)

    def plain(self, values: Mapping[str, Any], text: str) -> None:
        """A result that is a document, such as YAML: printed as it is, without wrapping or colour."""
        if self.wants_json:
            self.result(values)
        else:
            print(text, end="" if text.endswith("\n") else "\n", flush=True)

    def refuse(self, error: UserError) -> None:
        """Say what the user can fix."""
        message = Text()
        message.append("error: ", style="bold red")
        if error.where:
            message.append(f"{error.where}: ", style="bold")
        message.append(error.message)
        self.console.print(message, soft_wrap=True)
        self.failed(error.message, where=error.where, status=2)

    def failed(self, message: str, *, where: str | None = None, status: int) -> None:
        """The one JSON object of a verb that failed; nothing for people, who have been told on standard error."""
        if self.wants_json:
            self.result({"error": {"message": message, "where": where, "exit": status}})


@contextmanager
def only_result(wanted: bool) -> Iterator[IO[str] | None]:
    """Keep standard output for the result: whatever else this process or a library of it writes there goes to standard error.

    Yields:
        the real standard output, or None where it was not ``wanted`` for a program.
    """
    if not wanted:
        yield None
        return
    sys.stdout.flush()
    real = os.dup(1)
    before = sys.stdout
    with open(real, "w", encoding="utf-8") as result:
        os.dup2(2, 1)
        sys.stdout = sys.stderr
        try:
            yield result
        finally:
            result.flush()
            os.dup2(real, 1)
            sys.stdout = before
