"""What every world must hold, the one of docs/worlds.md included, and that the page's Python runs."""

from __future__ import annotations

import importlib
import json
import math
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from trueup.core.component import config_class
from trueup.core.errors import UserError
from trueup.core.rng import Key
from trueup.data.rows import Prompt, Reply, Split
from trueup.sandbox.world import World, WorldConfig

PAGE = Path(__file__).resolve().parents[2] / "docs" / "worlds.md"
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
SMALL = {
    "helpdesk": {
        "train_prompts": 30,
        "validation_prompts": 8,
        "test_prompts": 10,
        "demonstrations": 40,
        "train_pairs": 60,
        "validation_pairs": 10,
    },
    "enumerable": {"words": 2, "max_tokens": 4, "train_prompts": 10, "demonstrations": 40, "train_pairs": 60, "validation_pairs": 10},
    "stories": {"path": "stories.jsonl", "opening_words": 2, "train_prompts": 6, "validation_prompts": 3, "test_prompts": 3},
    "files": {"preferences": "prefs.jsonl"},
    "parts.counting": {},
}
STRANGE = [
    Reply(text=""),
    Reply(text="", finished=False),
    Reply(text="?"),
    Reply(text="zebra " * 60, finished=False),
    Reply(text="paris paris"),
]


def page_blocks() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder with small files, and the page's module importable."""
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "counting.py").write_text(next(b for b in page_blocks() if b.startswith("# parts/counting.py")))
    rows = [{"prompt": f"say {i}", "chosen": f"it is {i}", "rejected": "no"} for i in range(40)]
    (tmp_path / "prefs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "stories.jsonl").write_text("".join(json.dumps({"story": f"tale {i} of a happy dog"}) + "\n" for i in range(12)))
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    yield tmp_path
    for name in [n for n in sys.modules if n.split(".")[0] == "parts"]:
        del sys.modules[name]


def build(kind: str, folder: Path, seed: int = 4) -> World:
    if kind == "stories":
        pytest.importorskip("vaderSentiment")
    return config_class("trueup.sandbox", kind, WorldConfig).model_validate({"kind": kind, **SMALL[kind]}).build(seed, folder)


@pytest.mark.parametrize("kind", SMALL)
def test_prompts_are_disjoint_and_named(kind: str, folder: Path) -> None:
    world = build(kind, folder)
    prompts = [p for split in SPLITS for p in world.prompts(split)]
    assert len({p.id for p in prompts}) == len({str(p.text) for p in prompts}) == len(prompts)
    assert all(p.split == split for split in SPLITS for p in world.prompts(split))
    assert all(world.prompts(split) for split in SPLITS)


@pytest.mark.parametrize("kind", SMALL)
def test_everything_follows_from_settings_and_seed(kind: str, folder: Path) -> None:
    one, two, other = build(kind, folder), build(kind, folder), build(kind, folder, seed=5)
    two.label(two.prompts("train")[0], Reply(text="a"), Reply(text="b"), Key(0))  # a call in between changes nothing
    assert list(two.preferences("validation")) == list(one.preferences("validation"))
    assert list(two.preferences("train")) == list(one.preferences("train"))
    assert list(two.demonstrations()) == list(one.demonstrations())
    assert [p.text for p in one.prompts("train")] != [p.text for p in other.prompts("train")]


@pytest.mark.parametrize("kind", SMALL)
def test_pairs_belong_to_their_split(kind: str, folder: Path) -> None:
    world = build(kind, folder)
    for split in ("train", "validation"):
        pairs, known = world.preferences(split), {str(p.text) for p in world.prompts(split)}
        assert len({p.id for p in pairs}) == len(pairs)
        assert all(str(p.prompt.text) in known and p.chosen != p.rejected for p in pairs)
    tested = {str(p.text) for p in world.prompts("test")}
    assert not any(str(d.prompt.text) in tested for d in world.demonstrations())


@pytest.mark.parametrize("kind", SMALL)
def test_gold_and_evaluations_take_any_text(kind: str, folder: Path) -> None:
    world = build(kind, folder)
    prompts: list[Prompt] = [world.prompts("test")[0]] * len(STRANGE)
    found = world.gold(prompts, STRANGE)
    for gold in found or []:
        assert math.isfinite(gold.score)
        assert gold.score == pytest.approx(sum(gold.components.values()))
    assert (found is None) == (kind == "files")
    for name, column in world.evaluations(prompts, STRANGE).items():
        assert len(column) == len(STRANGE), name
        assert all(value is None or math.isfinite(value) for value in column), name
    assert world.gold([], []) in ([], None)


@pytest.mark.parametrize("kind", SMALL)
def test_labels_are_functions_of_the_key(kind: str, folder: Path) -> None:
    world = build(kind, folder)
    prompt, a, b = world.prompts("train")[0], Reply(text="happy happy"), Reply(text="sad")
    labels = [world.label(prompt, a, b, Key(1) / i) for i in range(20)]
    assert labels == [world.label(prompt, a, b, Key(1) / i) for i in range(20)]
    assert all(x is None or (x[0] and 0 <= x[1] <= 1) for x in labels)
    assert (labels[0] is None) == (kind == "files")


@pytest.mark.parametrize("kind", SMALL)
def test_a_closed_vocabulary_covers_all_texts(kind: str, folder: Path) -> None:
    world = build(kind, folder)
    words = world.vocabulary()
    if words is None:
        pytest.skip("open vocabulary")
    known = set(words)
    assert len(known) == len(words)
    texts = [str(p.text) for split in SPLITS for p in world.prompts(split)] + [d.reply.text for d in world.demonstrations()]
    assert all(set(text.split()) <= known and " ".join(text.split()) == text for text in texts)


def test_sentiment_is_the_truth_of_stories(folder: Path) -> None:
    world = build("stories", folder)
    prompt = world.prompts("test")[0]
    found = world.gold([prompt] * 3, [Reply(text="wonderful happy love"), Reply(text="the table"), Reply(text="horrible sad death")])
    assert found is not None
    good, plain, bad = (g.score for g in found)
    assert good > 0 == plain > bad
    wins = [world.label(prompt, Reply(text="wonderful love"), Reply(text="horrible death"), Key(i)) for i in range(50)]
    # They differ by more than 1.2, the temperature is .25: each is won with sigma(4.8) = .992 at least, so 5 losses in 50 are past 6 sigma.
    assert sum(w is not None and w[1] == 1 for w in wins) > 45


def test_missing_stories_and_short_files_are_said(folder: Path) -> None:
    settings = {**SMALL["stories"], "kind": "stories"}
    found = config_class("trueup.sandbox", "stories", WorldConfig)
    with pytest.raises(UserError, match="no such file"):
        found.model_validate({**settings, "path": "none.jsonl"}).build(0, folder).prompts("train")
    with pytest.raises(UserError, match="12 different openings of 2 words, but the splits need 106"):
        found.model_validate({**settings, "train_prompts": 100}).build(0, folder).prompts("train")
    (folder / "bad.jsonl").write_text('{"story": "a b c"}\n{"tale": 1}\n')
    with pytest.raises(UserError, match="line 2"):
        found.model_validate({**settings, "path": "bad.jsonl"}).build(0, folder).prompts("train")


def test_the_page_runs() -> None:
    names: dict[str, object] = {"__name__": "page"}
    ran = [block for block in page_blocks() if not block.startswith("# parts/")]
    assert len(ran) == 2
    for block in ran:
        exec(compile(block, str(PAGE), "exec"), names)
