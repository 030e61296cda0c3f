"""One writer a run: a lock that the system frees when its process dies, so that none can be stale."""

from __future__ import annotations

import os
import socket
import sys
import time
from pathlib import Path
from typing import IO, Final

from trueup.core.errors import UserError
from trueup.store.atomic import writing

if sys.platform != "win32":
    import fcntl


class Lock:
    """Held from construction to `release` or the end of the process, however it ends.

    Raises:
        UserError: another process holds it.
    """

    NAME: Final = ".lock"

    def __init__(self, folder: Path) -> None:
        self.path = folder / self.NAME
        with writing(self.path):
            self._file: IO[str] | None = open(self.path, "a+", encoding="utf-8")  # noqa: SIM115 - kept open: closing it frees the lock
        if sys.platform != "win32":
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                self._file.seek(0)
                holder = self._file.read().strip() or "unknown"
                self._file.close()
                raise UserError(
                    f"another process is writing this run ({holder}). Wait for it, stop it, or choose another folder with --out.",
                    where=str(folder),
                ) from error
        with writing(self.path):
            self._file.truncate(0)
            self._file.write(f"pid {os.getpid()} on {socket.gethostname()} since {time.strftime('%Y-%m-%d %H:%M:%S')}\n")
            self._file.flush()

    def release(self) -> None:
        """Let others write. The file stays, since removing it would race with the next holder."""
        if self._file is not None:
            self._file.close()
            self._file = None
