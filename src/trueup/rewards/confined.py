"""Generated code, run where it can do no harm.

Every run has an unprivileged user of its own, network, process, mount and IPC namespaces of its own (so no network, not even loopback),
a file system that shows the interpreter and system libraries read-only and a small /tmp in memory, and limits on processor time, wall
time, memory, processes, file size and output. When a run ends or is stopped, all its processes are killed with it.

Linux, as root (in a container, say): only root may take another user, and limits on processes do not hold for root itself. Anywhere else
code is refused, never run unconfined.
"""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from trueup.core.errors import UserError

CHILD = Path(__file__).with_name("confined_child.py")
NOT_CONFINED = 125
SYSTEM = ("/usr", "/bin", "/lib", "/lib64", "/lib32", "/sbin")
FIRST_USER = 1_700_000_000
"""Users of runs are numbered from here by process: no account of a real system lies there, and no two runs share a limit."""
Ending = Literal["passed", "failed", "wall time", "output", "killed"]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a run may use."""

    cpu_s: int = 5
    """Processor seconds of each process."""
    wall_s: float = 10.0
    """Seconds until everything is killed."""
    memory_bytes: int = 512 << 20
    """Address space of each process."""
    processes: int = 8
    """Processes and threads at one time; memory of all is at most this many times ``memory_bytes``."""
    file_bytes: int = 8 << 20
    """Size of /tmp, and of any file."""
    output_bytes: int = 64 << 10
    """Output that is read; a run that writes more is stopped."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a run ended."""

    ending: Ending
    """``passed`` is exit status 0; ``killed`` by a signal, such as for too much processor time."""
    status: int | None
    """Exit status; 128 + n for signal n; None where it was stopped."""
    output: str
    """Standard output and error, at most ``output_bytes``; bytes that are no UTF-8 are replaced."""
    seconds: float


def unavailable() -> str | None:
    """Why code cannot be confined on this machine; None where it can."""
    if sys.platform != "linux":
        return f"it needs Linux, this is {sys.platform}"
    if os.geteuid() != 0:
        return "it needs root (a container's root will do), to give the code an unprivileged user and namespaces of its own"
    return _tried()


def run_confined(files: Mapping[str, str], limits: Limits | None = None) -> Outcome:
    """Run ``main.py`` of some files in confinement.

    Args:
        files: name -> text; they lie in the working folder.
        limits: what the run may use.

    Raises:
        UserError: this machine offers no confinement; nothing was run.
    """
    reason = unavailable()
    if reason is not None:
        raise UserError(f"generated code is not run here: {reason}. It is never run unconfined.", where="confinement")
    outcome, complaint = _run(files, limits or Limits())
    if outcome.status == NOT_CONFINED and complaint:
        raise UserError(f"generated code was not run: {complaint}. It is never run unconfined.", where="confinement")
    return outcome


@cache
def _tried() -> str | None:
    outcome, complaint = _run({"main.py": "print('confined')"}, Limits())
    if outcome.ending == "passed" and outcome.output.strip() == "confined":
        return None
    return complaint or outcome.output.strip() or f"a trial run ended with status {outcome.status}"


def _run(files: Mapping[str, str], limits: Limits) -> tuple[Outcome, str]:
    python = os.path.realpath(sys.executable)
    with tempfile.TemporaryDirectory(prefix="trueup-confined-") as root:
        told = {
            "root": root,
            "python": python,
            "readable": [*SYSTEM, os.path.realpath(sys.base_prefix), os.path.dirname(python)],
            "files": dict(files),
            "user": FIRST_USER + os.getpid() % 1_000_000 * 100 + time.monotonic_ns() % 100,
            "cpu_s": limits.cpu_s,
            "memory_bytes": limits.memory_bytes,
            "processes": limits.processes,
            "file_bytes": limits.file_bytes,
        }
        began = time.monotonic()
        with subprocess.Popen(
            [python, "-I", "-S", str(CHILD)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={}, cwd="/", start_new_session=True,
        ) as child:  # fmt: skip
            assert child.stdin is not None
            child.stdin.write(json.dumps(told).encode())
            child.stdin.close()
            output, complaint, stopped = _read(child, began + limits.wall_s, limits.output_bytes)
            if stopped:
                child.kill()  # the namespace's first process dies with it, and the kernel kills all others
        status = None if stopped else child.returncode
    text = output.decode("utf-8", "replace")
    ending: Ending = stopped or ("passed" if status == 0 else "killed" if status is not None and status > 128 else "failed")
    return Outcome(ending=ending, status=status, output=text, seconds=time.monotonic() - began), complaint.decode("utf-8", "replace")


def _read(child: subprocess.Popen[bytes], deadline: float, most: int) -> tuple[bytes, bytes, Ending | None]:
    """Both streams until they end, the deadline passes, or there is too much."""
    parts: dict[str, bytes] = {"out": b"", "err": b""}
    with selectors.DefaultSelector() as ready:
        for name, stream in (("out", child.stdout), ("err", child.stderr)):
            assert stream is not None
            ready.register(stream, selectors.EVENT_READ, name)
        while ready.get_map():
            left = deadline - time.monotonic()
            events = ready.select(max(left, 0))
            if not events:
                return parts["out"], parts["err"], "wall time"
            for key, _ in events:
                found = os.read(key.fd, 1 << 16)
                if not found:
                    ready.unregister(key.fileobj)
                parts[key.data] += found[: most + 1 - len(parts[key.data])]
                if len(parts[key.data]) > most:
                    return parts["out"][:most], parts["err"][:most], "output"
    try:
        child.wait(max(deadline - time.monotonic(), 0.05))
    except subprocess.TimeoutExpired:  # it closed its output and went on
        return parts["out"], parts["err"], "wall time"
    return parts["out"], parts["err"], None
