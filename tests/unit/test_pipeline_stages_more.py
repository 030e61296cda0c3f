"""Stages that the small whole run does not take: sampled preferences, fresh labels, cross-validation, single refits."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from tests_support import goodness, tiny_policy, tiny_reward
from trueup.core.config import validate
from trueup.core.errors import UserError
from trueup.core.record import Decoding
from trueup.core.rng import Key
from trueup.data.rows import Preference, Prompt, Reply, Split
from trueup.models.embedding_cache import CachedEmbedder
from trueup.models.policy import reference_of
from trueup.models.reward import load_reward
from trueup.pipeline import arm as arm_module
from trueup.pipeline import cross_validate as cross
from trueup.pipeline.config import RunConfig
from trueup.pipeline.context import Context
from trueup.pipeline.events import nobody
from trueup.pipeline.preferences import preference_pairs
from trueup.pipeline.probe import probe
from trueup.pipeline.refit import margins, refit_once
from trueup.pipeline.run import execute
from trueup.pipeline.sampling import replies_of, write
from trueup.realign.config import RealignConfig
from trueup.realign.select.random import RandomConfig
from trueup.rewards.learned import LearnedReward, read_scale
from trueup.sandbox.world import Gold
from trueup.store.run import Run

SETTINGS: dict[str, Any] = {
    "threads": 1,
    "world": "helpdesk",
    "policy": {"optimizer": {"kind": "rloo", "max_completion_length": 5}},
    "probe": {"prompts": 4, "samples_per_prompt": 4, "labels_per_prompt": 1},
    "sampled_preferences": {"pairs": 20, "validation_pairs": 10},
}


class Words:
    """A world of five words with annotators, but without a preference set; the reply with more of 'good' wins."""

    def __init__(self, annotators: bool = True) -> None:
        self.annotators = annotators

    def prompts(self, split: Split) -> Sequence[Prompt]:
        first = {"train": "ask", "validation": "tell", "test": "dull"}[split]
        return [Prompt(id=f"{split}-{w}", text=f"{first} {w}", split=split) for w in ("ask", "tell", "good", "bad")]

    def preferences(self, split: Split) -> Sequence[Preference]:
        return []

    def gold(self, prompts: Sequence[Prompt], replies: Sequence[Reply]) -> Sequence[Gold]:
        return [Gold(score=g, components={"good": g}) for g in goodness(prompts, replies)]

    def label(self, prompt: Prompt, first: Reply, second: Reply, key: Key) -> tuple[str, float] | None:
        a, b = goodness(None, [first, second])
        return ("judge", 0.5 + 0.5 * float(np.sign(a - b))) if self.annotators else None

    def evaluations(self, prompts: Sequence[Prompt], replies: Sequence[Reply]) -> Mapping[str, Sequence[float | None]]:
        return {"length": [float(len(r.text.split())) for r in replies], "long": [None if len(r.text) < 9 else 1.0 for r in replies]}


def context_of(folder: Path, world: Any, **settings: Any) -> Context:
    config = validate({**SETTINGS, **settings}, RunConfig, where="here")
    return Context(Run(folder / "run"), config, world, folder, Accelerator(cpu=True), nobody)


def test_preferences_are_sampled_from_the_policy_and_labelled_by_the_world(tmp_path: Path) -> None:
    world = Words()
    context, policy = context_of(tmp_path, world), tiny_policy()
    for split, wanted in (("train", 20), ("validation", 10)):
        pairs = preference_pairs(context, policy, split)  # type: ignore[arg-type]
        assert len(pairs) == wanted
        assert all(p.prompt in world.prompts(split) for p in pairs)  # type: ignore[arg-type]
        assert len({p.id for p in pairs}) == wanted
        for p in pairs:
            better, worse = goodness(None, [p.chosen, p.rejected])
            assert better > worse
            assert (p.annotator, p.chosen_source, p.rejected_source) == ("judge", "sft", "sft")
            assert p.chosen.text.strip()
        # kept in a file, and read back the same by whoever goes on, whatever the policy is then
        assert preference_pairs(context, tiny_policy(9), split) == pairs  # type: ignore[arg-type]
    lengths = [len(r.text.split()) for p in pairs for r in (p.chosen, p.rejected)]
    assert max(lengths) <= 5


def test_without_annotators_there_are_no_preferences(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no annotators"):
        preference_pairs(context_of(tmp_path, Words(annotators=False)), tiny_policy(), "train")


def test_checkpoints_get_fresh_labels(tmp_path: Path) -> None:
    policy = tiny_policy()
    rewards = {"rm-0": LearnedReward(tiny_reward(), policy_tokenizer=policy.tokenizer)}
    context = context_of(tmp_path, Words())
    records = probe(context, policy, reference_of(policy), rewards, arm="a", step=3, current="rm-0")
    assert len(records) == 16
    found = {r.sample_id: r for r in records}
    labelled = [r for r in records if r.labels]
    assert len(labelled) == 8  # one comparison of two neighbours a prompt, written on both
    outcomes = set()
    for r in labelled:
        (label,) = r.labels
        other = found[label.other_sample_id]
        assert (other.prompt_id, other.labels[0].other_sample_id) == (r.prompt_id, r.sample_id)
        assert label.preference + other.labels[0].preference == 1
        assert r.gold is not None
        assert other.gold is not None
        assert label.preference == 0.5 + 0.5 * np.sign(r.gold - other.gold)
        outcomes.add(label.preference)
    assert {0.0, 1.0} <= outcomes
    assert all(r.gold_components == {"good": r.gold} for r in records)
    assert all(r.evaluations["length"] == len(r.response.split()) for r in records)
    assert [("long" in r.evaluations) == (len(r.response) >= 9) for r in records] == [True] * 16


def pool(rows: int) -> list[Preference]:
    """Pairs in which 'good' beats 'bad', two prompts."""
    found = []
    for i in range(rows):
        g = (Key(5) / i).generator()
        rest = " ".join(g.choice(["dull", "ask", "tell"], size=2))
        said = [Reply(text=f"{w} {rest}", finished=True) for w in ("good", "bad")]
        prompt = Prompt(id=f"p{i % 2}", text=("ask", "tell")[i % 2])
        found.append(Preference(id=str(i), prompt=prompt, chosen=said[0], rejected=said[1]))
    return found


def test_one_refit_outside_a_run(tmp_path: Path) -> None:
    model, policy, pairs = tiny_reward(3), tiny_policy(), pool(40)
    config = RealignConfig(
        prompts=2, samples_per_prompt=8, epochs=6, batch_size=8, select=RandomConfig(size=24), replay_share=0.25,
        loop={"learning_rate": 1e-2},  # type: ignore[arg-type]
    )  # fmt: skip
    held = [replace(p, chosen=p.rejected, rejected=p.chosen) if i % 4 == 0 else p for i, p in enumerate(pool(60)[40:])]
    with torch.no_grad():
        first = margins(model, held)
    plan, before, after = refit_once(model, policy, pairs, held, config, None, Key(2), max_tokens=5, out=tmp_path / "rm")
    assert (plan.selected, len(plan.rows), plan.samples) == (24, 32, 16)
    assert before == [float(m > 0) + 0.5 * float(m == 0) for m in first]
    assert sum(after) == 15  # the quarter whose sides were exchanged is ordered wrongly, the rest rightly
    saved = load_reward(tmp_path / "rm")
    assert [float(m > 0) for m in margins(saved, held)] == after
    # rescaled on the policy's samples
    prompts = list({p.prompt.id: p.prompt for p in pairs}.values())
    picked = [prompts[int(i)] for i in (Key(2) / "prompts").permutation(2)]
    rows, replies = replies_of(write(policy, picked, Decoding(max_tokens=5), Key(2) / "samples", samples=8))
    scores = LearnedReward(saved, read_scale(tmp_path / "rm")).score([p.text for p in rows], replies)
    assert (scores.mean().item(), scores.std(correction=0).item()) == pytest.approx((0.0, 1.0), abs=1e-4)
    with pytest.raises(UserError, match="empty"):
        refit_once(model, policy, [], [], config, None, Key(2), max_tokens=5, out=tmp_path / "none")


def test_a_refit_starts_from_the_model_it_was_told_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[str] = []
    read = arm_module.read_reward

    def listening(context: Context, folder: Path) -> Any:
        started.append(str(folder.relative_to(context.run.root / "checkpoints")))
        return read(context, folder)

    monkeypatch.setattr(arm_module, "read_reward", listening)
    refit = {"every": 1, "prompts": 2, "epochs": 1, "batch_size": 8, "select": {"kind": "random", "size": 8}}
    small = {"train_prompts": 8, "validation_prompts": 4, "test_prompts": 4, "demonstrations": 16, "train_pairs": 16, "validation_pairs": 8}
    config = validate(
        {
            "threads": 1,
            "world": {"kind": "helpdesk", **small},
            "policy_model": {"hidden_size": 16, "layers": 1, "heads": 2},
            "sft": {"epochs": 1, "batch_size": 8},
            "reward": {"epochs": 1, "batch_size": 8, "reference_samples": 8},
            "policy": {"steps": 3, "prompts_per_step": 2, "optimizer": {"kind": "rloo", "num_generations": 2, "max_completion_length": 4}},
            "probe": {"every": 3, "prompts": 4, "samples_per_prompt": 1},
            "arms": [
                {"name": "on", "realign": refit},
                {"name": "back", "realign": {**refit, "start_from": "first"}},
                {"name": "once", "realign": {**refit, "max_refits": 1}},
                {"name": "never", "realign": {**refit, "min_kl_nats": 1000.0}},
            ],
        },
        RunConfig,
        where="here",
    )
    execute(config, tmp_path / "out")
    assert started == ["reward", "on/reward-000001", "reward", "reward", "reward"]
    run = Run(tmp_path / "out")
    assert [run.done(f"{name}/policy") for name in ("on", "back", "once", "never")] == [{"steps": 3, "refits": n} for n in (2, 2, 1, 0)]


@pytest.fixture
def preference_file(tmp_path: Path) -> Path:
    path = tmp_path / "pairs.jsonl"
    rows = [{"prompt": p.prompt.text + f" {i // 2}", "chosen": p.chosen.text, "rejected": p.rejected.text} for i, p in enumerate(pool(24))]
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


def judged(path: Path, trunk: Path) -> RunConfig:
    model = {"name": "m", "model": {"trunk": "path", "path": str(trunk)}, "epochs": 8, "batch_size": 8, "loop": {"learning_rate": 1e-2}}
    return validate(
        {"threads": 1, "policy": None, "cross_validate": {"folds": 4, "sets": [{"name": "d", "path": str(path)}], "models": [model]}},
        RunConfig,
        where="here",
    )


def test_folds_are_judged_by_models_that_did_not_see_them(tmp_path: Path, preference_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folds: list[tuple[list[Preference], list[Preference]]] = []

    def fold(context: Any, model: Any, training: list[Preference], held: list[Preference], key: Any, name: str) -> Any:
        folds.append((training, held))
        # prompts end in a number: right where it is even, a tie at 1, else wrong
        numbers = [int(p.prompt.text.split()[-1]) for p in held]  # type: ignore[union-attr]
        return np.array([1.0 if n % 2 == 0 else 0.0 if n == 1 else -1.0 for n in numbers])

    monkeypatch.setattr(cross, "_fold", fold)
    execute(judged(preference_file, tmp_path), tmp_path / "out")
    assert len(folds) == 4
    for training, held in folds:
        assert not {p.prompt.text for p in training} & {p.prompt.text for p in held}
        assert len(training) + len(held) == 24
    assert len({p.id for _, held in folds for p in held}) == 24
    (row,) = json.loads((tmp_path / "out" / "reward.json").read_text())
    # of twelve numbers, two pairs each: six even, one tie, five wrong
    assert row["accuracy"]["value"] == pytest.approx((12 + 1) / 24)
    assert row["accuracy"]["n"] == 24  # 'ask 0' and 'tell 0' are two prompts
    assert row["nll"]["value"] == pytest.approx((12 * np.log1p(np.exp(-1)) + 2 * np.log(2) + 10 * np.log1p(np.e)) / 24)
    assert (row["name"], row["data"], row["folds"]) == ("m", "d", 4)


def test_cross_validation_learns_what_can_be_learned(tmp_path: Path, preference_file: Path) -> None:
    tiny_policy().save(tmp_path / "trunk")
    config = judged(preference_file, tmp_path / "trunk")
    execute(config, tmp_path / "out")
    (row,) = json.loads((tmp_path / "out" / "reward.json").read_text())
    assert row["accuracy"]["value"] == 1.0
    steps = [json.loads(x)["stage"] for x in (tmp_path / "out" / "ledger.jsonl").read_text().splitlines()]
    assert len(set(steps)) == 4
    before = (tmp_path / "out" / "reward.json").read_text()
    execute(config, tmp_path / "out", resume=True)  # every fold is done: nothing is fitted again
    assert (tmp_path / "out" / "reward.json").read_text() == before
    assert len((tmp_path / "out" / "ledger.jsonl").read_text().splitlines()) == len(steps)


class Counting:
    """Embeds a text as its length, and keeps what it was asked."""

    name, dimension = "counting", 2

    def __init__(self) -> None:
        self.calls: list[list[str]] = []

    def embed(self, texts: Sequence[str]) -> Any:
        self.calls.append(list(texts))
        angle = np.array([len(t) for t in texts], dtype=np.float32)
        return np.stack([np.cos(angle), np.sin(angle)], 1)


def test_replies_are_embedded_once_and_by_length_before_the_folds(
    tmp_path: Path, preference_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = Counting()
    monkeypatch.setattr("trueup.pipeline.context.load_embedder", lambda name, folder: CachedEmbedder(inner, folder))
    config = judged(preference_file, tmp_path).model_dump(mode="json")
    config["cross_validate"]["models"][0]["model"] = {"trunk": "embeddings", "features": "joined", "head_width": 0}
    monkeypatch.setattr(cross, "AT_ONCE", 20)
    execute(validate(config, RunConfig, where="here"), tmp_path / "out")
    texts = [t for call in inner.calls for t in call]
    assert len(texts) == len(set(texts)) > 20
    assert len(inner.calls) == 3  # 48 replies, 20 at a time; the folds asked nothing more
    lengths = [[len(t) for t in call] for call in inner.calls]
    assert all(max(a) <= min(b) for a, b in itertools.pairwise(lengths))
