"""Writes are whole or absent: also when killed, on a full disk, without permission."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from trueup.core.errors import UserError
from trueup.store.atomic import atomic_folder, atomic_path, is_leftover, recover, write_bytes, write_text, writing


def names(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


def killed_inside(code: str, folder: Path) -> None:
    """Run code that kills itself with SIGKILL in a process of its own."""
    head = "import os, signal, sys\nfrom pathlib import Path\nfrom trueup.store.atomic import *\nfolder = Path(sys.argv[1])\n"
    script = head + textwrap.dedent(code)
    done = subprocess.run([sys.executable, "-c", script, str(folder)], capture_output=True, text=True, timeout=60)
    assert done.returncode == -signal.SIGKILL, done.stderr


def test_writes_and_replaces_and_makes_parents(tmp_path: Path) -> None:
    write_text(tmp_path / "a" / "b.txt", "one ü")
    write_bytes(tmp_path / "a" / "b.txt", b"two")
    assert (tmp_path / "a" / "b.txt").read_bytes() == b"two"
    assert names(tmp_path) == ["a", "a/b.txt"]


def test_an_error_inside_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    write_text(tmp_path / "x", "old")
    with pytest.raises(ZeroDivisionError), atomic_path(tmp_path / "x") as partial:
        partial.write_text(f"ne{1 // 0}")
    assert (tmp_path / "x").read_text() == "old"
    assert names(tmp_path) == ["x"]


def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    for text, extra in (("1", "old-only"), ("2", "new-only")):
        with atomic_folder(tmp_path / "c") as new:
            (new / "sub").mkdir()
            (new / "sub" / "w").write_text(text)
            (new / extra).write_text("")
    assert names(tmp_path) == ["c", "c/new-only", "c/sub", "c/sub/w"]
    assert (tmp_path / "c" / "sub" / "w").read_text() == "2"


def test_an_error_inside_keeps_the_old_folder(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "c") as new:
        (new / "w").write_text("old")
    with pytest.raises(NotADirectoryError), atomic_folder(tmp_path / "c") as new:
        (new / "w").write_text("new") and os.listdir(__file__)
    assert (tmp_path / "c" / "w").read_text() == "old"
    assert names(tmp_path) == ["c", "c/w"]


def test_killed_while_filling_a_folder(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "c") as new:
        (new / "w").write_text("old")
    killed_inside(
        """
        with atomic_folder(folder / "c") as new:
            (new / "w").write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
        """,
        tmp_path,
    )
    assert (tmp_path / "c" / "w").read_text() == "old"
    assert any(is_leftover(n) for n in names(tmp_path))
    with atomic_folder(tmp_path / "c") as new:
        (new / "w").write_text("new")
    assert names(tmp_path) == ["c", "c/w"]  # the next writer cleared what the dead one left
    assert (tmp_path / "c" / "w").read_text() == "new"


@pytest.mark.parametrize("renames", [1, 2])
def test_killed_between_the_renames_of_a_folder(tmp_path: Path, renames: int) -> None:
    with atomic_folder(tmp_path / "c") as new:
        (new / "w").write_text("old")
    killed_inside(
        f"""
        real, done = os.rename, []
        def rename(a, b):
            real(a, b)
            done.append(a)
            if len(done) == {renames}:
                os.kill(os.getpid(), signal.SIGKILL)
        os.rename = rename
        with atomic_folder(folder / "c") as new:
            (new / "w").write_text("new")
        """,
        tmp_path,
    )
    restored = recover(tmp_path)
    assert names(tmp_path) == ["c", "c/w"]
    # After the first rename the old folder was aside and the new one not in place: the old one comes back.
    assert (tmp_path / "c" / "w").read_text() == ("old" if renames == 1 else "new")
    assert restored == ([tmp_path / "c"] if renames == 1 else [])


def test_killed_while_writing_a_file(tmp_path: Path) -> None:
    write_text(tmp_path / "f", "old")
    killed_inside(
        """
        with atomic_path(folder / "f") as partial:
            partial.write_text("ha")
            os.kill(os.getpid(), signal.SIGKILL)
        """,
        tmp_path,
    )
    assert (tmp_path / "f").read_text() == "old"
    recover(tmp_path)
    assert names(tmp_path) == ["f"]


def test_a_living_writer_is_left_alone(tmp_path: Path) -> None:
    theirs = tmp_path / f".f.partial-{os.getppid()}"
    theirs.write_text("still being written")
    write_text(tmp_path / "f", "mine")
    assert theirs.exists()


def test_names_with_pattern_characters_do_not_clear_others(tmp_path: Path) -> None:
    dead = 2**22 + 1  # beyond the largest pid of Linux
    (tmp_path / f".ab.partial-{dead}").write_text("")
    (tmp_path / f".a[bc].partial-{dead}").write_text("")
    write_text(tmp_path / "a[bc]", "x")
    assert names(tmp_path) == [f".ab.partial-{dead}", "a[bc]"]


def test_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_text(tmp_path / "f", "old")

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="no space left") as found:
        write_text(tmp_path / "f", "new")
    assert found.value.where == str(tmp_path / "f")
    with pytest.raises(UserError, match="no space left"), atomic_folder(tmp_path / "c") as new:
        (new / "w").write_text("x")
    assert (tmp_path / "f").read_text() == "old"
    assert names(tmp_path) == ["f"]


def test_a_full_device_reported_by_compiled_code(tmp_path: Path) -> None:
    class SafetensorError(Exception):
        pass

    with pytest.raises(UserError, match="no space left"), writing(tmp_path / "m"):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


def test_no_place_for_a_file(tmp_path: Path) -> None:
    write_text(tmp_path / "f", "a file, not a folder")
    with pytest.raises(UserError, match="cannot be written") as found:
        write_text(tmp_path / "f" / "g", "x")
    assert found.value.where == str(tmp_path / "f" / "g")


def test_errors_about_reading_pass_unchanged(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "f"):
        Path("/nowhere/at/all").read_text()
    assert names(tmp_path) == []
