"""What a whole small run writes, checked against its own checkpoints: scales, proxies, likelihoods, truth, prompts."""

from __future__ import annotations

import json
from typing import Any

import pandas as pd
import pytest
import torch
from accelerate import Accelerator

from trueup.core.config import load_config
from trueup.core.rng import Key
from trueup.data.rows import Prompt, Reply
from trueup.data.tokens import encode_prompts, encode_replies, pack
from trueup.models.policy import load_policy
from trueup.models.reward import load_reward
from trueup.pipeline.config import RunConfig
from trueup.pipeline.context import Context
from trueup.pipeline.events import nobody
from trueup.pipeline.feed import feed
from trueup.pipeline.reward import gold_scores, relabelled
from trueup.pipeline.run import execute
from trueup.pipeline.sampling import reference_samples
from trueup.rewards.learned import LearnedReward, read_scale
from trueup.store.records import frame
from trueup.store.run import Run

CONFIG = """
threads: 1
world: {kind: helpdesk, train_prompts: 12, validation_prompts: 4, test_prompts: 6, demonstrations: 64, train_pairs: 32, validation_pairs: 8}
policy_model: {hidden_size: 16, layers: 1, heads: 2}
sft: {epochs: 2, batch_size: 8, loop: {learning_rate: 1.0e-2}}
reward: {epochs: 2, batch_size: 8, reference_samples: 16, loop: {learning_rate: 1.0e-2}}
policy:
  steps: 2
  prompts_per_step: 4
  optimizer: {kind: rloo, num_generations: 2, max_completion_length: 8, temperature: 0.8}
  loop: {learning_rate: 1.0e-2}
probe: {every: 1, prompts: 6, samples_per_prompt: 2}
checkpoint_every: 1
arms:
  - name: static
  - name: refit
    realign: {every: 1, prompts: 4, epochs: 2, batch_size: 8, loop: {learning_rate: 1.0e-2}, select: {kind: random, size: 16}}
  - {name: truth, reward: gold}
"""
REFIT = "refit/rm-1"


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Context:
    """A finished run of three arms."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "config.yaml").write_text(CONFIG)
    config = load_config(folder / "config.yaml", RunConfig)
    execute(config, folder / "out", base=folder)
    assert config.world is not None
    return Context(Run(folder / "out"), config, config.world.build(config.seed, folder), folder, Accelerator(cpu=True), nobody)


@pytest.fixture(scope="module")
def records(context: Context) -> pd.DataFrame:
    found = frame(context.run.records_dir)
    return found[found["arm"] != "offline"].reset_index(drop=True)


@pytest.fixture(scope="module")
def offline(context: Context) -> pd.DataFrame:
    found = frame(context.run.records_dir)
    return found[found["arm"] == "offline"].reset_index(drop=True)


def prompts_of(context: Context, rows: pd.DataFrame) -> tuple[list[Prompt], list[Reply]]:
    known = {p.id: p for s in ("train", "validation", "test") for p in context.world.prompts(s)}  # type: ignore[arg-type]
    replies = [Reply(text=t, finished=bool(f)) for t, f in zip(rows["response"], rows["finished"], strict=True)]
    return [known[i] for i in rows["prompt_id"]], replies


def raw_scores(context: Context, folder: str, rows: pd.DataFrame) -> list[float]:
    prompts, replies = prompts_of(context, rows)
    return LearnedReward(load_reward(context.run.checkpoint(folder))).raw([p.text for p in prompts], replies).tolist()


def test_every_reward_model_is_rescaled_on_the_same_reference_samples(context: Context) -> None:
    prompts, replies = reference_samples(context)
    assert len(replies) == 16
    assert {p.id for p in prompts} <= {p.id for p in context.world.prompts("train")}
    assert (prompts, replies) == reference_samples(context)
    for folder in ("reward", "refit/reward-000001"):
        place = context.run.checkpoint(folder)
        scores = LearnedReward(load_reward(place), read_scale(place)).score([p.text for p in prompts], replies)
        assert (scores.mean().item(), scores.std(correction=0).item()) == pytest.approx((0.0, 1.0), abs=1e-4)


def test_proxies_are_those_of_the_first_model_and_of_the_one_in_force(context: Context, records: pd.DataFrame) -> None:
    first, second = (read_scale(context.run.checkpoint(f)) for f in ("reward", "refit/reward-000001"))
    assert records["scores.rm-0"].tolist() == pytest.approx(raw_scores(context, "reward", records), abs=1e-4)
    assert records["proxy_fixed"].tolist() == pytest.approx((first.gain * records["scores.rm-0"] + first.shift).tolist(), abs=1e-5)
    # the pause after step 1 comes after its measurement, so the new model is in force at step 2 only
    after = (records["arm"] == "refit") & (records["step"] == 2)
    assert after.sum() == 12
    assert records.loc[~after, "proxy_current"].tolist() == records.loc[~after, "proxy_fixed"].tolist()
    assert records[f"scores.{REFIT}"].notna().tolist() == after.tolist()
    now = records[after]
    assert now[f"scores.{REFIT}"].tolist() == pytest.approx(raw_scores(context, "refit/reward-000001", now), abs=1e-4)
    assert now["proxy_current"].tolist() == pytest.approx((second.gain * now[f"scores.{REFIT}"] + second.shift).tolist(), abs=1e-5)
    assert (now["proxy_current"] - now["proxy_fixed"]).abs().max() > 1e-2


def test_held_out_pairs_are_scored_by_every_model(context: Context, offline: pd.DataFrame) -> None:
    assert set(offline["split"]) == {"validation"}
    assert len(offline) == 16
    for name, folder in (("rm-0", "reward"), (REFIT, "refit/reward-000001")):
        assert offline[f"scores.{name}"].tolist() == pytest.approx(raw_scores(context, folder, offline), abs=1e-4)
    for row in offline.itertuples():
        assert [label["preference"] for label in row.labels] == [float(row.sample_id.endswith(":chosen"))]
        assert row.labels[0]["other_sample_id"].rsplit(":", 1)[0] == row.sample_id.rsplit(":", 1)[0]
    chosen = {(p.prompt.id, p.chosen.text) for p in context.world.preferences("validation")}
    mine = offline[offline["sample_id"].str.endswith(":chosen")]
    assert set(zip(mine["prompt_id"], mine["response"], strict=True)) == chosen


def test_gold_is_the_worlds(context: Context, records: pd.DataFrame, offline: pd.DataFrame) -> None:
    for rows in (records, offline):
        prompts, replies = prompts_of(context, rows)
        assert rows["gold"].tolist() == pytest.approx(gold_scores(context.world, prompts, replies), abs=1e-9)


def test_checkpoints_are_measured_on_test_prompts_and_common_numbers(context: Context, records: pd.DataFrame) -> None:
    assert set(records["split"]) == {"test"}
    assert set(records["prompt_id"]) == {p.id for p in context.world.prompts("test")}
    assert records.groupby(["arm", "step"]).size().tolist() == [12] * 9
    assert records["sample_id"].is_unique
    start = [group["response"].tolist() for _, group in records[records["step"] == 0].groupby("arm")]
    assert start[0] == start[1] == start[2]
    assert records["decoding"].map(lambda d: (d["temperature"], d["max_tokens"])).unique().tolist() == [(0.8, 8)]


@pytest.mark.parametrize("place", [("static", 0), ("static", 2), ("refit", 2)])
def test_likelihoods_and_kl_are_those_of_the_checkpoints(context: Context, records: pd.DataFrame, place: tuple[str, int]) -> None:
    arm, step = place
    rows = records[(records["arm"] == arm) & (records["step"] == step)]
    policy, reference = (load_policy(context.run.checkpoint(f)) for f in (f"{arm}/policy-{step:06d}", "sft"))
    prompts, replies = prompts_of(context, rows)
    ids = encode_replies(policy.tokenizer, replies)
    assert rows["n_tokens"].tolist() == [len(i) for i in ids]  # this world's text gives its tokens back
    seq = pack(encode_prompts(policy.tokenizer, [p.text for p in prompts]), ids, 0)
    with torch.no_grad():
        ours, theirs = ((m.logits(seq).float() / 0.8).log_softmax(-1) for m in (policy, reference))
    for name, logp in (("logp_policy_nats", ours), ("logp_ref_nats", theirs)):
        chosen = torch.where(seq.mask, logp.gather(-1, seq.replies[..., None]).squeeze(-1), 0.0).sum(1)
        assert rows[name].tolist() == pytest.approx(chosen.tolist(), abs=1e-4)
    kl = torch.where(seq.mask, (ours.exp() * (ours - theirs)).sum(-1), 0.0).sum(1)
    assert rows["kl_policy_ref_exact_nats"].tolist() == pytest.approx(kl.tolist(), abs=1e-4)
    assert (rows["logp_sampling_nats"] - rows["logp_policy_nats"]).abs().max() < 1e-3
    assert kl.max() < 1e-6 if step == 0 else kl.min() > 1e-4


def test_a_refit_changes_the_reward_from_the_next_step_on(context: Context) -> None:
    found: dict[str, list[dict[str, Any]]] = {"static": [], "refit": [], "truth": []}
    for line in context.run.metrics_path.read_text().splitlines():
        row = json.loads(line)
        if row["stage"] == "policy":
            found[row["arm"]].append(row["metrics"])
    static, refit, truth = found.values()
    assert [len(rows) for rows in (static, refit, truth)] == [2, 2, 2]
    assert refit[0] == static[0]  # the same policy, numbers and reward
    assert refit[1]["completions/mean_length"] == static[1]["completions/mean_length"]
    assert refit[1]["reward"] != pytest.approx(static[1]["reward"], abs=1e-3)
    assert truth[0]["objective/kl"] == static[0]["objective/kl"]
    assert truth[0]["reward"] != pytest.approx(static[0]["reward"], abs=1e-3)


def test_the_policy_learns_on_training_prompts_only(context: Context) -> None:
    assert context.config.policy is not None
    stage = context.config.policy
    batch_of = feed(context, stage.optimizer, load_policy(context.run.checkpoint("sft")), [], stage.prompts_per_step, Key(3))
    seen = [p for step in range(6) for p in batch_of(step).prompt]
    train = [p.text for p in context.world.prompts("train")]
    assert sorted(map(str, seen)) == sorted(map(str, 2 * train))  # six batches of four: two epochs of twelve
    assert batch_of(3).row.tolist() == [0, 1, 2, 3]


def test_clean_pairs_are_ordered_by_gold(context: Context) -> None:
    pairs = list(context.world.preferences("train"))
    ordered = relabelled(context, pairs)
    for before, after in zip(pairs, ordered, strict=True):
        assert {after.chosen.text, after.rejected.text} == {before.chosen.text, before.rejected.text}
        good, bad = (gold_scores(context.world, [after.prompt], [r])[0] for r in (after.chosen, after.rejected))
        assert good >= bad
    assert 0 < sum(a.chosen != b.chosen for a, b in zip(pairs, ordered, strict=True)) < len(pairs)
