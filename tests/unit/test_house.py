"""Rules of the house that no other tool keeps: sizes, names, docstrings, numbers, what the repository must not hold."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from jaxtyping import TypeCheckError

from trueup.ops.masking import sequence_sum

ROOT = Path(__file__).resolve().parents[2]
SRC = ROOT / "src" / "trueup"
SOURCES = sorted(SRC.rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
CODE = [*SOURCES, *TESTS, *sorted(p for folder in ("benchmarks", "studies", "docs") for p in (ROOT / folder).rglob("*.py"))]
LONGEST_FUNCTION, LONGEST_FILE, LOOSEST = 60, 300, 1e-2


def place(path: Path, node: ast.AST | None = None) -> str:
    """``src/trueup/api.py:12`` for messages."""
    return f"{path.relative_to(ROOT)}" + (f":{node.lineno}" if node is not None and hasattr(node, "lineno") else "")


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function without its docstring, which may say as much as it needs."""
    first = function.body[0]
    said = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)
    return (function.end_lineno or 0) - function.lineno + 1 - ((first.end_lineno or 0) - first.lineno + 1 if said else 0)


def test_functions_and_files_are_short() -> None:
    long = [f"{place(p)} has {n} lines" for p in SOURCES if (n := len(p.read_text(encoding="utf-8").splitlines())) > LONGEST_FILE]
    long += [
        f"{place(p, f)} {f.name} has {body_lines(f)} lines"
        for p in SOURCES
        for f in functions(parsed(p))
        if body_lines(f) > LONGEST_FUNCTION
    ]
    assert not long, "\n".join(long)


def test_no_file_of_leftovers() -> None:
    bad = [
        place(p) for p in SOURCES if {p.stem, *(part for part in p.relative_to(SRC).parts)} & {"utils", "util", "helpers", "common", "misc"}
    ]
    assert not bad, bad


def tracked() -> list[Path]:
    """Files that git knows or would add; all files beside caches where this is no clone."""
    try:
        command = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        names = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\0")
    except (OSError, subprocess.CalledProcessError):
        names = [str(p.relative_to(ROOT)) for p in CODE]
    return [ROOT / n for n in names if n and (ROOT / n).is_file()]


# Spelled in two parts, so that this file does not hold what it forbids.
UNFINISHED = re.compile("|".join(rf"\b{a}{b}\b" for a, b in (("TO", "DO"), ("FIX", "ME"), ("X", "XX"), ("HA", "CK"), ("place", "holder"))))
MACHINE = re.compile("|".join(("/" + "work/", "/" + "home/[a-z]", "/" + "root/", r"file:" + "///", "/" + "opt/")))
TEXTS = (".py", ".md", ".toml", ".yaml", ".yml", ".txt", ".html", ".css", ".js", ".json", "", ".cfg")


def test_nothing_is_unfinished_and_no_machine_is_named() -> None:
    found = []
    for path in tracked():
        if path.suffix not in TEXTS or path.name == "LICENSE":
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            found += [f"{place(path)}:{number}: {m.group()}" for m in (UNFINISHED.search(line), MACHINE.search(line)) if m]
    assert not found, "\n".join(found)


