"""The built wheel holds everything it needs, and works without the clone."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SMALL = {
    "world.train_prompts": 24,
    "world.validation_prompts": 8,
    "world.test_prompts": 8,
    "world.demonstrations": 32,
    "world.train_pairs": 32,
    "world.validation_pairs": 8,
    "sft.epochs": 1,
    "reward.epochs": 1,
    "reward.reference_samples": 8,
    "policy.steps": 1,
    "policy.prompts_per_step": 2,
    "probe.prompts": 4,
    "probe.samples_per_prompt": 2,
    "arms": "[{name: static}]",
}


def run(*command: str, cwd: Path, **more: str) -> str:
    env = (
        {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
        | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        | more
    )
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=env, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the unpacked wheel and nothing else."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    shutil.copytree(ROOT / "src", source / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input")
    run(*pip, "wheel", str(source), "--no-deps", "--no-build-isolation", "--no-index", "-w", str(folder / "dist"), cwd=folder)
    (wheel,) = (folder / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as packed:
        assert any(n.endswith("LICENSE") for n in packed.namelist())
        assert not any(n.startswith(("tests", "studies", "benchmarks", "docs")) for n in packed.namelist())
    run(*pip, "install", "--no-deps", "--no-index", "--target", str(folder / "site"), str(wheel), cwd=folder)
    return folder / "site"


def test_every_file_of_the_package_is_in_it(installed: Path) -> None:
    ours = ROOT / "src" / "trueup"
    wanted = {p.relative_to(ours) for p in ours.rglob("*") if p.is_file() and "__pycache__" not in p.parts}
    assert wanted - {p.relative_to(installed / "trueup") for p in (installed / "trueup").rglob("*")} == set()


@pytest.mark.slow
def test_it_runs_outside_the_clone(installed: Path, tmp_path: Path) -> None:
    script = (sys.executable, str(installed / "bin" / "trueup"))
    place = {"PYTHONPATH": str(installed)}
    where = run(sys.executable, "-c", "import trueup; print(trueup.__file__)", cwd=tmp_path, **place)
    assert Path(where.strip()).is_relative_to(installed)
    assert "quickstart" in run(*script, "--help", cwd=tmp_path, **place)
    families = json.loads(run(*script, "list", "--json", cwd=tmp_path, **place))["families"]
    assert "helpdesk" in [m["kind"] for m in families["worlds"]]
    assert json.loads(run(*script, "version", "--json", cwd=tmp_path, **place))["commit"] is None
    sets = [word for name, value in SMALL.items() for word in ("--set", f"{name}={value}")]
    found = json.loads(run(*script, "quickstart", "--quiet", "--json", *sets, cwd=tmp_path, **place))
    assert found["arms"] == ["static"]
    assert (tmp_path / found["report"]["html"]).stat().st_size > 10_000
