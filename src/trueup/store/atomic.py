"""Writes that are whole or absent: a temporary sibling, fsync, rename. A killed writer leaves nothing that looks whole."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from trueup.core.errors import UserError

_LEFTOVER = re.compile(r"^\.(?P<name>.+)\.(?P<kind>partial|previous)-(?P<pid>\d+)$")
_FULL = {errno.ENOSPC, errno.EDQUOT}
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}


def write_text(path: str | Path, text: str) -> None:
    """Replace a file's content by ``text`` (UTF-8).

    Raises:
        UserError: the disk is full or the place may not be written.
    """
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: str | Path, data: bytes) -> None:
    """Replace a file's content by ``data``.

    Raises:
        UserError: the disk is full or the place may not be written.
    """
    with atomic_path(path) as partial:
        partial.write_bytes(data)


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A temporary name to write a file under; it takes the place of ``path`` when the block ends without an error.

    Raises:
        UserError: the disk is full or the place may not be written.
    """
    path = Path(path)
    partial = _partial(path)
    try:
        with writing(path):
            _prepare(path)
            yield partial
            _sync(partial)
            os.replace(partial, path)
            _sync(path.parent)
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """An empty temporary folder to fill; it takes the place of ``path`` when the block ends without an error.

    The previous folder stays until the new one is whole and on disk. A folder cannot be replaced in one system call, so a process
    killed between the two renames leaves the previous one under a hidden name: `recover` puts it back.

    Raises:
        UserError: the disk is full or the place may not be written.
    """
    path = Path(path)
    partial, previous = _partial(path), path.with_name(f".{path.name}.previous-{os.getpid()}")
    try:
        with writing(path):
            _prepare(path)
            partial.mkdir()
            yield partial
            for found in [*partial.rglob("*"), partial]:
                _sync(found)
            if path.exists():
                os.rename(path, previous)
            os.rename(partial, path)
            _sync(path.parent)
    finally:
        if path.exists():
            shutil.rmtree(previous, ignore_errors=True)
        elif previous.exists():
            with suppress(OSError):
                os.rename(previous, path)
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Turn what the system refuses while ``path`` is being written into a message that a user can act on.

    Raises:
        UserError: full disk, no permission, or a name that cannot hold a file. Errors that are not about writing pass unchanged.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        message = _refusal(error, Path(path))
        if message is None:
            raise
        raise UserError(message, where=str(path)) from error


def recover(folder: str | Path) -> list[Path]:
    """Clear what killed writers left in a folder and below; a previous version whose place is empty is put back.

    Call it only while no other process writes there.

    Returns:
        the paths that were put back.
    """
    restored = []
    for found in sorted(Path(folder).rglob(".*")):
        match = _LEFTOVER.match(found.name)
        if not match:
            continue
        place = found.with_name(match["name"])
        with writing(found):
            if match["kind"] == "previous" and not place.exists():
                os.rename(found, place)
                restored.append(place)
            elif found.is_dir():
                shutil.rmtree(found)
            else:
                found.unlink(missing_ok=True)
    return restored


def is_leftover(name: str) -> bool:
    """Whether a file name is that of an unfinished write."""
    return bool(_LEFTOVER.match(name))


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.partial-{os.getpid()}")


def _prepare(path: Path) -> None:
    """Make the parent folder and clear what dead writers of this very path left."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for found in path.parent.glob(f".{_escape(path.name)}.*-*"):
        match = _LEFTOVER.match(found.name)
        if not match or match["name"] != path.name or _alive_elsewhere(int(match["pid"])):
            continue
        if match["kind"] == "previous" and not path.exists():
            os.rename(found, path)
        elif found.is_dir():
            shutil.rmtree(found)
        else:
            found.unlink(missing_ok=True)


def _escape(name: str) -> str:
    return re.sub(r"([*?[])", r"[\1]", name)


def _alive_elsewhere(pid: int) -> bool:
    if pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _refusal(error: Exception, path: Path) -> str | None:
    code = error.errno if isinstance(error, OSError) else None
    # Writers in compiled code (safetensors, pyarrow) report the system's error as text.
    if code in _FULL or "No space left on device" in str(error):
        return "no space left on the disk; nothing was replaced. Free some space and repeat the command (a run continues with --resume)."
    if not isinstance(error, OSError) or not _about(error, path):
        return None
    if code in _FORBIDDEN:
        return f"may not be written ({os.strerror(code)}). Choose another place or change its permissions."
    return f"cannot be written ({error.strerror or error}). Choose another place."


def _about(error: OSError, path: Path) -> bool:
    """Whether the error names no file, or one on the way to ``path``; an error about reading another file is not ours."""
    if error.filename is None:
        return True
    named = Path(os.fsdecode(error.filename)) if isinstance(error.filename, str | bytes) else None
    return named is not None and (
        named.parent in (path.parent, *path.parent.parents) or _partial(path) in named.parents or named in path.parents
    )
