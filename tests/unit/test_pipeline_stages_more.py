"""Stages that the small whole run does not take: sampled preferences, fresh labels, single refits."""

from __future__ import annotations

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
from trueup.models.policy import reference_of
from trueup.models.reward import load_reward
from trueup.pipeline import arm as arm_module
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
