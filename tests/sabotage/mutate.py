"""Mutation testing of ops, optimizers and stats with mutmut: do the tests notice small changes that nobody chose?

    python tests/sabotage/mutate.py [--sample N] [--seed S] [--only TEXT] [--bar SHARE] [--json FILE]

mutmut makes every mutant of every function and runs, for each, the tests that reach that function. A random sample of them is tested,
since all take an hour; ``--sample 0`` tests all. A mutant that changes nothing one could observe is listed with its reason in
equivalents.py and not counted. Works on a copy in a temporary folder; the working tree is only read.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from equivalents import reason

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("ops", "optimizers", "stats")
TESTS = ("tests/by_hand", "tests/oracle/test_stats_estimators.py", "tests/oracle/test_policy_gradients.py", "tests/contract")
KILLED, TIMEOUT = {1, 3, -11, -9}, {36, 24, -24, 152, 255}
"""mutmut's exit codes; 0 survived, 5 and 33 no test reached it."""
SETTINGS = """
[tool.mutmut]
source_paths = ["src"]
only_mutate = [{sources}]
pytest_add_cli_args_test_selection = [{tests}]
also_copy = ["src", "tests", "configs"]
track_dependencies = false
"""
FIRST = "trueup.ops.kl.x_kl_k2__mutmut_1"
"""Any mutant: asking for one makes mutmut write all and find out which tests reach what."""
DIFFS = """
import json, sys
from mutmut.mutation.diff_apply import get_diff_for_mutant
print(json.dumps({name: get_diff_for_mutant(name) for name in sys.argv[1:]}))
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sample", type=int, default=300, metavar="N", help="mutants tested; 0 for all")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of the sample")
    parser.add_argument("--only", default="", metavar="TEXT", help="only mutants whose name holds this, such as stats.rank")
    parser.add_argument("--bar", type=float, default=0.85, metavar="SHARE", help="least share that must be killed")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the outcome of every mutant")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="mutate-") as folder:
        work = Path(folder).resolve()
        prepare(work)
        mutmut(work, FIRST)
        names = sorted(n for n in outcomes(work) if options.only in n)
        size = min(options.sample or len(names), len(names))
        chosen = sorted(random.Random(options.seed).sample(names, size))
        print(f"{len(names)} mutants, {len(chosen)} tested (seed {options.seed})", flush=True)
        mutmut(work, *chosen)
        found = {n: code for n, code in outcomes(work).items() if n in set(chosen)}
        left = sorted(n for n, code in found.items() if code not in KILLED | TIMEOUT)
        changed = diffs(work, left)
    return verdict(found, left, changed, options.bar, options.json)


def prepare(work: Path) -> None:
    """A copy of the project with mutmut's settings."""
    for part in ("src", "tests", "configs"):
        shutil.copytree(ROOT / part, work / part, ignore=shutil.ignore_patterns("*.egg-info", "__pycache__", ".hypothesis"))
    sources = ", ".join(f'"src/trueup/{p}/*.py"' for p in PACKAGES)
    tests = ", ".join(f'"{t}"' for t in TESTS)
    settings = (ROOT / "pyproject.toml").read_text(encoding="utf-8") + SETTINGS.format(sources=sources, tests=tests)
    (work / "pyproject.toml").write_text(settings, encoding="utf-8")


def mutmut(work: Path, *names: str) -> None:
    """Test these mutants, one at a time; stops the command where the unbroken code fails."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONPATH": str(work)}
    command = [sys.executable, "-m", "mutmut", "run", "--max-children", "1", *names]
    with open(work / "mutmut.out", "w+", encoding="utf-8") as out:
        status = subprocess.run(command, cwd=work, env=environment, stdout=out, stderr=subprocess.STDOUT, check=False).returncode
        out.seek(0)
        said = out.read()
    if status:
        sys.exit(f"mutmut ended with {status}; its last words:\n{said[-3000:]}")


def outcomes(work: Path) -> dict[str, int | None]:
    """mutmut's exit code of every mutant; None where it was not tested."""
    found: dict[str, int | None] = {}
    for path in (work / "mutants" / "src").rglob("*.py.meta"):
        found |= json.loads(path.read_text(encoding="utf-8"))["exit_code_by_key"]
    return found


def diffs(work: Path, names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """The line before and the line after of each mutant, without leading blanks."""
    if not names:
        return {}
    said = subprocess.run([sys.executable, "-c", DIFFS, *names], cwd=work, capture_output=True, text=True, check=True).stdout
    found = {}
    for name, text in json.loads(said.strip().splitlines()[-1]).items():
        lines = [x for x in text.splitlines() if not x.startswith(("---", "+++"))]
        sides = ["\n".join(x[1:].strip() for x in lines if x.startswith(sign)) for sign in "-+"]
        found[name] = (sides[0], sides[1])
    return found


def verdict(
    found: Mapping[str, int | None], left: Sequence[str], changed: Mapping[str, tuple[str, str]], bar: float, to: Path | None
) -> int:
    """Print what was left alive and the share that was killed; the command's exit status."""
    excused = {name: why for name in left if (why := reason(function_of(name), *changed[name]))}
    survived = [n for n in left if n not in excused]
    for name in survived:
        before, after = changed[name]
        said = "no test reaches it" if found[name] in (5, 33) else "survived"
        print(f"{said}: {name}\n  - {before}\n  + {after}")
    timeouts = sum(code in TIMEOUT for code in found.values())
    counted = len(found) - len(excused)
    killed = counted - len(survived)
    share = killed / counted if counted else 0.0
    if to is not None:
        rows = [{"name": n, "exit_code": c, "equivalent": excused.get(n)} for n, c in sorted(found.items())]
        to.write_text(json.dumps({"killed": killed, "counted": counted, "share": share, "mutants": rows}, indent=1), encoding="utf-8")
    print(f"{len(excused)} equivalent mutants not counted; {timeouts} of the killed ran past their time")
    print(f"{killed} of {counted} mutants killed: {share:.1%} (the bar is {bar:.0%})")
    return 0 if share >= bar else 1


def function_of(mutant: str) -> str:
    """``trueup.stats.rank.x_pearson__mutmut_3`` and ``trueup.stats.curves.xǁLawǁgain__mutmut_1`` become ``stats.rank.pearson``, ``….Law.gain``."""
    module, _, name = mutant.removeprefix("trueup.").rpartition(".")
    name = name.rsplit("__mutmut_", 1)[0]
    return f"{module}.{name.removeprefix('xǁ').replace('ǁ', '.') if name.startswith('xǁ') else name.removeprefix('x_')}"


if __name__ == "__main__":
    sys.exit(main())
