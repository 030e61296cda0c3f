"""Cross-validation of reward models: who saw what, resuming, embeddings asked once, other sets, files that are left, wrong settings."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests_support import tiny_policy
from trueup.core.config import validate
from trueup.core.errors import UserError
from trueup.core.rng import Key
from trueup.data.rows import Preference
from trueup.models.embedding_cache import CachedEmbedder
from trueup.models.reward import load_reward
from trueup.pipeline import cross_validate as cross
from trueup.pipeline.config import RunConfig
from trueup.pipeline.judged_fits import Said
from trueup.pipeline.run import execute
from trueup.report.write import write_report
from trueup.rewards.calibrated import read_calibration

WORDS = ("ask", "tell", "dull")


def write_pairs(path: Path, good: str = "good", bad: str = "bad", right: Sequence[bool] = (True,)) -> Path:
    """24 pairs of two openings and twelve numbers, each prompt twice... with other words; ``right`` repeats."""
    rows = []
    for i in range(24):
        first, second = f"{good} {WORDS[i % 3]}", f"{bad} {WORDS[(i + 1) % 3]}"
        chosen, rejected = (first, second) if right[i % len(right)] else (second, first)
        rows.append({"prompt": f"{WORDS[i % 2]} {i // 2}", "chosen": chosen, "rejected": rejected})
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


@pytest.fixture
def preference_file(tmp_path: Path) -> Path:
    return write_pairs(tmp_path / "pairs.jsonl")


def config_of(*paths: Path, **settings: Any) -> RunConfig:
    sets = [{"name": p.stem, "path": str(p)} for p in paths]
    return validate({"threads": 1, "policy": None, "cross_validate": {"folds": 4, "sets": sets, **settings}}, RunConfig, where="here")


def by_steps(trunk: Path) -> dict[str, Any]:
    return {"name": "m", "model": {"trunk": "path", "path": str(trunk)}, "epochs": 8, "batch_size": 8, "loop": {"learning_rate": 1e-2}}


def rows_of(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((folder / "reward.json").read_text())
    return found


def test_folds_are_judged_by_models_that_did_not_see_them(tmp_path: Path, preference_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fits: list[tuple[list[Preference], list[Preference]]] = []

    def answers(context: Any, config: Any, model: Any, training: Any, asked: Mapping[str, Any], key: Key, stage: str, keep: Any) -> Any:
        if not asked:
            return {"m": {}}
        held = asked["held"]
        fits.append((training, held))
        # prompts end in a number: right where it is even, a tie at 1, else wrong
        numbers = [int(p.prompt.text.split()[-1]) for p in held]
        raw = np.array([1.0 if n % 2 == 0 else 0.0 if n == 1 else -1.0 for n in numbers])
        return {"m": {"held": Said(raw=raw, calibrated=raw / 2)}}

    monkeypatch.setattr(cross, "step_answers", answers)
    execute(config_of(preference_file, models=[by_steps(tmp_path)]), tmp_path / "out")
    assert len(fits) == 4
    for training, held in fits:
        assert not {p.prompt.text for p in training} & {p.prompt.text for p in held}
        assert len(training) + len(held) == 24
    assert len({p.id for _, held in fits for p in held}) == 24
    (row,) = rows_of(tmp_path / "out")
    # of twelve numbers, two pairs each: six even, one tie, five wrong
    assert row["accuracy"]["value"] == pytest.approx((12 + 1) / 24)
    assert row["accuracy"]["n"] == 24  # 'ask 0' and 'tell 0' are two prompts
    assert row["nll_before"]["value"] == pytest.approx((12 * np.log1p(np.exp(-1)) + 2 * np.log(2) + 10 * np.log1p(np.e)) / 24)
    assert row["nll"]["value"] == pytest.approx((12 * np.log1p(np.exp(-0.5)) + 2 * np.log(2) + 10 * np.log1p(np.exp(0.5))) / 24)
    assert (row["name"], row["data"], row["folds"]) == ("m", "pairs", 4)


def test_a_trunk_learns_what_can_be_learned_and_resumes(tmp_path: Path, preference_file: Path) -> None:
    tiny_policy().save(tmp_path / "trunk")
    config = config_of(preference_file, models=[by_steps(tmp_path / "trunk")])
    execute(config, tmp_path / "out")
    (row,) = rows_of(tmp_path / "out")
    assert row["accuracy"]["value"] == 1.0
    steps = [json.loads(x)["stage"] for x in (tmp_path / "out" / "ledger.jsonl").read_text().splitlines()]
    assert len(set(steps)) == 5  # four folds and the whole set
    before = (tmp_path / "out" / "reward.json").read_text()
    execute(config, tmp_path / "out", resume=True)  # every fold is done: nothing is fitted again
    assert (tmp_path / "out" / "reward.json").read_text() == before
    assert len((tmp_path / "out" / "ledger.jsonl").read_text().splitlines()) == len(steps)
    assert load_reward(tmp_path / "out/checkpoints/pairs/m").tokenizer is not None


LINEAR = {
    "linear": [{"name": "words", "blocks": ["words"], "strengths": [0.3, 3]}, {"name": "size", "blocks": ["length", "style"]}],
    "ensembles": [{"name": "both", "members": ["words", "size"]}],
    "inner_folds": 3,
    "compare_with": ["size"],
}


def test_linear_models_and_what_they_say_of_the_other_set(tmp_path: Path) -> None:
    # a fifth of the labels are against the word, so that a finite temperature exists; the second set has all labels turned round
    right = [True, True, True, True, False]
    first = write_pairs(tmp_path / "first.jsonl", right=right)
    second = write_pairs(tmp_path / "second.jsonl", right=[not r for r in right])
    text = second.read_text().replace('"ask ', '"beg ').replace('"prompt": "tell ', '"prompt": "say ')
    second.write_text(text)
    execute(config_of(first, second, **LINEAR), tmp_path / "out")
    rows = {(r["data"], r["name"]): r for r in rows_of(tmp_path / "out")}
    assert len(rows) == 6
    words = rows["first", "words"]
    # 24 pairs, every fifth against the word (i = 4, 9, 14, 19): 20 of 24 right; on the other set the same 20 are wrong
    assert words["accuracy"]["value"] == pytest.approx(20 / 24)
    assert words["transfer"]["second"]["value"] == pytest.approx(4 / 24)
    assert words["nll"]["value"] < np.log(2)
    assert words["difference"]["size"]["n"] == 24
    assert "size" not in rows["first", "size"]["difference"]
    assert set(rows["first", "both"]["chosen_inside"]) == {"weight words", "weight size"}
    # 'good' is longer than 'bad' by one letter, the words beside them by 1, 0 or -1: never shorter than the bad reply
    folder = tmp_path / "out/checkpoints/first"
    assert read_calibration(folder / "words") is not None
    for name in ("words", "size", "both"):
        load_reward(folder / name)
    write_report(tmp_path / "out", key=Key(0))
    page = (tmp_path / "out/report/index.html").read_text()
    for said in ("Asked about another set", "ECE if calibrated", "Minus size", "Fitted to first and asked about second"):
        assert said in page


def test_opening_turns_of_the_other_set_that_were_seen_are_not_asked_about(tmp_path: Path) -> None:
    first, second = write_pairs(tmp_path / "first.jsonl"), write_pairs(tmp_path / "second.jsonl")
    lines = second.read_text().splitlines()
    # ten pairs of the second set get openings of their own; 14 share theirs with the first set
    second.write_text("\n".join([x.replace('"prompt": "', '"prompt": "new ') if i < 10 else x for i, x in enumerate(lines)]) + "\n")
    execute(config_of(first, second, linear=[{"name": "w", "blocks": ["words"], "strengths": [1.0]}]), tmp_path / "out")
    for row in rows_of(tmp_path / "out"):
        (other,) = row["transfer"].values()
        assert other["n"] == 10


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "at least one of linear"),
        ({"linear": [{"name": "a", "blocks": ["words"]}] * 2}, "distinct names"),
        ({"linear": [{"name": "a", "blocks": []}]}, "blocks"),
        ({"linear": [{"name": "a", "blocks": ["words", "words"]}]}, "named twice"),
        ({"linear": [{"name": "a", "blocks": ["letters"]}]}, "blocks"),
        ({"linear": [{"name": "a", "blocks": ["words"], "strengths": [0]}]}, "above 0"),
        ({"linear": [{"name": "a", "blocks": ["words"]}], "ensembles": [{"name": "e", "members": ["a", "b"]}]}, "linear models are"),
        ({"linear": [{"name": "a", "blocks": ["words"]}], "ensembles": [{"name": "e", "members": ["a", "a"]}]}, "twice"),
        ({"linear": [{"name": "a", "blocks": ["words"]}], "compare_with": ["b"]}, "compare_with"),
    ],
)
def test_wrong_settings_are_named(preference_file: Path, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        config_of(preference_file, **settings)


class Counting:
    """Embeds a text as its length, and keeps what it was asked."""

    name, dimension = "counting", 2

    def __init__(self) -> None:
        self.calls: list[list[str]] = []

    def embed(self, texts: Sequence[str]) -> Any:
        self.calls.append(list(texts))
        angle = np.array([len(t) for t in texts], dtype=np.float32)
        return np.stack([np.cos(angle), np.sin(angle)], 1)


def test_texts_are_embedded_once_and_by_length_before_the_folds(
    tmp_path: Path, preference_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = Counting()
    monkeypatch.setattr("trueup.pipeline.context.load_embedder", lambda name, folder: CachedEmbedder(inner, folder))
    head = {"name": "m", "model": {"trunk": "embeddings", "features": "joined", "head_width": 0}, "epochs": 1, "batch_size": 8}
    linear = [{"name": "l", "blocks": ["reply", "joined"], "strengths": [1.0]}]
    monkeypatch.setattr(cross, "AT_ONCE", 20)
    execute(config_of(preference_file, models=[head], linear=linear), tmp_path / "out")
    texts = [t for call in inner.calls for t in call]
    # 48 prompts with replies (all different), and the 6 replies alone: good and bad, each with three words
    assert len(texts) == len(set(texts)) == 48 + 6
    assert len(inner.calls) == 3  # 20 at a time; the folds asked nothing more
    lengths = [[len(t) for t in call] for call in inner.calls]
    assert all(max(a) <= min(b) for a, b in itertools.pairwise(lengths))