def empty_body(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Nothing but ``pass``, ``...`` or NotImplementedError."""
    rest = [
        s for s in function.body if not (isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant) and isinstance(s.value.value, str))
    ]
    if len(rest) != 1:
        return False
    only = rest[0]
    return (
        isinstance(only, ast.Pass)
        or (isinstance(only, ast.Expr) and isinstance(only.value, ast.Constant) and only.value.value is Ellipsis)
        or (isinstance(only, ast.Raise) and "NotImplementedError" in ast.unparse(only))
    )


def test_no_stub_outside_protocols() -> None:
    stubs = []
    for path in SOURCES:
        tree = parsed(path)
        protocol = {
            id(f)
            for c in ast.walk(tree)
            if isinstance(c, ast.ClassDef) and any("Protocol" in ast.unparse(b) for b in c.bases)
            for f in functions(c)
        }
        stubs += [f"{place(path, f)} {f.name}" for f in functions(tree) if id(f) not in protocol and empty_body(f)]
    assert not stubs, stubs


def test_everything_public_has_a_docstring() -> None:
    missing = []
    for path in SOURCES:
        tree = parsed(path)
        if ast.get_docstring(tree) is None:
            missing.append(place(path))
        owners: list[ast.Module | ast.ClassDef] = [
            tree,
            *(c for c in tree.body if isinstance(c, ast.ClassDef) and not c.name.startswith("_")),
        ]
        for owner in owners:
            for node in owner.body:
                named = isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
                if named and not node.name.startswith("_") and ast.get_docstring(node) is None and not _setter(node):
                    missing.append(f"{place(path, node)} {node.name}")
    assert not missing, "\n".join(missing)


def _setter(node: ast.AST) -> bool:
    """Setters and overloads are documented where the name is first defined."""
    marks = [ast.unparse(d) for d in getattr(node, "decorator_list", [])]
    return any(m.endswith(".setter") or m in ("overload", "typing.overload") for m in marks)


def loose(path: Path) -> Iterator[str]:
    """Tolerances above the bound: ``abs=``, ``rel=``, ``atol=``, ``rtol=``, ``tol=``, ``delta=`` of any call."""
    for call in (n for n in ast.walk(parsed(path)) if isinstance(n, ast.Call)):
        for word in call.keywords:
            if word.arg in ("abs", "rel", "atol", "rtol", "tol", "delta") and isinstance(word.value, ast.Constant):
                value = word.value.value
                if isinstance(value, int | float) and not isinstance(value, bool) and value > LOOSEST:
                    yield f"{place(path, call)} {word.arg}={value}"


def test_no_loose_tolerance() -> None:
    found = [line for path in TESTS for line in loose(path)]
    assert not found, "\n".join(found)


DRAWS = {f"torch.{f}" for f in ("rand", "randn", "randint", "randperm", "rand_like", "randn_like", "bernoulli", "multinomial", "normal")}


def test_random_numbers_come_from_keys_only() -> None:
    """Global generators are history: only `core.rng` makes numpy generators, and torch's are seeded from a key."""
    found = []
    for path in SOURCES:
        for call in (n for n in ast.walk(parsed(path)) if isinstance(n, ast.Call)):
            name, said = ast.unparse(call.func), ast.unparse(call)
            if name.endswith("manual_seed") and ".integer()" not in said:
                found.append(f"{place(path, call)} {said}")
            if name in DRAWS and "generator=" not in said:
                found.append(f"{place(path, call)} {said}")
            if name.startswith(("random.", "np.random.", "numpy.random.")) and path != SRC / "core" / "rng.py":
                found.append(f"{place(path, call)} {said}")
    assert not found, "\n".join(found)


def test_the_rules_can_fail(tmp_path: Path) -> None:
    bad = tmp_path / "bad.py"
    bad.write_text("def f():\n" + "    x = 1\n" * 61 + "assert f() == approx(1, rel=0.05)\ndef g():\n    ...\n")
    tree = parsed(bad)
    assert [body_lines(f) for f in functions(tree)] == [62, 2]
    assert [empty_body(f) for f in functions(tree)] == [False, True]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules[__name__], "ROOT", tmp_path)
        assert list(loose(bad)) == ["bad.py:63 rel=0.05"]
    assert UNFINISHED.search("# TO" + "DO later")
    assert MACHINE.search("see /" + "work/main/x")


def test_licence_is_the_plain_text() -> None:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Version 2.0, January 2004" in text
    assert "Copyright [yyyy] [name of copyright owner]" in text


def test_constraints_pin_what_is_declared() -> None:
    """Exact versions, no address and no path, and every declared requirement (its extras' too) among them."""
    import tomllib

    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").split("\n")
    pinned = {}
    for line in (text for text in lines if text):
        match = re.fullmatch(r"([A-Za-z0-9_.-]+)==([0-9][0-9A-Za-z.]*)", line)
        assert match, line
        pinned[re.sub(r"[-_.]+", "-", match[1]).lower()] = match[2]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [
        *project["dependencies"],
        *(r for extra in ("offline", "embeddings", "stories", "dev") for r in project["optional-dependencies"][extra]),
    ]
    names = {re.sub(r"[-_.]+", "-", re.split(r"[\[<>=!~ ]", r)[0]).lower() for r in wanted} - {"trueup"}
    assert names <= set(pinned), sorted(names - set(pinned))


def test_shapes_in_signatures_are_checked_under_pytest() -> None:
    # by torch's rules this would broadcast, and the sum would be wrong without a word
    with pytest.raises(TypeCheckError):
        sequence_sum(torch.zeros(2, 3), torch.ones(2, 1, dtype=torch.bool))
