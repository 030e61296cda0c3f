"""Documentation says what is so: its Python runs, its commands parse, its links lead somewhere, its made pages are current."""

from __future__ import annotations

import importlib
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer

from trueup.cli.main import app, joined
from trueup.core.component import config_class
from trueup.core.config import load_config, validate
from trueup.core.rng import Key

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    ROOT / name
    for name in (
        "README.md",
        "docs/python.md",
        "CONTRIBUTING.md",
        "docs/deciding.md",
        "docs/tutorials/own_data.md",
        "docs/tutorials/reading_a_report.md",
    )
]
ALL = sorted(
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "studies").glob("*.md")]
)


@dataclass(frozen=True)
class Block:
    """A fenced block."""

    page: Path
    line: int
    language: str
    code: str

    @property
    def file(self) -> str | None:
        """The file it shows, where its first line is a comment with a file's name."""
        named = re.match(r"# ([\w/]+\.(?:py|yaml))\n", self.code)
        return named[1] if named else None


def blocks(page: Path, *languages: str) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    for match in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        if match[1] in languages:
            yield Block(page, text[: match.start()].count("\n") + 1, match[1], match[2])


def workplace(folder: Path) -> None:
    """What the pages take for granted: the repository's configurations, and a preference file of the reader's."""
    from trueup.sandbox.helpdesk import HelpdeskConfig

    shutil.copytree(ROOT / "configs", folder / "configs")
    world = HelpdeskConfig(train_prompts=40, validation_prompts=8, test_prompts=8, train_pairs=120, validation_pairs=10).build(9, folder)
    rows = [{"prompt": p.prompt.text, "chosen": p.chosen.text, "rejected": p.rejected.text} for p in world.preferences("train")]
    (folder / "prefs.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows if r["chosen"] != r["rejected"]))


def run_page(page: Path, folder: Path) -> None:
    """Every block of a page in order, in one namespace; blocks that show a file are written, and imported if they are Python."""
    names: dict[str, Any] = {"__name__": page.stem}
    for block in blocks(page, "python", "yaml"):
        if block.file is not None:
            target = folder / block.file
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(block.code)
            importlib.invalidate_caches()
            if block.language == "python":
                importlib.import_module(block.file.removesuffix(".py").replace("/", "."))
        elif block.language == "python":
            exec(compile("\n" * block.line + block.code, str(page), "exec"), names)


@pytest.mark.slow
def test_every_python_block_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pages in the order in which one reads them, so that later ones find the run of the first."""
    import trueup
    from trueup.store.records import frame

    workplace(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    try:
        for page in PAGES:
            run_page(page, tmp_path)
        recipes(tmp_path)
        shutil.copytree("runs/smoke/checkpoints/sft", "models/policy")
        mine = trueup.train("mine.yaml", "runs/mine")
        assert mine.arms == ("static", "random", "frft")
        own = ["world={kind: parts.my_world, path: prefs.jsonl}", "arms=[{name: static}]", "policy.steps=1"]
        trueup.train("mine.yaml", "runs/brief", overrides=own, report=False)
        assert "evaluations.brief" in frame("runs/brief").columns
        assert not trueup.audit("runs/mine").decisions["static"].why.startswith("The arm has no checkpoints")
    finally:
        for name in set(sys.modules) - before:
            if name.split(".")[0] == "parts":
                del sys.modules[name]


def recipes(folder: Path) -> None:
    """The components that CONTRIBUTING shows are found by their kinds, train, and diagnose."""
    import trueup
    from tests_support import tiny_parts
    from trueup.optimizers.protocol import OptimizerConfig
    from trueup.pipeline.decode import decode
    from trueup.pipeline.decode_config import DecodeConfig

    learner = (
        config_class("trueup.optimizers", "parts.reinforce", OptimizerConfig)
        .model_validate({"max_completion_length": 4})
        .build(tiny_parts())
    )
    assert set(learner.modules()) == {"policy"}
    changes = [
        "reward.objective={kind: parts.hinge}",
        "policy.optimizer={kind: parts.reinforce, num_generations: 2, max_completion_length: 8}",
        "arms=[{name: longest, realign: {every: 2, prompts: 4, epochs: 1, select: {kind: parts.longest, size: 20}}}, "
        "{name: brief, reward: {kind: sum, parts: [{reward: learned}, {weight: 0.5, reward: {kind: parts.brief, words: 8}}]}}]",
        "policy.steps=4",
        "sft.epochs=1",
        "reward.epochs=1",
    ]
    trueup.train("configs/smoke.yaml", "runs/recipes", overrides=changes, report=False)
    plan = json.loads((folder / "runs/recipes/stages/longest/refit-000002-plan.json").read_text())
    assert plan["selected"] == 20
    from trueup.rewards.learned import read_scale
    from trueup.store.records import read_records

    scale = read_scale(folder / "runs/recipes/checkpoints/reward")
    brief = [r for r in read_records("runs/recipes") if r.arm == "brief"]
    added = [0.5 * (bool(r.finished) and len(r.response.split()) <= 8) for r in brief]
    learned = [scale.gain * r.scores["rm-0"] + scale.shift for r in brief]
    assert [r.proxy_fixed for r in brief] == pytest.approx([a + b for a, b in zip(added, learned, strict=True)], abs=1e-4)
    (folder / "asked.txt").write_text("hello .\n")
    settings = {"policy": "runs/recipes/checkpoints/sft", "prompts": "asked.txt", "max_completion_length": 4}
    arms = [{"name": "bounded", "decoding": {"kind": "parts.min_p", "share": 1.0}}, {"name": "greedy", "decoding": "greedy"}]
    written = decode(validate({**settings, "arms": arms}, DecodeConfig, where="recipe"), Path("runs/min_p"))
    assert written.arms["bounded"]["kl_nats"] == pytest.approx(written.arms["greedy"]["kl_nats"])
    module = importlib.import_module("parts.unfinished")
    from tests.planted.worlds import Plant, frame

    records = frame(Plant(prompts=40, checkpoints=3), 0)
    settings = module.Unfinished()
    assert module.diagnose(records, "static", settings, Key(0)).verdict == "quiet"
    late = records["step"] == records["step"].max()
    records.loc[late, "finished"] = records.loc[late, "sample_id"].str.endswith(("0", "1"))
    assert module.diagnose(records, "static", settings, Key(0)).verdict == "alarm"
    assert module.diagnose(records, "nobody", settings, Key(0)).verdict == "not enough data"


def commands(page: Path) -> list[str]:
    """Command lines: those of bash blocks, and those in table cells."""
    found = [line for b in blocks(page, "bash") for line in b.code.splitlines()]
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    found += [code for row in re.findall(r"^\|.*\|$", text, re.MULTILINE) for code in re.findall(r"`(trueup [^`]+)`", row)]
    return [stripped for line in found if (stripped := line.split("  #")[0].strip())]


LINES = [(page, line) for page in ALL if page.name != "cli.md" for line in commands(page)]


@pytest.mark.parametrize(("page", "line"), LINES, ids=[f"{p.name}: {line}" for p, line in LINES])
def test_every_command_exists(page: Path, line: str) -> None:
    words = shlex.split(line)
    if words[0] == "trueup":
        check_trueup(words[1:])
    elif words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), line
    elif words[0].endswith("python"):
        assert [w for w in words if w.endswith(".py")], line
        assert all((ROOT / w).is_file() for w in words if w.endswith(".py")), line
    else:
        assert (ROOT / words[0]).is_file() or words[0] == "pre-commit", line


def check_trueup(words: list[str]) -> None:
    """The verb, its options and its configuration; nothing is run."""
    command: Any = typer.main.get_command(app)
    context = command.make_context("trueup", joined(words))
    while hasattr(command, "resolve_command"):
        name, command, rest = command.resolve_command(context, [*context._protected_args, *context.args])
        context = command.make_context(name, list(rest), parent=context)
    config = context.params.get("config")
    if config is not None and config.name != "mine.yaml":
        from trueup.pipeline.compare_config import CompareConfig
        from trueup.pipeline.config import RunConfig
        from trueup.pipeline.isolate_config import IsolateConfig

        schema: Any = {"compare": CompareConfig, "isolate": IsolateConfig}.get(context.info_name or "", RunConfig)
        load_config(ROOT / config, schema, context.params["overrides"] or ())
    if context.info_name == "show":
        from trueup.cli.config import configuration

        configuration(context.params["kind"])


def test_a_wrong_command_is_noticed() -> None:
    for words in (["run", "configs/smoke.yaml", "--no-such-option"], ["walk"], ["config", "show", "no_such_kind"], ["run", "no.yaml"]):
        with pytest.raises(Exception, match=r"No such|no kind|no such"):
            check_trueup(words)


@pytest.mark.parametrize("page", ALL, ids=[p.relative_to(ROOT).as_posix() for p in ALL])
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if re.match(r"https?://", target):
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        assert path.exists(), f"{page.name}: {target}"
        if anchor:
            heads = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in heads}, f"{page.name}: {target}"


def test_the_page_of_papers_is_current() -> None:
    done = subprocess.run([sys.executable, str(ROOT / "docs" / "build.py"), "--check"], check=False, timeout=60)
    assert done.returncode == 0, "run: make docs"


def test_readme_states_the_versions_that_are_pinned() -> None:
    pinned = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split())
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for name in ("torch", "transformers", "accelerate", "peft"):
        assert f"{name} {pinned[name]}" in text
    trl = re.search(r'"trl==([\d.]+)"', (ROOT / "pyproject.toml").read_text())
    assert trl is not None
    assert f"TRL {trl[1]}" in text


def test_architecture_names_every_room() -> None:
    rooms = re.findall(r"^\| `(\w+)/` \|", (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8"), re.MULTILINE)
    folders = {p.name for p in (ROOT / "src" / "trueup").iterdir() if (p / "__init__.py").exists()}
    tests = {p.name for p in (ROOT / "tests").iterdir() if (p / "__init__.py").exists()}
    assert set(rooms) == folders
    named = set(re.findall(r"^\| `(\w+)` \|", (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8"), re.MULTILINE))
    assert tests <= named


def test_the_picture_is_small() -> None:
    assert (ROOT / "docs" / "img" / "report.png").stat().st_size < 300_000


def test_decisions_are_numbered_and_whole() -> None:
    found = sorted((ROOT / "docs" / "decisions").glob("*.md"))
    assert [int(p.name[:4]) for p in found] == list(range(1, len(found) + 1))
    for page in found:
        heads = re.findall(r"^## (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
        assert heads == ["Context", "Decision", "Consequences"], page.name
