"""Preference pairs, prompts and demonstrations: every layout, every way a row can be bad."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from trueup.core.errors import UserError
from trueup.data.demonstrations import load_demonstrations, read_demonstrations
from trueup.data.judgements import read_judged
from trueup.data.preferences import load_preferences, read_preferences
from trueup.data.prompts import load_prompts, read_prompts
from trueup.data.turns import parse_transcript

USER = {"role": "user", "content": "hi"}
SAID = {"role": "assistant", "content": "hello"}
MORE = {"role": "user", "content": "and?"}
GOOD, POOR = {"role": "assistant", "content": "this"}, {"role": "assistant", "content": "that"}


@pytest.mark.parametrize(
    ("row", "layout", "prompt"),
    [
        ({"prompt": "hi", "chosen": "this", "rejected": "that"}, "explicit prompt", "hi"),
        ({"prompt": [USER], "chosen": [GOOD], "rejected": [POOR]}, "explicit prompt", (USER,)),
        ({"prompt": [USER], "chosen": "this", "rejected": "that"}, "explicit prompt", (USER,)),
        ({"prompt": "\n\nHuman: hi\n\nAssistant:", "chosen": "this", "rejected": "that"}, "explicit prompt", (USER,)),
        ({"prompt": "hi", "chosen": [USER, GOOD], "rejected": [USER, POOR]}, "explicit prompt", (USER,)),
        ({"chosen": [USER, SAID, MORE, GOOD], "rejected": [USER, SAID, MORE, POOR]}, "implicit prompt", (USER, SAID, MORE)),
        (
            {
                "chosen": "\n\nHuman: hi\n\nAssistant: hello\n\nHuman: and?\n\nAssistant: this",
                "rejected": "\n\nHuman: hi\n\nAssistant: hello\n\nHuman: and?\n\nAssistant: that",
            },
            "transcripts",
            (USER, SAID, MORE),
        ),
    ],
)
def test_layouts(row: dict[str, Any], layout: str, prompt: object) -> None:
    found = load_preferences([row])
    assert found.layouts == {layout: 1}
    pair = found.rows[0]
    assert (pair.prompt.text, pair.chosen.text, pair.rejected.text) == (prompt, "this", "that")
    assert pair.chosen.finished
    assert f"1 as {layout}" in found.statement()


def test_optional_fields_and_names() -> None:
    row = {"question": "hi", "win": "this", "lose": "that", "margin": "0.5", "annotator": "eve", "id": 7, "chosen_source": "sft"}
    pair = read_preferences([row], fields={"prompt": "question", "chosen": "win", "rejected": "lose"}, split="test")[0]
    assert (pair.id, pair.margin, pair.annotator, pair.chosen_source, pair.rejected_source) == ("7", 0.5, "eve", "sft", "")
    assert pair.prompt.split == "test"
    with pytest.raises(UserError, match=r"no field 'wins'.*Did you mean 'win'"):
        read_preferences([row], fields={"chosen": "wins"})


def test_equal_prompts_have_equal_names() -> None:
    rows = [{"prompt": p, "chosen": c, "rejected": "z"} for p, c in (("a", "1"), ("a", "2"), ("b", "1"))]
    first, second, third = read_preferences(rows)
    assert first.prompt.id == second.prompt.id != third.prompt.id
    assert len({first.id, second.id, third.id}) == 3


def test_a_speaker_who_goes_on_has_one_turn() -> None:
    text = "\n\nHuman: hi\n\nAssistant: one\n\nAssistant: two, Human: is no turn here\n\nHuman: x"
    assert parse_transcript(text) == (
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "one\n\ntwo, Human: is no turn here"},
        {"role": "user", "content": "x"},
    )


BAD = [
    ({"prompt": "p", "chosen": "", "rejected": "x"}, "empty chosen reply", "chosen"),
    ({"prompt": "p", "chosen": "x", "rejected": "  \n"}, "empty rejected reply", "rejected"),
    ({"prompt": "p", "chosen": "x", "rejected": "x "}, "identical replies", "rejected"),
    ({"chosen": [USER, GOOD], "rejected": [USER, GOOD]}, "identical replies", "rejected"),
    ({"chosen": [USER, GOOD], "rejected": [MORE, POOR]}, "no shared beginning", "rejected"),
    ({"chosen": [USER, GOOD], "rejected": [USER, POOR, MORE]}, "not one assistant reply", "rejected"),
    ({"chosen": [USER, SAID, MORE, GOOD], "rejected": [USER, SAID]}, "no reply after the shared turns", "rejected"),
    ({"chosen": "\n\nHuman: hi\n\nAssistant: this", "rejected": "\n\nHuman: hi\n\nAssistant:"}, "empty rejected reply", "rejected"),
]


@pytest.mark.parametrize(("row", "reason", "field"), BAD)
def test_rows_that_teach_nothing(tmp_path: Path, row: dict[str, Any], reason: str, field: str) -> None:
    good = {"prompt": "p", "chosen": "x", "rejected": "y"}
    path = tmp_path / "prefs.jsonl"
    path.write_text("\n".join(json.dumps(r) for r in (good, row, good)))
    with pytest.raises(UserError, match=reason) as found:
        read_preferences(path)
    assert found.value.where == f"{path}, line 2, field '{field}'"
    kept = load_preferences(path, on_bad="skip")
    assert len(kept.rows) == 2
    assert [(r.startswith(reason), n) for r, n in kept.skipped.items()] == [(True, 1)]
    assert f"left out: 1 {reason}" in kept.statement()


@pytest.mark.parametrize(
    ("row", "said", "field"),
    [
        ({"prompt": "p", "rejected": "x"}, "missing.*Allowed", "chosen"),
        ({"prompt": "p", "chosen": "x", "rejected": None}, "it is null", "rejected"),
        ({"prompt": "p", "chosen": 3, "rejected": "x"}, "must be a text or a list of messages, got int", "chosen"),
        ({"prompt": "p", "chosen": "x", "rejected": [POOR]}, "same kind", "rejected"),
        ({"chosen": "a b", "rejected": "a c"}, "no prompt", "prompt"),
        ({"prompt": "  ", "chosen": "a", "rejected": "b"}, "is empty", "prompt"),
        ({"prompt": [USER, SAID], "chosen": "a", "rejected": "b"}, "end with a turn to answer", "prompt"),
        ({"prompt": "another", "chosen": [USER, GOOD], "rejected": [USER, POOR]}, "differs from the turns", "prompt"),
        ({"prompt": "p", "chosen": "a", "rejected": "b", "margin": "much"}, "must be a number", "margin"),
        ({"prompt": "p", "chosen": "a", "rejected": "b", "margin": float("inf")}, "must be finite", "margin"),
        ({"chosen": [USER, {"role": "bot", "content": "x"}], "rejected": [USER, POOR]}, "role must be one of", "chosen"),
        ({"chosen": [USER, {"role": "user", "content": ["x"]}], "rejected": [USER, POOR]}, "content must be a text", "chosen"),
        ({"chosen": [], "rejected": [USER, POOR]}, "non-empty list", "chosen"),
        ({"chosen": [USER, {"text": "x"}], "rejected": [USER, POOR]}, "must be", "chosen"),
    ],
)
def test_malformed_rows_always_stop(row: dict[str, Any], said: str, field: str) -> None:
    good = {"prompt": "p", "chosen": "x", "rejected": "y"}
    with pytest.raises(UserError, match=said) as found:
        read_preferences([good, row], on_bad="skip")
    assert (found.value.where or "").startswith(f"row 2, field '{field}'")


def test_nothing_left(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("")
    for read in (read_preferences, read_prompts, read_demonstrations, read_judged):
        with pytest.raises(UserError, match="holds no") as found:
            read(tmp_path / "a.jsonl")
        assert found.value.where == str(tmp_path / "a.jsonl")


def test_options_are_the_same_for_every_reader_and_typing_errors_are_told() -> None:
    row = {"ask": "q", "chosen": "x", "rejected": "y", "completion": "x"}
    for read in (read_preferences, read_prompts, read_demonstrations, lambda s, **o: read_judged(s, **o).rows):
        (made,) = read([row], fields={"prompt": "ask"}, split="test")
        prompt = getattr(made, "prompt", made)
        assert (prompt.text, prompt.split) == ("q", "test")
        with pytest.raises(TypeError, match="on_bda"):
            read([{"prompt": "q", **row}], on_bda="skip")


def test_prompts() -> None:
    rows = [{"prompt": "one", "type": "safe"}, {"messages": [USER, SAID], "type": "unsafe"}, {"prompt": [USER, SAID, MORE], "type": ""}]
    found = load_prompts(rows, tags=["type"])
    assert [p.text for p in found.rows] == ["one", (USER,), (USER, SAID, MORE)]
    assert [p.tags["type"] for p in found.rows] == ["safe", "unsafe", ""]
    with pytest.raises(UserError, match="repeated prompt") as error:
        read_prompts([{"prompt": "one"}, {"prompt": "one"}])
    assert error.value.where == "row 2, field 'prompt'"
    assert load_prompts([{"prompt": "one"}, {"prompt": "one"}], on_bad="skip").skipped == {"repeated prompt": 1}
    with pytest.raises(UserError, match="asked for as a tag"):
        read_prompts([{"prompt": "one"}], tags=["kind"])
    with pytest.raises(UserError, match="Allowed"):
        read_prompts([{"question": "one"}])


def test_demonstrations() -> None:
    rows: list[dict[str, Any]] = [
        {"prompt": "p", "completion": "this"},
        {"prompt": [USER], "completion": [GOOD]},
        {"messages": [USER, SAID, MORE, GOOD]},
        {"text": "this"},
    ]
    found = load_demonstrations(rows)
    assert [d.prompt.text for d in found.rows] == ["p", (USER,), (USER, SAID, MORE), ""]
    assert {d.reply.text for d in found.rows} == {"this"}
    assert found.layouts == {"prompt and completion": 2, "messages": 1, "text": 1}
    for row, said in (
        ({"messages": [USER]}, "must end with the assistant"),
        ({"messages": [GOOD]}, "a turn to answer"),
        ({"prompt": "p", "completion": [USER]}, "one assistant message"),
        ({"prompt": "p"}, "no known layout"),
        ({"text": " "}, "empty reply"),
    ):
        with pytest.raises(UserError, match=said):
            read_demonstrations([row])
