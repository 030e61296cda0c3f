"""Arms whose optimizer learns from pairs or demonstrations: what they are fed, what they need, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from accelerate import Accelerator

import trueup
from trueup.core.config import validate
from trueup.core.errors import UserError
from trueup.core.rng import Key
from trueup.models.policy import load_policy
from trueup.optimizers.dpo import DPOConfig
from trueup.optimizers.sft import SFTConfig
from trueup.pipeline.config import RunConfig
from trueup.pipeline.context import Context
from trueup.pipeline.events import nobody
from trueup.pipeline.feed import feed
from trueup.pipeline.sampling import decoding_of
from trueup.rewards.absent import AbsentReward
from trueup.store.records import read_records
from trueup.store.run import Run

PAIRS_ONLY: dict[str, Any] = {
    "threads": 1,
    "world": {"kind": "helpdesk", "train_prompts": 12, "validation_prompts": 6, "test_prompts": 6, "demonstrations": 32,
              "train_pairs": 24, "validation_pairs": 10},
    "policy_model": {"hidden_size": 16, "layers": 1, "heads": 2},
    "sft": {"epochs": 1, "batch_size": 16},
    "reward": None,
    "policy": {"steps": 2, "prompts_per_step": 8, "optimizer": {"kind": "dpo", "max_completion_length": 7}},
    "probe": {"every": 2, "prompts": 4, "samples_per_prompt": 2},
    "arms": [{"name": "dpo"}, {"name": "ipo", "optimizer": {"kind": "ipo"}}, {"name": "more-sft", "optimizer": "sft"}],
}  # fmt: skip


def config(**changes: Any) -> RunConfig:
    return validate({**PAIRS_ONLY, **changes}, RunConfig, where="here")


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of all three arms."""
    root = tmp_path_factory.mktemp("offline") / "out"
    trueup.train(PAIRS_ONLY, root)
    return root


@pytest.fixture(scope="module")
def context(out: Path) -> Context:
    found = config()
    assert found.world is not None
    return Context(Run(out), found, found.world.build(found.seed, out), out, Accelerator(cpu=True), nobody)


def test_no_reward_model_is_trained_and_gold_is_measured_all_the_same(out: Path) -> None:
    assert not (out / "checkpoints/reward").exists()
    records = read_records(out)
    assert {(r.arm, r.step) for r in records} == {(a, s) for a in ("dpo", "ipo", "more-sft") for s in (0, 2)}
    assert all(r.gold is not None and r.proxy_fixed is None and not r.scores for r in records)
    assert all(r.n_tokens <= 7 for r in records)
    metrics = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    steps = {arm: [m["metrics"] for m in metrics if m["arm"] == arm] for arm in ("dpo", "ipo", "more-sft")}
    assert len(steps["dpo"]) == 2
    # policy and reference are one at the first step: loss ln 2 of DPO, (0 - 1 / (2 * .1))^2 = 25 of IPO
    assert steps["dpo"][0]["loss"] == pytest.approx(0.6931472, abs=1e-5)
    assert steps["ipo"][0]["loss"] == pytest.approx(25, abs=1e-3)
    assert steps["dpo"][1]["rewards/margins"] > 0
    assert "nll_nats" in steps["more-sft"][0]


def test_every_pair_is_read_once_an_epoch(context: Context, out: Path) -> None:
    pool = list(context.world.preferences("train"))
    policy = load_policy(out / "checkpoints/sft")
    batch_of = feed(context, DPOConfig(), policy, pool, 8, Key(1))
    seen = [g.id for step in range(3) for g in batch_of(step).example]
    assert sorted(seen) == sorted(p.id for p in pool)  # three batches of eight: 24 pairs
    group = batch_of(0).example[0]
    pair = next(p for p in pool if p.id == group.id)
    assert group.replies == (pair.chosen, pair.rejected)
    shown = feed(context, SFTConfig(), policy, pool, 8, Key(1))(0).example
    assert all(d in context.world.demonstrations() for d in shown)


def test_a_world_without_the_data_is_named(context: Context, out: Path) -> None:
    with pytest.raises(UserError, match="'dpo' learns from preferences, and the world has none"):
        feed(context, DPOConfig(), load_policy(out / "checkpoints/sft"), [], 8, Key(1))


def test_probes_sample_as_the_optimizer_says(context: Context) -> None:
    assert decoding_of(context).max_tokens == 7


def test_an_offline_arm_beside_a_reward_model_is_measured_by_it(tmp_path: Path) -> None:
    reward = {"epochs": 1, "batch_size": 12, "reference_samples": 12}
    trueup.train({**PAIRS_ONLY, "reward": reward, "arms": [{"name": "dpo"}]}, tmp_path / "out", report=False)
    records = [r for r in read_records(tmp_path / "out") if r.arm == "dpo"]
    assert all(r.proxy_fixed is not None for r in records)
    assert {name for r in records for name in r.scores} == {"rm-0"}


def test_what_needs_a_reward_still_needs_one() -> None:
    with pytest.raises(UserError, match="arm 'b' needs a reward model"):
        config(arms=[{"name": "a"}, {"name": "b", "optimizer": "rloo"}])
    with pytest.raises(UserError, match="arm 'b' needs a reward model"):
        config(arms=[{"name": "b", "reward": {"kind": "clip", "low": -1, "high": 1}}])
    with pytest.raises(UserError, match="'reward' is null and the arm names none"):
        AbsentReward().score([], [])


def test_a_refit_that_nothing_would_see_is_refused() -> None:
    realign = {"every": 1, "prompts": 4, "epochs": 1, "select": {"kind": "random", "size": 4}}
    with pytest.raises(UserError, match="arm 'a': 'realign' refits a reward model, which 'dpo' does not look at"):
        config(reward={}, arms=[{"name": "a", "realign": realign}])
    assert config(reward={}, arms=[{"name": "a", "optimizer": "rloo", "realign": realign}]).arms[0].realign is not None


def test_pairs_are_asked_for_only_where_something_learns_from_them() -> None:
    check = {"kind": "pattern", "expression": "the"}
    assert config().needs_pairs()
    assert not config(arms=[{"name": "a", "optimizer": "rloo", "reward": check}]).needs_pairs()
    assert not config(arms=[{"name": "a", "optimizer": "sft"}]).needs_pairs()
