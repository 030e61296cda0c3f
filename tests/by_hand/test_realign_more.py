"""Inverse alignment and learned rewards by hand: what is selected, replayed, when, and how scores are rescaled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests_support import tiny_policy, tiny_reward
from trueup.core.errors import UserError
from trueup.core.rng import Key
from trueup.data.rows import Preference, Prompt, Reply, judged
from trueup.learn.table import Examples, Table
from trueup.realign.config import RealignConfig
from trueup.realign.frft import plan_refit, repeated_share, undesirable
from trueup.realign.select.everything import EverythingConfig
from trueup.realign.select.protocol import PolicySample
from trueup.realign.select.random import RandomConfig
from trueup.realign.select.similar import SimilarConfig, combine, similarity
from trueup.realign.trigger import due, pause_steps
from trueup.rewards.fit import RewardLearner
from trueup.rewards.learned import LearnedReward, Scale, measure_scale, read_scale, save_reward
from trueup.rewards.objectives.bradley_terry import BradleyTerryConfig

PLACES = {"east": (1.0, 0.0), "north": (0.0, 1.0), "west": (-1.0, 0.0), "far east": (0.8, 0.6)}


class Compass:
    """Embeds the last line of a text as the direction that it names."""

    def embed(self, texts: Sequence[str]) -> Any:
        return np.array([PLACES[t.splitlines()[-1]] for t in texts], dtype=np.float32)


def pair(number: int, chosen: str, rejected: str, prompt: str = "p") -> Preference:
    return Preference(
        id=str(number),
        prompt=Prompt(id=prompt, text=prompt),
        chosen=Reply(text=chosen, finished=True),
        rejected=Reply(text=rejected, finished=True),
    )


def sample(text: str, prompt: str = "p", finished: bool = True) -> PolicySample:
    return PolicySample(prompt=Prompt(id=prompt, text=prompt), reply=Reply(text=text, finished=finished))


POOL = [pair(0, "west", "west"), pair(1, "north", "east"), pair(2, "far east", "west"), pair(3, "north", "north", "q")]
EAST = [sample("east")]


@pytest.mark.parametrize(
    ("settings", "rows", "scores"),
    [
        # cosines with east: west -1, north 0, far east .8, east 1
        ({"side": "both_max"}, [1, 2, 3, 0], [-1.0, 1.0, 0.8, 0.0]),
        ({"side": "both_mean"}, [1, 3, 2, 0], [-1.0, 0.5, -0.1, 0.0]),
        ({"side": "chosen"}, [2, 1, 3, 0], [-1.0, 0.0, 0.8, 0.0]),
        ({"side": "rejected"}, [1, 3, 0, 2], [-1.0, 1.0, -1.0, 0.0]),
        ({"side": "both_max", "invert": True}, [0, 3, 2, 1], [-1.0, 1.0, 0.8, 0.0]),
        ({"side": "both_max", "pairing": "same_prompt"}, [1, 2, 0, 3], [-1.0, 1.0, 0.8, -1.0]),  # nobody answered prompt q
        ({"side": "both_max", "text": "prompt_and_reply"}, [1, 2, 3, 0], [-1.0, 1.0, 0.8, 0.0]),
    ],
)
def test_the_most_similar_pairs_come_first(settings: dict[str, Any], rows: list[int], scores: list[float]) -> None:
    for size in (4, 2):
        found = SimilarConfig(**settings, size=size).select(POOL, EAST, Compass(), Key(0))
        # both_mean: north with east (0 + 1)/2, far east with west (.8 - 1)/2; equal scores keep the order of the set
        assert found.rows.tolist() == rows[:size]
        assert found.scores is not None
        assert found.scores.tolist() == pytest.approx(scores, abs=1e-6)


def test_similarity_to_the_nearest_or_to_all() -> None:
    ours, theirs = np.array([[1.0, 0.0], [0.0, 1.0]], dtype=np.float32), np.array([PLACES[k] for k in PLACES], dtype=np.float32)
    # with east: 1, 0, -1, .8; with north: 0, 1, 0, .6
    assert similarity(ours, theirs, SimilarConfig(aggregate="mean"), None).tolist() == pytest.approx([0.2, 0.4], abs=1e-6)
    assert similarity(ours, theirs, SimilarConfig(neighbours=2), None).tolist() == pytest.approx([0.9, 0.8], abs=1e-6)
    assert similarity(ours, theirs, SimilarConfig(neighbours=9), None).tolist() == pytest.approx([0.2, 0.4], abs=1e-6)
    allowed = np.array([[False, False, True, True], [False] * 4])
    assert similarity(ours, theirs, SimilarConfig(neighbours=9), allowed).tolist() == pytest.approx([-0.1, -1.0], abs=1e-6)
    assert similarity(ours, theirs, SimilarConfig(aggregate="mean"), allowed).tolist() == pytest.approx([-0.1, -1.0], abs=1e-6)
    assert combine(np.array([0.2]), np.array([0.6]), "both_mean").tolist() == pytest.approx([0.4])


def test_similar_needs_embeddings_and_samples() -> None:
    with pytest.raises(UserError, match="needs sentence embeddings"):
        SimilarConfig().select(POOL, EAST, None, Key(0))
    with pytest.raises(UserError, match="no sample"):
        SimilarConfig().select(POOL, [], Compass(), Key(0))


def test_controls_are_of_the_same_size_and_drawn_anew() -> None:
    pool = [pair(i, "east", "west") for i in range(50)]
    drawn = [RandomConfig(size=20).select(pool, EAST, None, Key(seed)).rows for seed in range(40)]
    assert all(len(set(d.tolist())) == 20 for d in drawn)
    assert sorted(set(np.concatenate(drawn).tolist())) == list(range(50))
    assert drawn[0].tolist() != drawn[1].tolist()
    assert RandomConfig(size=20).select(pool, EAST, None, Key(1)).rows.tolist() == drawn[1].tolist()
    assert len(RandomConfig(size=80).select(pool, EAST, None, Key(1)).rows) == 50
    assert len(SimilarConfig(size=20).select(pool, EAST, Compass(), Key(0)).rows) == 20
    assert EverythingConfig(size=2).select(pool, EAST, None, Key(0)).rows.tolist() == list(range(50))


@pytest.mark.parametrize("select", [SimilarConfig(size=8), RandomConfig(size=8)])
@pytest.mark.parametrize(("share", "replay"), [(0.0, 0), (0.2, 2), (0.5, 8), (0.9, 22)])
def test_replay_comes_from_the_rest(select: Any, share: float, replay: int) -> None:
    # of n pairs in all, share * n are replay: 8 selected and share .2 make 10; the rest of 30 holds 22 at most
    pool = [pair(i, "east" if i % 4 == 0 else "west", "north" if i % 4 == 0 else "west") for i in range(30)]
    plan = plan_refit(pool, EAST, RealignConfig(select=select, replay_share=share), Compass(), Key(3))
    assert (plan.selected, len(plan.rows)) == (8, 8 + replay)
    assert len(set(plan.rows)) == len(plan.rows)
    assert not set(plan.rows[:8]) & set(plan.rows[8:])
    if isinstance(select, SimilarConfig):
        assert list(plan.rows[:8]) == list(range(0, 32, 4))  # the eight with an east reply
        assert plan.mean_similarity == pytest.approx(1.0, abs=1e-6)
        assert plan.mean_similarity_pool == pytest.approx((8 - 22) / 30, abs=1e-6)
    else:
        assert plan.mean_similarity is None


def test_samples_are_filtered_before_they_are_compared_with() -> None:
    samples = [sample("west", finished=False), sample("east")]
    plan = plan_refit(POOL, samples, RealignConfig(select=SimilarConfig(size=1), replay_share=0), Compass(), Key(0))
    assert (plan.samples, plan.dropped, plan.rows) == (2, 1, (1,))
    # a policy that never ends: all samples still say more of it than none
    plan = plan_refit(POOL, samples[:1], RealignConfig(select=SimilarConfig(size=1), replay_share=0), Compass(), Key(0))
    assert (plan.samples, plan.dropped, plan.rows) == (1, 0, (0,))
    kept = RealignConfig(select=SimilarConfig(size=1), replay_share=0, drop=())
    assert plan_refit(POOL, samples[:1], kept, Compass(), Key(0)).rows == (0,)


def test_repetition_by_hand() -> None:
    assert repeated_share("a b a b a") == 0.5  # ab ba ab ba: two of four were there before
    assert repeated_share("a b c d") == 0.0
    assert repeated_share("a") == 0.0
    assert not undesirable(sample("a b a b a"), ("repetitive",))
    assert undesirable(sample("a b a b a b"), ("repetitive",))
    assert not undesirable(sample("a b a b a b"), ("unfinished",))
    assert undesirable(sample("a", finished=False), ("unfinished",))
    assert not undesirable(sample("a", finished=False), ("repetitive",))


def test_pauses_and_triggers() -> None:
    assert pause_steps(RealignConfig(every=4), 12) == [4, 8]  # none at the end
    assert pause_steps(RealignConfig(every=4, first=3), 12) == [3, 7, 11]
    assert pause_steps(RealignConfig(every=4, max_refits=1), 12) == [4]
    assert pause_steps(RealignConfig(every=4, max_refits=1, min_kl_nats=2.0), 12) == [4, 8]  # the first may not be due
    one = RealignConfig(max_refits=1, min_kl_nats=2.0)
    assert [due(one, n, kl, 1.0) for n, kl in ((0, 2.9), (0, 3.0), (1, 9.0))] == [False, True, False]
    assert due(RealignConfig(), 99, -0.2, 3.0)  # no trigger: every pause refits, whatever the sampled KL


def test_scores_are_rescaled_to_mean_0_and_deviation_1() -> None:
    # 1 3 5 7: mean 4, population deviation sqrt 5
    raw = torch.tensor([1.0, 3.0, 5.0, 7.0])
    scale = measure_scale(raw)
    assert (scale.gain, scale.shift, scale.n) == pytest.approx((5**-0.5, -4 * 5**-0.5, 4))
    to = measure_scale(raw, mean=2.0, std=3.0)
    mapped = to.gain * raw + to.shift
    assert (mapped.mean().item(), mapped.std(correction=0).item()) == pytest.approx((2.0, 3.0))
    flat = measure_scale(torch.full((3,), 7.0))
    assert (flat.gain, flat.shift) == (1.0, -7.0)


def test_a_learned_reward_is_its_raw_score_rescaled_in_any_chunks(tmp_path: Path) -> None:
    model = tiny_reward()
    prompts, replies = ["ask", "tell", "ask tell"], [Reply(text=t, finished=True) for t in ("good", "bad bad", "dull good bad")]
    with torch.no_grad():
        raw = model.score(model.encode(prompts, replies))
    reward = LearnedReward(model, Scale(gain=2.0, shift=-1.0, n=3), tiny_policy().tokenizer, rows=2)
    torch.testing.assert_close(reward.raw(prompts, replies), raw, rtol=0, atol=1e-5)
    torch.testing.assert_close(reward.score(prompts, replies), 2 * raw - 1, rtol=0, atol=1e-5)
    assert not reward.score(prompts, replies).requires_grad
    assert LearnedReward(model).scale == Scale(gain=1.0, shift=0.0)
    assert read_scale(tmp_path) == Scale()
    save_reward(tmp_path, reward)
    assert read_scale(tmp_path) == reward.scale


@dataclass(frozen=True, kw_only=True)
class Scores(Table):
    """The scores themselves as features."""

    value: torch.Tensor


class Reader:
    """A reward model that reads the number in a reply; one weight, 1."""

    def __init__(self) -> None:
        self.module = torch.nn.Linear(1, 1, bias=False)
        torch.nn.init.ones_(self.module.weight)

    def encode(self, prompts: Any, replies: Sequence[Reply]) -> Scores:
        return Scores(value=torch.tensor([float(r.text) for r in replies]))

    def outputs(self, features: Scores) -> torch.Tensor:
        return self.module(features.value[:, None])

    def head_weight(self) -> torch.Tensor:
        return self.module.weight


def test_fitting_a_reward_model_by_hand() -> None:
    learner = RewardLearner(BradleyTerryConfig(), Reader())  # type: ignore[arg-type]
    pairs = (pair(0, "3", "1"), pair(1, "0", "2"), pair(2, "1", "1"), pair(3, "5", "1"))
    e = learner.collect(Examples(row=torch.arange(4), example=tuple(judged(p) for p in pairs)), Key(0))
    loss = learner.loss(e, learner.weigh(e, learner.totals(e)))
    # differences 2, -2, 0, 4: softplus of -2, 2, 0, -4 over 4; accuracy (1 + 0 + 1/2 + 1) / 4; mean of 3 0 1 5 1 2 1 1
    assert loss.value.item() == pytest.approx(float(np.logaddexp(0, [-2, 2, 0, -4]).mean()), abs=1e-6)
    assert {k: m.value for k, m in loss.metrics.items()} == pytest.approx({"accuracy": 2.5 / 4, "margin": 1.0, "mean_reward": 14 / 8})
