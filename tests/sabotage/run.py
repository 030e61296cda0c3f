"""Break the code in one known way at a time: the named tests must fail.

    python tests/sabotage/run.py [--only NAME]... [--jobs N]

Works on copies in a temporary folder; the working tree is only read. A breakage counts as caught only if tests *fail* (pytest's status
1): one that stops them from being collected, or that hangs, is an error of the breakage. The unbroken code is tested first.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent))

from breakages import BREAKAGES, Breakage

ROOT = Path(__file__).resolve().parents[2]
COPIED = ("src", "tests", "configs", "docs", "pyproject.toml")
SECONDS = 300
"""Longest run of the tests of one breakage."""


class Outcome(NamedTuple):
    """What the tests said to one breakage."""

    name: str
    caught: bool
    by: str
    """The first test that failed, or what went wrong."""
    seconds: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="only this breakage; may be repeated")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="breakages tested at one time")
    options = parser.parse_args(arguments)
    unknown = set(options.only) - {b.name for b in BREAKAGES}
    if unknown:
        parser.error(f"no breakage {', '.join(sorted(unknown))}; known: {', '.join(b.name for b in BREAKAGES)}")
    chosen = [b for b in BREAKAGES if not options.only or b.name in options.only]
    wrong = [problem for b in chosen if (problem := misplaced(b))]
    if wrong:
        print(*wrong, f"0 passed, {len(wrong)} failed", sep="\n")
        return 1
    whole = outcome("nothing broken", sorted({t for b in chosen for t in b.tests}), None, seconds=10 * SECONDS)
    if whole.by != "nothing failed":
        print(f"the tests do not pass on the unbroken code: {whole.by}\n0 passed, {len(chosen)} failed")
        return 1
    with ThreadPoolExecutor(options.jobs) as pool:
        found = list(pool.map(tested, chosen))
    survivors = [o for o in found if not o.caught]
    print(f"{len(found) - len(survivors)} passed, {len(survivors)} failed")
    return 1 if survivors else 0


def misplaced(breakage: Breakage) -> str | None:
    """Why a breakage cannot be applied: its text must occur exactly once, its tests must be there."""
    path = ROOT / breakage.file
    times = path.read_text(encoding="utf-8").count(breakage.old) if path.is_file() else 0
    if times != 1:
        return f"{breakage.name}: the text to break occurs {times} times in {breakage.file}, not once"
    missing = [t for t in breakage.tests if not (ROOT / t.split("::")[0]).exists()]
    return f"{breakage.name}: no such tests: {', '.join(missing)}" if missing or not breakage.tests else None


def tested(breakage: Breakage) -> Outcome:
    """Apply one breakage, run its tests, say so."""
    found = outcome(breakage.name, breakage.tests, breakage)
    print(f"{'caught  ' if found.caught else 'SURVIVED'} {found.name:<36} {found.seconds:6.1f} s  {found.by}", flush=True)
    return found


def outcome(name: str, tests: Iterable[str], breakage: Breakage | None, seconds: float = SECONDS) -> Outcome:
    """Run tests on a copy, broken or not."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="sabotage-") as folder:
        copy = Path(folder)
        for part in COPIED:
            _copy(ROOT / part, copy / part)
        if breakage is not None:
            path = copy / breakage.file
            path.write_text(path.read_text(encoding="utf-8").replace(breakage.old, breakage.new), encoding="utf-8")
        status, said = _pytest(copy, tests, seconds)
    failed = re.search(r"^(?:FAILED|ERROR) (\S+)", said, re.M)
    by = failed[1] if failed and status == 1 else "nothing failed" if status == 0 else f"pytest ended with {status}: {said.strip()[-300:]}"
    return Outcome(name, status == 1 and failed is not None, by, time.monotonic() - began)


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("*.egg-info", ".hypothesis"))
    elif source.exists():
        shutil.copy2(source, target)


def _pytest(copy: Path, tests: Iterable[str], seconds: float) -> tuple[int | str, str]:
    """Exit status and output of pytest on the copy's own source."""
    environment = {**os.environ, "PYTHONPATH": str(copy / "src"), "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--no-header", "-rfE", "--tb=line", *tests]
    try:
        done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        return "no answer", f"within {seconds:.0f} s"
    return done.returncode, done.stdout + done.stderr


if __name__ == "__main__":
    sys.exit(main())
