"""RAFT and best-of-n distillation: what is kept, what is learned from it, what is remembered."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from tests_support import tiny_parts
from trueup.core.rng import Key
from trueup.ops.selection import best_of_groups, best_share
from trueup.optimizers.best_of_n_distill import BestOfNDistillConfig
from trueup.optimizers.experience import PromptBatch
from trueup.optimizers.protocol import Parts
from trueup.optimizers.raft import RaftConfig
from trueup.rewards.programmed import ProgrammedReward

ASKED = PromptBatch(row=torch.arange(3), prompt=("ask", "tell good", "ask"), ids=((6,), (7, 3), (6,)))


def counting() -> Parts:
    """A reward that counts "good", less a little for each letter, so that few replies tie."""
    return replace(
        tiny_parts(), reward=ProgrammedReward(lambda prompts, replies: [r.text.count("good") - 0.01 * len(r.text) for r in replies])
    )


def rows(e: Any) -> list[list[int]]:
    return [row[m].tolist() for row, m in zip(e.sequences.replies, e.sequences.mask, strict=True)]


def test_selection() -> None:
    assert best_of_groups(torch.tensor([1.0, 3, 3, 2, 2, 2]), 3).tolist() == [False, True, False, True, False, False]
    assert best_share(torch.tensor([1.0, 3, 2, 3, 0]), 0.4).tolist() == [False, True, False, True, False]
    assert best_share(torch.tensor([1.0, 3, 3, 3, 0]), 0.3).tolist() == [False, True, True, False, False]  # 1.5 rounded up
    assert best_share(torch.arange(30.0), 0.1).sum().item() == 3  # 0.1 * 30 is 3.0000000000000004
    assert best_share(torch.zeros(3), 0.01).tolist() == [True, False, False]


@pytest.mark.parametrize("select", ["prompt", "batch"])
def test_what_is_kept_is_imitated(select: Any) -> None:
    learner = RaftConfig(max_completion_length=5, num_generations=4, select=select, top_share=0.25).build(counting())
    with torch.no_grad():
        e = learner.collect(ASKED, Key(3))
        logp = learner.parts.policy.logprobs(e.sequences)
    score = e.score.tolist()
    if select == "prompt":
        expected = [max(range(4 * p, 4 * p + 4), key=lambda i: score[i]) for p in range(3)]
    else:
        expected = sorted(range(12), key=lambda i: -score[i])[:3]
    assert e.kept.nonzero().squeeze(1).tolist() == sorted(expected)
    kept = logp[e.kept][e.sequences.mask[e.kept]]
    loss = learner.loss(e, learner.weigh(e, learner.totals(e)))
    assert loss.value.item() == pytest.approx(-kept.mean().item(), abs=1e-5)
    assert loss.metrics["reward/kept"].value == pytest.approx(sum(score[i] for i in expected) / 3, abs=1e-5)
    assert loss.metrics["reward"].value == pytest.approx(sum(score) / 12, abs=1e-5)
    assert learner.state_dict() == {"best": {}}


def test_the_penalty_ranks() -> None:
    parts, generator = counting(), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in parts.policy.model.parameters():
            p.add_(torch.randn(p.shape, generator=generator) * 0.1)
        e = RaftConfig(max_completion_length=5, num_generations=4, beta=50.0).build(parts).collect(ASKED, Key(3))
    ranked = (e.score - 50 * e.kl).view(3, 4)
    assert e.kept.view(3, 4).long().argmax(1).tolist() == ranked.argmax(1).tolist() != e.score.view(3, 4).argmax(1).tolist()


def test_the_best_so_far_is_kept_and_saved() -> None:
    config = RaftConfig(max_completion_length=5, num_generations=4, accumulate=True)
    learner = config.build(counting())
    best: dict[tuple[int, ...], tuple[float, list[int]]] = {}
    replaced = 0
    for step in range(4):
        with torch.no_grad():
            e = learner.collect(ASKED, Key(step))
            plain = config.model_copy(update={"accumulate": False})
            fresh = plain.build(counting()).collect(ASKED, Key(step))
        for i, reply in enumerate(rows(fresh)):
            prompt, score = ASKED.ids[i // 4], fresh.score[i].item()
            if score > best.get(prompt, (-1e9, []))[0]:
                best[prompt] = (score, reply)
        where = e.kept.nonzero().squeeze(1).tolist()
        assert where == fresh.kept.nonzero().squeeze(1).tolist()
        for p, row in enumerate(where):
            score, reply = best[ASKED.ids[p]]
            assert rows(e)[row] == reply
            assert e.kept_score[row].item() == pytest.approx(score)
            replaced += reply != rows(fresh)[row]
        again = config.build(counting())
        again.load_state_dict(json.loads(json.dumps(learner.state_dict())))
        assert again.best == learner.best
        learner = again
    assert replaced > 0, "some step must have been worse than an earlier one"
    assert set(learner.best) == {"6", "7 3"}


def test_what_cannot_go_together() -> None:
    for settings in ({"select": "batch"}, {"beta": 0.1}):
        with pytest.raises(ValidationError, match="set select: prompt and beta: 0"):
            RaftConfig.model_validate({"accumulate": True, **settings})
    for config in (RaftConfig, BestOfNDistillConfig):
        with pytest.raises(ValidationError, match="leave it out"):
            config.model_validate({"importance_cap": 2.0})


def test_the_reference_is_sampled_and_its_best_imitated() -> None:
    parts, generator = counting(), torch.Generator().manual_seed(1)
    learner = BestOfNDistillConfig(max_completion_length=5, num_generations=4).build(parts)
    with torch.no_grad():
        before = learner.collect(ASKED, Key(3))
        same = RaftConfig(max_completion_length=5, num_generations=4).build(counting()).collect(ASKED, Key(3))
        assert rows(before) == [r for r, k in zip(rows(same), same.kept.tolist(), strict=True) if k]  # at the start both sample alike
        torch.testing.assert_close(before.mean_score, same.score.view(3, 4).mean(1))
        for p in parts.policy.model.parameters():
            p.add_(torch.randn(p.shape, generator=generator) * 0.5)
        parts.rollout.refresh()
        after = learner.collect(ASKED, Key(3))
        assert rows(after) == rows(before)
        logp = parts.policy.logprobs(after.sequences)
    loss = learner.loss(after, learner.weigh(after, learner.totals(after)))
    assert loss.value.item() == pytest.approx(-logp[after.sequences.mask].mean().item(), abs=1e-4)
    assert loss.metrics["reward/kept"].value == pytest.approx(before.score.mean().item())
