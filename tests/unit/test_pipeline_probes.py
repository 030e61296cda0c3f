"""Probes of real (tiny) reward models: the table says what the model says, and models that read wrongly are found out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from tests_support import WORDS, tiny_reward
from trueup.core.rng import Key
from trueup.data.rows import Conversation, Judged, Prompt, Reply
from trueup.evaluation.copies import ProbeSettings
from trueup.mismatch.reward_model import prompt, reading
from trueup.mismatch.reward_model.probes import PROBES
from trueup.mismatch.reward_model.question import Evidence
from trueup.pipeline.examine import score_models
from trueup.pipeline.probes import RawScores, probe_models

SETTINGS = ProbeSettings(replies=40, prompt_replies=200, company_replies=20, search_texts=60, search_replies=5, phrases=("good good",))


class Misread:
    """A reward model that misreads what it is given, by a change of prompts and replies or of scores."""

    def __init__(self, *, prompts: str | None = None, cut: bool = False, padding: bool = False) -> None:
        self.model: Any = tiny_reward(1)
        self.prompts, self.cut, self.padding = prompts, cut, padding

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def encode(self, prompts: Sequence[Conversation], replies: Sequence[Reply]) -> Any:
        seen = prompts if self.prompts is None else [self.prompts] * len(prompts)
        texts = [Reply(text=r.text.rsplit(" ", 1)[0], finished=r.finished) if self.cut else r for r in replies]
        return self.model.encode(seen, texts)

    def score(self, features: Any) -> torch.Tensor:
        found: torch.Tensor = self.model.score(features)
        return found + 0.3 * features.tokens.shape[1] * found.std(correction=0) if self.padding else found


def groups(n: int = 60) -> list[Judged]:
    rng, found = np.random.default_rng(0), []
    for i in range(n):
        asked = " ".join(rng.choice(WORDS, size=4))
        texts = {" ".join(rng.choice(WORDS, size=int(rng.integers(3, 8)))) for _ in range(2)}
        if len(texts) == 2:
            found.append(
                Judged(
                    id=f"i{i}",
                    prompt=Prompt(id=f"p{i}", text=asked),
                    replies=tuple(Reply(text=t) for t in sorted(texts)),
                    ratings=(1.0, 0.0),
                )
            )
    return found


def examined(model: Any) -> Evidence:
    judged = groups()
    scores = score_models({"m": model}, judged)
    return Evidence(model="m", rows=scores, probes=probe_models({"m": model}, judged, scores, Key(0), SETTINGS), key=Key(0))


@pytest.fixture(scope="module")
def sound() -> Evidence:
    return examined(tiny_reward(1))


def test_the_table_says_what_the_model_says(sound: Evidence) -> None:
    judged = {g.id: g for g in groups()}
    model = RawScores(tiny_reward(1))
    table = sound.probes
    # no sentences to reformat, no marks, no rules of the paraphrase in these words
    assert set(PROBES) - set(table["probe"]) <= {"paraphrase"}
    originals = sound.rows.set_index(["item", "reply"])["score"]
    places = pd.MultiIndex.from_frame(table[["item", "reply"]])
    assert np.allclose(table["original"], originals.reindex(places), atol=1e-5)
    prompts = {g.prompt.id: g.prompt.text for g in judged.values()}
    for probe, made in (("other_prompt", None), ("appended", "good good"), ("search", None)):
        rows = table[(table["probe"] == probe) & ((table["variant"] == made) | (made is None))]
        assert len(rows)
        replies = [judged[i].replies[j] for i, j in zip(rows["item"], rows["reply"], strict=True)]
        added = [" good good"] * len(rows) if made else [f" {n}" if n else "" for n in rows["note"]]
        texts = [Reply(text=r.text + a) for r, a in zip(replies, added, strict=True)]
        asked = [prompts[v if probe == "other_prompt" else p] for v, p in zip(rows["variant"], rows["prompt_id"], strict=True)]
        assert np.allclose(model(asked, texts), rows["score"], atol=1e-5)


def test_texts_are_judged_on_replies_that_the_search_did_not_see(sound: Evidence) -> None:
    table = sound.probes
    held = set(table[table["probe"] == "search"]["prompt_id"])
    sampled = set(table[table["probe"] == "cut"]["prompt_id"])
    assert held < sampled
    assert len(sampled - held) == SETTINGS.search_replies


def test_the_same_words_are_searched_again() -> None:
    tables = [examined(tiny_reward(1)).probes for _ in range(2)]
    pd.testing.assert_frame_equal(*tables)


def test_a_sound_reader_reads(sound: Evidence) -> None:
    assert reading.answer(sound).verdict == "quiet"
    assert "same under any prompt" not in prompt.answer(sound).rule


@pytest.mark.parametrize(
    ("wrong", "module", "said"),
    [
        (Misread(prompts="ask"), prompt, "same under any prompt"),
        (Misread(cut=True), reading, "last word does not reach"),
        (Misread(padding=True), reading, "depends on the rest of the batch"),
    ],
    ids=["blind to prompts", "reads before the end", "reads padding"],
)
def test_wrong_readers_are_found_out(wrong: Misread, module: Any, said: str) -> None:
    answer = module.answer(examined(wrong))
    assert answer.verdict == "alarm"
    assert said in answer.rule


def test_copies_that_no_longer_fit_are_left_out() -> None:
    model = tiny_reward(1)
    # a prompt token, seven words at most, and eos: no room for two words more after seven
    model.max_length = 9
    judged = groups()
    scores = score_models({"m": model}, judged)
    found = probe_models({"m": model}, judged, scores, Key(0), SETTINGS)
    appended = found[(found["probe"] == "appended") & (found["variant"] == "good good")]
    length = {(g.id, j): len(r.text.split()) for g in judged for j, r in enumerate(g.replies)}
    assert 0 < len(appended) < SETTINGS.replies
    assert max(length[i, j] for i, j in zip(appended["item"], appended["reply"], strict=True)) == 5 + 1 - (model.max_length < 9 + 1)
