"""What importing does: every module imports, nothing light needs torch, and nothing touches the network."""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import trueup

MODULES = sorted(m.name for m in pkgutil.walk_packages(trueup.__path__, "trueup."))
HEAVY = ("torch", "transformers", "accelerate", "peft", "tokenizers", "safetensors")
LIGHT = {
    "records, statistics, store, diagnoses, report": "import pkgutil, importlib, trueup; trueup.audit\n"
    "for room in ('core', 'stats', 'store', 'mismatch', 'report'):\n"
    "    for m in pkgutil.walk_packages(importlib.import_module('trueup.' + room).__path__, f'trueup.{room}.'):\n"
    "        importlib.import_module(m.name)",
    "the command line": "from trueup.cli.main import invoke; invoke(['list', '--json']); invoke(['config', '--help'])",
}
HELP = "from trueup.cli.main import invoke; invoke(['--help'])"
LOADED = "\nimport sys, json; print(json.dumps(sorted({m.split('.')[0] for m in sys.modules})), file=sys.stderr)"
SOCKETS = """
import importlib, json, sys
seen = []
def watch(event, arguments):
    if event in ("socket.connect", "socket.bind", "socket.sendto", "socket.getaddrinfo", "socket.gethostbyname"):
        seen.append(event + " " + str(arguments[1:]))
sys.addaudithook(watch)
for name in json.loads(sys.argv[1]):
    importlib.import_module(name)
print(json.dumps(seen))
"""


def python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A fresh interpreter, as a user starts one: warnings are no errors there."""
    env = {k: v for k, v in os.environ.items() if k != "PYTHONWARNINGS"}
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=240, check=True, env=env)


@pytest.mark.parametrize("name", MODULES)
def test_every_module_imports(name: str) -> None:
    assert importlib.import_module(name).__name__ == name


def test_every_folder_of_modules_is_a_package() -> None:
    root = Path(trueup.__file__).parent
    folders = {p.parent for p in root.rglob("*.py")}
    assert not [str(f) for f in folders if not (f / "__init__.py").exists()]


@pytest.mark.parametrize("what", LIGHT)
def test_nothing_light_imports_torch(what: str) -> None:
    loaded = json.loads(python(LIGHT[what] + LOADED).stderr.splitlines()[-1])
    assert "trueup" in loaded
    assert not set(loaded) & set(HEAVY)


def test_the_help_loads_nothing_heavy() -> None:
    loaded = json.loads(python(HELP + LOADED).stderr.splitlines()[-1])
    assert not set(loaded) & {"numpy", "pandas", "scipy", "matplotlib", "pyarrow", "pydantic", "jinja2"}


def test_importing_opens_no_connection() -> None:
    done = python(SOCKETS, json.dumps(MODULES))
    assert json.loads(done.stdout.splitlines()[-1]) == []
    probe = "import socket\ntry:\n    socket.create_connection(('127.0.0.1', 9), timeout=1)\nexcept OSError:\n    pass\n"
    watched = SOCKETS.replace("for name in", probe + "for name in")  # the watch itself sees a connection
    assert any("connect" in e for e in json.loads(python(watched, "[]").stdout.splitlines()[-1]))


def test_entry_points_stay_callable_when_rooms_of_their_name_are_loaded() -> None:
    code = "import trueup, inspect\nfirst = trueup.realign\nimport trueup.realign.config as c\nfrom trueup.realign.frft import plan_refit\n"
    code += "assert callable(first) and c.RealignConfig and trueup.realign.config is c\n"
    code += "for name in ('train', 'realign', 'evaluate', 'audit'):\n    assert callable(getattr(trueup, name)), name\n"
    code += "try:\n    trueup.realign(reward_model='a', policy='b', preferences='c', out='.')\nexcept trueup.UserError as e:\n    print(e)"
    assert "exists already" in python(code).stdout
