"""A program of its own, on the standard library alone: builds the confinement that `trueup.rewards.confined` describes, then runs the code.

Reads one JSON object from standard input. Anything that goes wrong before the code starts ends with status 125 and a reason on standard
error; from then on status and output are the code's. It never runs the code with part of the confinement missing.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys
from typing import Any

NOT_CONFINED = 125
NEW_NAMESPACES = 0x00020000 | 0x40000000 | 0x20000000 | 0x08000000 | 0x04000000  # mount, network, process, IPC, host name
READ_ONLY, NO_SUID, NO_DEVICES, NO_EXEC, REMOUNT, BIND, RECURSIVE, PRIVATE = 1, 2, 4, 8, 32, 4096, 16384, 1 << 18
DEATH_SIGNAL, NO_NEW_PRIVILEGES = 1, 38
DEVICES = ("null", "zero", "urandom")

_libc = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    """Confine, run, and end as the code ended."""
    told = json.loads(sys.stdin.buffer.read())
    try:
        _with_parent()
        _call("unshare", NEW_NAMESPACES)
        inside = os.fork()
        if inside:
            _end_like(os.waitpid(inside, 0)[1])
        _with_parent()
        _new_root(told)
        code = os.fork()
        if code:  # the first process of the namespace: when it ends, the kernel ends all others
            while True:
                ended, status = os.wait()
                if ended == code:
                    _end_like(status)
        _drop(told)
        os.dup2(1, 2)
    except Exception as error:
        sys.stderr.write(f"{type(error).__name__}: {error}")
        sys.stderr.flush()
        os._exit(NOT_CONFINED)
    os.execve(told["python"], [told["python"], "-I", "main.py"], {"PATH": "/usr/bin:/bin", "HOME": "/tmp", "LANG": "C.UTF-8"})


def _call(name: str, *arguments: Any) -> None:
    if getattr(_libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name} was refused: {os.strerror(number)}")


def _with_parent() -> None:
    """Be killed when the parent dies."""
    _call("prctl", DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)


def _end_like(status: int) -> None:
    code = os.waitstatus_to_exitcode(status)
    os._exit(code if code >= 0 else 128 - code)


def _mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    _call("mount", source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), data.encode())


def _new_root(told: dict[str, Any]) -> None:
    """A file system of its own: the interpreter and system libraries read-only, a small /tmp in memory, and nothing else."""
    root = told["root"]
    _mount("none", "/", "", RECURSIVE | PRIVATE)
    _mount("root", root, "tmpfs", NO_SUID | NO_DEVICES, "size=1m,mode=755")
    for path in told["readable"]:
        _show(path, root)
    os.makedirs(f"{root}/dev")
    for name in DEVICES:
        os.close(os.open(f"{root}/dev/{name}", os.O_CREAT | os.O_WRONLY))
        _mount(f"/dev/{name}", f"{root}/dev/{name}", "", BIND)
    os.makedirs(f"{root}/proc")
    _mount("proc", f"{root}/proc", "proc", NO_SUID | NO_DEVICES | NO_EXEC)
    os.makedirs(f"{root}/tmp")
    _mount("tmp", f"{root}/tmp", "tmpfs", NO_SUID | NO_DEVICES, f"size={told['file_bytes']},nr_inodes=256,mode=1777")
    for name, text in told["files"].items():
        with open(f"{root}/tmp/{name}", "w", encoding="utf-8") as file:
            file.write(text)
    _mount("root", root, "", REMOUNT | READ_ONLY | NO_SUID | NO_DEVICES)
    os.chroot(root)
    os.chdir("/tmp")


def _show(path: str, root: str) -> None:
    """The same path inside, read-only; a link stays a link."""
    if not os.path.lexists(path):
        return
    inside = root + path
    if os.path.lexists(inside):
        return
    os.makedirs(os.path.dirname(inside), exist_ok=True)
    if os.path.islink(path):
        os.symlink(os.readlink(path), inside)
        return
    os.makedirs(inside)
    _mount(path, inside, "", BIND)
    _mount(path, inside, "", BIND | REMOUNT | READ_ONLY | NO_SUID | NO_DEVICES)


def _drop(told: dict[str, Any]) -> None:
    """Limits, then an unprivileged user of its own, for good."""
    for name, value in (
        ("CPU", told["cpu_s"]), ("AS", told["memory_bytes"]), ("NPROC", told["processes"]), ("FSIZE", told["file_bytes"]),
        ("NOFILE", 64), ("CORE", 0),
    ):  # fmt: skip
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (value, value))
    os.setgroups([])
    os.setresgid(told["user"], told["user"], told["user"])
    os.setresuid(told["user"], told["user"], told["user"])
    _call("prctl", NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    null = os.open("/dev/null", os.O_RDONLY)
    os.dup2(null, 0)
    os.closerange(3, 64)
    if os.getuid() == 0 or os.geteuid() == 0:
        raise PermissionError("still root")


if __name__ == "__main__":
    main()
