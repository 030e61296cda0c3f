"""Break the code in one known way at a time: the named tests must fail.

    python tests/sabotage/run.py [--only NAME]... [--jobs N]

Works on copies in a temporary folder; the working tree is only read. A breakage counts as caught only if a test *fails*: one that
keeps tests from being collected, or makes them hang, is an error of the breakage. The unbroken code is tested first. Libraries are
imported once and every breakage is tested in a fork.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
sys.path.insert(0, str(Path(__file__).resolve().parent))

import pytest
from breakages import BREAKAGES, Breakage

ROOT = Path(__file__).resolve().parents[2]
COPIED = ("src", "tests", "configs", "docs", "pyproject.toml")
LIBRARIES = ("torch", "transformers.models.llama.modeling_llama", "accelerate", "peft", "pandas", "pyarrow.parquet", "scipy.stats")
SECONDS = 300
"""Longest run of the tests of one breakage."""


class Outcome(NamedTuple):
    """What the tests said to one breakage."""

    name: str
    status: int
    """pytest's: 0 nothing failed, 1 a test failed, else something is wrong with the breakage."""
    by: str
    """The first test that failed, or what went wrong."""
    seconds: float

    @property
    def caught(self) -> bool:
        """A test failed."""
        return self.status == 1


class Witness:
    """A pytest plugin that remembers the first failure."""

    def __init__(self) -> None:
        self.first = ""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Called by pytest for each phase of each test."""
        if report.failed and not self.first:
            self.first = report.nodeid

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Called by pytest for each file."""
        if report.failed and not self.first:
            self.first = f"{report.nodeid} could not be collected"


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
    for name in LIBRARIES:
        import_module(name)
    nothing = Breakage("(nothing broken)", "", "", "", tuple(sorted({t for b in chosen for t in b.tests})))
    with multiprocessing.get_context("fork").Pool(options.jobs, maxtasksperchild=1) as pool:
        whole = pool.apply(tested, (nothing,))
        if whole.status != 0:
            print(f"the tests do not pass on the unbroken code: {whole.by}\n0 passed, {len(chosen)} failed")
            return 1
        print(f"{whole.name}: all tests pass, {whole.seconds:.0f} s", flush=True)
        found = []
        for one in pool.imap(tested, chosen, chunksize=1):
            found.append(one)
            print(f"{'caught  ' if one.caught else 'SURVIVED'} {one.name:<38} {one.seconds:6.1f} s  {one.by}", flush=True)
    survived = sum(not one.caught for one in found)
    print(f"{len(found) - survived} passed, {survived} failed")
    return 1 if survived else 0


def misplaced(breakage: Breakage) -> str | None:
    """Why a breakage cannot be applied: its text must occur exactly once, its tests must be there."""
    path = ROOT / breakage.file
    times = path.read_text(encoding="utf-8").count(breakage.old) if path.is_file() else 0
    if times != 1:
        return f"{breakage.name}: the text to break occurs {times} times in {breakage.file}, not once"
    missing = [t for t in breakage.tests if not (ROOT / t.split("::")[0]).exists()]
    return f"{breakage.name}: no such tests: {', '.join(missing)}" if missing or not breakage.tests else None


def tested(breakage: Breakage) -> Outcome:
    """Apply one breakage to a copy and run its tests there; called in a process of its own."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="sabotage-") as folder:
        copy = Path(folder).resolve()
        for part in COPIED:
            _copy(ROOT / part, copy / part)
        if breakage.file:
            path = copy / breakage.file
            path.write_text(path.read_text(encoding="utf-8").replace(breakage.old, breakage.new), encoding="utf-8")
        status, by = _pytest(copy, breakage.tests, SECONDS if breakage.file else 10 * SECONDS)
        os.chdir(ROOT)
    return Outcome(breakage.name, status, by, time.monotonic() - began)


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("*.egg-info", ".hypothesis", "__pycache__"))
    elif source.exists():
        shutil.copy2(source, target)


def _pytest(copy: Path, tests: Iterable[str], seconds: int) -> tuple[int, str]:
    """pytest's status on the copy's own source, and the first failure."""
    os.chdir(copy)
    os.environ["PYTHONPATH"] = str(copy / "src")
    sys.dont_write_bytecode = True
    sys.path[:0] = [str(copy / "src"), str(copy)]
    out = os.open(copy / "pytest.out", os.O_WRONLY | os.O_CREAT)
    os.dup2(out, 1), os.dup2(out, 2)

    def give_up(*_: Any) -> None:
        pytest.exit(f"no end within {seconds} s", returncode=9)

    signal.signal(signal.SIGALRM, give_up)
    signal.alarm(seconds)
    witness = Witness()
    # libraries are imported before pytest could rewrite the asserts of those that are its plugins too
    quiet = ["-x", "-q", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
    status = int(pytest.main([*quiet, *tests], plugins=[witness]))
    signal.alarm(0)
    package = sys.modules.get("trueup")
    if package is not None and not str(package.__file__).startswith(str(copy)):
        return 9, f"tested {package.__file__} instead of the copy"
    if status == 0:
        return 0, "nothing failed"
    last = (copy / "pytest.out").read_text(encoding="utf-8", errors="replace")[-1500:] if not witness.first else ""
    return status, witness.first or f"pytest ended with {status}: {last}"


if __name__ == "__main__":
    sys.exit(main())
