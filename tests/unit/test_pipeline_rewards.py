"""Runs whose arms optimise more than one reward model: what members share, what is written of them, what is found again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file

import trueup
from tests_support import tiny_policy
from trueup.core.config import validate
from trueup.core.errors import UserError
from trueup.core.record import SampleRecord
from trueup.core.rng import Key
from trueup.data.pairs import judged_pairs, pairs_of
from trueup.data.rows import Judged, Preference, Prompt, Reply, judged
from trueup.data.segments import Category
from trueup.models.reward import TrunkReward, load_reward
from trueup.pipeline import members as members_module
from trueup.pipeline.calibrate import calibrate, claimed, shuffled
from trueup.pipeline.config import RunConfig
from trueup.pipeline.context import Context
from trueup.pipeline.events import nobody
from trueup.pipeline.members import Shared, last_layer
from trueup.pipeline.reward import rescaling, training_groups
from trueup.pipeline.sampling import reference_samples
from trueup.pipeline.sources import Sources, check_rewards
from trueup.rewards.calibrated import read_calibration
from trueup.rewards.dense_reward import SegmentReward, load_dense, save_dense
from trueup.rewards.ensemble import HeadsReward
from trueup.rewards.kinds.dense import DenseConfig
from trueup.rewards.learned import LearnedReward, Scale, read_scale
from trueup.rewards.objectives.heads import HeadsConfig
from trueup.stats.recalibration import fit_calibration
from trueup.store.records import frame, read_records
from trueup.store.run import Run
from trueup.store.stage_cache import VARIABLE

SMALL: dict[str, Any] = {
    "threads": 1,
    "world": {"kind": "helpdesk", "train_prompts": 12, "validation_prompts": 6, "test_prompts": 6, "demonstrations": 32,
              "train_pairs": 24, "validation_pairs": 10},
    "policy_model": {"hidden_size": 16, "layers": 1, "heads": 2},
    "sft": {"epochs": 1, "batch_size": 16},
    "reward": {"epochs": 1, "batch_size": 12, "reference_samples": 12, "loop": {"learning_rate": 1e-2}},
    "policy": {"steps": 1, "prompts_per_step": 4, "optimizer": {"kind": "rloo", "num_generations": 2, "max_completion_length": 6}},
    "probe": {"every": 1, "prompts": 6, "samples_per_prompt": 2},
}  # fmt: skip
ARMS = [
    {"name": "static"},
    {"name": "min", "reward": {"kind": "ensemble", "members": 2, "rule": "min"}},
    {"name": "order", "reward": {"kind": "ensemble", "members": 2, "differ": "order"}},
    {"name": "own", "reward": {"kind": "ensemble", "members": 2, "differ": "pretraining", "rule": "uwo"}},
    {"name": "heads", "reward": {"kind": "shared_trunk", "members": 3}},
    {"name": "warm", "reward": {"kind": "average", "members": 2}},
    {"name": "mixed", "reward": {"kind": "sum", "parts": [
        {"reward": {"kind": "clip", "low": -0.5, "high": 0.5}},
        {"weight": 2, "reward": {"kind": "pattern", "expression": "the"}},
        {"weight": 3, "reward": {"kind": "ensemble", "members": 2, "differ": "order", "rule": "mean_std"}}]}},
    {"name": "clean", "reward": "clean"},
    {"name": "gold", "reward": "gold"},
]  # fmt: skip


def context_of(out: Path, config: RunConfig, base: Path | None = None) -> Context:
    assert config.world is not None
    base = base or out
    return Context(Run(out), config, config.world.build(config.seed, base), base, Accelerator(cpu=True), nobody)


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Context:
    """A finished run of all of them."""
    out = tmp_path_factory.mktemp("run") / "out"
    trueup.train({**SMALL, "arms": ARMS}, out)
    return context_of(out, validate({**SMALL, "arms": ARMS}, RunConfig, where="here"))


@pytest.fixture(scope="module")
def records(context: Context) -> pd.DataFrame:
    return frame(context.run.records_dir)


def arm(records: pd.DataFrame, name: str) -> pd.DataFrame:
    found = records[records["arm"] == name]
    assert len(found) == (20 if name == "offline" else 24)
    return found


def asked(context: Context, rows: pd.DataFrame) -> tuple[list[Any], list[Reply]]:
    known = {p.id: p.text for s in ("train", "validation", "test") for p in context.world.prompts(s)}  # type: ignore[arg-type]
    finished = [bool(f) for f in rows["finished"]]
    return [known[i] for i in rows["prompt_id"]], [Reply(text=t, finished=f) for t, f in zip(rows["response"], finished, strict=True)]


def scored(context: Context, folder: str, rows: pd.DataFrame) -> np.ndarray[Any, Any]:
    """Rescaled scores of a saved reward model, read as anyone would."""
    place = context.run.checkpoint(folder)
    return LearnedReward(load_reward(place), read_scale(place)).score(*asked(context, rows)).double().numpy()


def test_all_are_rescaled_on_the_same_replies(context: Context) -> None:
    prompts, replies = reference_samples(context)
    texts = [p.text for p in prompts]
    for name in ("reward", "reward-head-1", "reward-order-1", "reward-pretraining-1", "reward-average-order-2", "reward-clean"):
        place = context.run.checkpoint(name)
        found = LearnedReward(load_reward(place), read_scale(place)).score(texts, replies)
        assert (found.mean().item(), found.std(correction=0).item()) == pytest.approx((0.0, 1.0), abs=1e-3), name
    place = context.run.checkpoint("reward-heads-3-0.8")
    scales = [Scale(**s) for s in json.loads((place / "trueup_scales.json").read_text())]
    heads = HeadsReward(load_reward(place), scales).member_scores(texts, replies)
    assert heads.shape == (3, 12)
    np.testing.assert_allclose(heads.mean(1), 0, atol=1e-3)
    np.testing.assert_allclose(heads.std(1, correction=0), 1, atol=1e-3)


def test_members_differ_in_what_they_should(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    started: dict[str, Any] = {}

    def caught(context: Context, fit: Any, model: Any, policy: Any, folder: str) -> LearnedReward:
        started[folder] = (fit, {k: v.clone() for k, v in model().module.state_dict().items()})
        return LearnedReward(model())

    monkeypatch.setattr(members_module, "fitted", caught)
    shared = shared_of(context)
    first = members_module.new_model(context, shared.policy, context.reward_stage, context.key / "reward_model").module.state_dict()
    for differ in ("head", "order", "pretraining"):
        members_module.member(shared, differ, 1)  # type: ignore[arg-type]
    fits = {name.split("-")[1]: value for name, value in started.items()}
    trunk = [k for k in first if k != "score.weight"]
    own = {d: (torch.equal(w["score.weight"], first["score.weight"]), all(torch.equal(w[k], first[k]) for k in trunk),
               f.key == context.key / "reward") for d, (f, w) in fits.items()}  # fmt: skip
    # same head, same trunk, same order of the data as the run's own reward model
    assert own == {"head": (False, True, True), "order": (True, True, False), "pretraining": (False, False, False)}
    assert all(list(f.groups) == list(shared.groups) for f, _ in fits.values())
    started.clear()
    members_module.member(shared, "head", 2)
    assert not torch.equal(started["reward-head-2"][1]["score.weight"], fits["head"][1]["score.weight"])


def shared_of(context: Context) -> Shared:
    from trueup.models.policy import load_policy

    pairs = list(context.world.preferences("train"))
    held = list(context.world.preferences("validation"))
    return Shared(context=context, policy=load_policy(context.run.checkpoint("sft")), groups=training_groups(context, pairs), held_out=held)


def test_ensembles_are_what_their_members_say(context: Context, records: pd.DataFrame) -> None:
    for name, other, rule in (
        ("min", "head-1", lambda m: m.min(0)),
        ("order", "order-1", lambda m: m.mean(0)),
        ("own", "pretraining-1", lambda m: m.mean(0) - 0.5 * m.var(0)),
    ):
        for rows in (arm(records, name), arm(records, "offline")):
            members = np.stack([scored(context, f, rows) for f in ("reward", f"reward-{other}")])
            np.testing.assert_allclose(rows[f"scores.{name}/reward"], rule(members), atol=1e-3)
        rows = arm(records, name)
        np.testing.assert_allclose(rows["proxy_fixed"], rows[f"scores.{name}/reward"])
        np.testing.assert_allclose(rows["proxy_current"], rows["proxy_fixed"])
        members = np.stack([scored(context, f, rows) for f in ("reward", f"reward-{other}")])
        np.testing.assert_allclose(rows["disagreement"], members.std(0), atol=1e-3)
        assert rows["disagreement"].max() > 1e-2


def test_a_sum_is_that_of_its_parts(context: Context, records: pd.DataFrame) -> None:
    rows = arm(records, "mixed")
    first, second = (scored(context, f, rows) for f in ("reward", "reward-order-1"))
    half = np.abs(first - second) / 2
    expected = first.clip(-0.5, 0.5) + 2 * rows["response"].str.contains("the") + 3 * ((first + second) / 2 - 0.5 * half)
    np.testing.assert_allclose(rows["proxy_current"], expected, atol=2e-3)
    np.testing.assert_allclose(rows["disagreement"], half, atol=1e-3)


def test_averaged_weights_are_the_mean(context: Context, records: pd.DataFrame) -> None:
    one, two, mean = (
        load_file(context.run.checkpoint(f) / "model.safetensors") for f in ("reward", "reward-order-1", "reward-average-order-2")
    )
    assert any(not torch.equal(one[k], two[k]) for k in one)
    assert all(torch.allclose(mean[k], (one[k] + two[k]) / 2, atol=1e-7) for k in mean)
    np.testing.assert_allclose(
        arm(records, "warm")["proxy_current"], scored(context, "reward-average-order-2", arm(records, "warm")), atol=1e-3
    )
    facts = context.run.done("reward-average-order-2")
    assert facts is not None
    (line,) = facts["lines"]
    rows = arm(records, "offline")
    right = scored(context, "reward", rows)
    ends = [float(np.mean(s[::2] > s[1::2])) for s in (right, scored(context, "reward-order-1", rows))]
    assert (line["share"], [line["accuracy"][0], line["accuracy"][-1]]) == ([0, 0.25, 0.5, 0.75, 1], pytest.approx(ends))
    assert facts["largest_fall"] == max(b - a for a, b in zip(line["accuracy"], line["interpolated"], strict=True))
    assert (facts["members"], arm(records, "warm")["disagreement"].isna().all()) == (2, True)


def test_controls_keep_their_own_proxies(context: Context, records: pd.DataFrame) -> None:
    clean, gold, static, offline = (arm(records, n) for n in ("clean", "gold", "static", "offline"))
    np.testing.assert_allclose(clean["proxy_fixed"], scored(context, "reward-clean", clean), atol=1e-3)
    assert clean["scores.rm-0"].isna().all()
    np.testing.assert_allclose(gold["proxy_fixed"], scored(context, "reward", gold), atol=1e-3)
    assert not any(c.endswith("/reward") and static[c].notna().any() for c in records.columns)
    # rows that belong to all arms have no first proxy, since arms begin with different ones; every first proxy has its column
    assert offline["proxy_fixed"].isna().all()
    names = {"rm-0", "rm-clean", "min/reward", "order/reward", "own/reward", "heads/reward", "warm/reward", "mixed/reward"}
    assert {c.removeprefix("scores.") for c in offline.columns if c.startswith("scores.") and offline[c].notna().all()} == names
    np.testing.assert_allclose(
        offline["scores.rm-clean"], (scored(context, "reward-clean", offline) - _shift(context)) / _gain(context), atol=1e-3
    )


def _gain(context: Context) -> float:
    return read_scale(context.run.checkpoint("reward-clean")).gain


def _shift(context: Context) -> float:
    return read_scale(context.run.checkpoint("reward-clean")).shift


def test_policies_learn_from_what_their_arm_says(context: Context) -> None:
    found = {r["arm"]: r["metrics"] for r in context.run.metrics() if r["stage"] == "policy"}
    assert set(found) == {a["name"] for a in ARMS}
    # one step on the same replies: only the reward differs, and no two arms have the same
    assert len({m["completions/mean_length"] for m in found.values()}) == 1
    assert len({round(m["reward"], 6) for m in found.values()}) == len(ARMS)


def test_a_finished_run_is_read_back(context: Context) -> None:
    before = (context.run.root / "ledger.jsonl").read_bytes()
    files = {p: p.read_bytes() for p in (context.run.root / "records").glob("*.parquet")}
    trueup.train({**SMALL, "arms": ARMS}, context.run.root, resume=True, report=False)
    assert (context.run.root / "ledger.jsonl").read_bytes() == before
    assert all(p.read_bytes() == b for p, b in files.items())


@pytest.mark.slow
def test_members_come_from_the_cache_and_never_anothers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "cache"))
    arms = [{"name": n, "reward": {"kind": "ensemble", "members": 2, "differ": n}} for n in ("head", "order", "pretraining")]
    arms.append({"name": "heads", "reward": {"kind": "shared_trunk", "members": 2}})

    def taken(name: str, **more: Any) -> set[str]:
        trueup.train({**SMALL, "arms": arms, **more}, tmp_path / name, report=False)
        return {r["stage"] for r in Run(tmp_path / name).metrics() if r["arm"] is None} & {
            json.loads(line)["stage"] for line in (tmp_path / name / "ledger.jsonl").read_text().splitlines()
        }

    shared = {"reward-head-1", "reward-order-1", "reward-pretraining-1", "sft-pretraining-1", "reward-heads-2-0.8"}
    assert shared <= taken("first")
    assert taken("again") & shared == set()
    assert taken("other", reward={**SMALL["reward"], "epochs": 2}) & shared == shared - {"sft-pretraining-1"}
    names = [f"reward-{n}/model.safetensors" for n in ("head-1", "order-1", "pretraining-1", "heads-2-0.8")]
    for name in names:
        assert (tmp_path / "first/checkpoints" / name).read_bytes() == (tmp_path / "again/checkpoints" / name).read_bytes()
    assert len({(tmp_path / "first/checkpoints" / name).read_bytes() for name in names}) == 4
    assert frame(tmp_path / "first").equals(frame(tmp_path / "again"))


def test_an_adapter_is_trained_merged_and_varied(tmp_path: Path) -> None:
    reward = {**SMALL["reward"], "model": {"lora": {"rank": 2, "alpha": 8}}}
    realign = {"every": 1, "prompts": 2, "epochs": 1, "batch_size": 8, "select": {"kind": "random", "size": 8}}
    arms = [{"name": "a", "reward": {"kind": "ensemble", "members": 2, "differ": "adapter"}}, {"name": "refit", "realign": realign}]
    policy = {**SMALL["policy"], "steps": 2}
    trueup.train({**SMALL, "reward": reward, "arms": arms, "policy": policy}, tmp_path / "out", report=False)
    sft, *models = (
        load_file(tmp_path / "out/checkpoints" / n / "model.safetensors")
        for n in ("sft", "reward", "reward-adapter-1", "refit/reward-000001")
    )
    for one in models:
        assert not [k for k in one if "lora" in k]
        assert torch.equal(one["model.norm.weight"], sft["model.norm.weight"])  # frozen
        key = "model.layers.0.mlp.up_proj.weight"
        change = one[key] - sft[key]
        assert change.abs().max() > 1e-4
    first = models[0][key] - sft[key]
    assert torch.linalg.matrix_rank(first, atol=1e-5) <= 2
    assert not torch.equal(models[0][key], models[1][key])


SUMS = [{"prompt": f"what is {a} plus {b} ?", "answer": a + b} for a in range(1, 7) for b in range(1, 6)]
WORDS = ["what", "is", "plus", "?", "the", "answer", "maybe", "no", "idea", ".", *map(str, range(1, 13))]


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    """Files of a small world of sums: prompts with answers, demonstrations, rankings in two domains, and a policy."""
    from trueup.models.policy import Policy
    from trueup.models.tiny import tiny_llama, tiny_tokenizer

    def write(name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        (tmp_path / name).write_text("".join(json.dumps(r) + "\n" for r in rows))

    write("sums.jsonl", SUMS)
    write("demos.jsonl", [{"prompt": r["prompt"], "completion": f"the answer is {r['answer']} ."} for r in SUMS])
    ranked = [[f"the answer is {r['answer']} .", f"maybe {r['answer']} ?", "no idea ."] for r in SUMS]
    domains = ["small" if r["answer"] < 7 else "large" for r in SUMS]
    rows = zip(SUMS, ranked, domains, strict=True)
    write("ranks.jsonl", [{"prompt": r["prompt"], "responses": t, "ranking": [1, 2, 3], "domain": d} for r, t, d in rows])
    tokenizer = tiny_tokenizer(WORDS)
    Policy(tiny_llama(len(tokenizer), 16, 1, 2, 32, key=Key(0)), tokenizer).save(tmp_path / "policy")
    return tmp_path


def sums(base: Path, **more: Any) -> dict[str, Any]:
    return {
        **SMALL,
        "world": {"kind": "files", "prompts": str(base / "sums.jsonl"), "tags": ["answer"], "demonstrations": str(base / "demos.jsonl")},
        "policy_model": {"path": str(base / "policy")},
        "sft": {"epochs": 4, "batch_size": 8, "loop": {"learning_rate": 1e-2}},
        "reward": None,
        **more,
    }


def test_answers_alone_need_no_reward_model(desk: Path) -> None:
    check = {"kind": "sum", "parts": [{"reward": "numeric_answer"}, {"weight": 0.5, "reward": {"kind": "exact_match", "contained": True}}]}
    arms = [{"name": "right", "reward": "numeric_answer"}, {"name": "both", "reward": check}]
    result = trueup.train(sums(desk, arms=arms), desk / "out")
    assert result.arms == ("right", "both")
    records = read_records(desk / "out")
    answers = {r["prompt"]: r["answer"] for r in SUMS}
    assert len(records) == 2 * 2 * 3 * 2  # arms, checkpoints, test prompts, samples
    for r in records:
        words = r.response.replace(".", " ").split()
        numbers = [int(w) for w in words if w.isdigit()]
        right = float(bool(numbers) and numbers[-1] == answers[r.prompt])
        among = float(str(answers[r.prompt]) in words)
        assert r.proxy_fixed == r.proxy_current == r.scores[f"{r.arm}/reward"] == (right if r.arm == "right" else right + 0.5 * among)
        assert (r.disagreement, set(r.scores)) == (None, {f"{r.arm}/reward"})
    assert {r.proxy_fixed for r in records} >= {0.0, 1.0}
    assert not (desk / "out/checkpoints/reward").exists()


def test_prompts_without_answers_are_named_before_anything_is_trained(desk: Path) -> None:
    config = sums(desk, arms=[{"name": "right", "reward": {"kind": "numeric_answer", "tag": "solution"}}])
    with pytest.raises(UserError, match=r"arm 'right': numeric_answer needs the tag 'solution'.*27 of 27 lack it.*world.tags"):
        trueup.train(config, desk / "out")
    assert not (desk / "out/ledger.jsonl").exists()
    config["world"]["tags"] = ["solution"]
    with pytest.raises(UserError, match=r"sums.jsonl, line 1, field 'solution': the field is missing"):
        trueup.train(config, desk / "out2")
    config = sums(desk, arms=[{"name": "truth", "reward": "gold"}])
    with pytest.raises(UserError, match="knows no truth"):
        trueup.train(config, desk / "out3")
    assert not (desk / "out3/ledger.jsonl").exists()
    with pytest.raises(UserError, match="needs 'preferences', 'judgements' or 'prompts'"):
        trueup.train({**config, "world": {"kind": "files"}}, desk / "out4")


def test_a_product_of_negative_rewards_says_what_to_do(desk: Path) -> None:
    rules = {"kind": "rules", "rules": [{"name": "the", "expression": "the", "weight": -1}]}
    arms = [{"name": "a", "reward": {"kind": "product", "parts": [{"reward": rules}]}}]
    with pytest.raises(UserError, match=r"rewards of at least 0, got -1\. Shape them first"):
        trueup.train(sums(desk, arms=arms), desk / "out")


def judged_world(desk: Path, **more: Any) -> dict[str, Any]:
    world = {"kind": "files", "judgements": str(desk / "ranks.jsonl"), "demonstrations": str(desk / "demos.jsonl")}
    reward = {**SMALL["reward"], "epochs": 8, "objective": "plackett_luce"}
    return sums(desk, world=world, reward=reward, arms=[{"name": "static"}], **more)


def test_rankings_are_learned_whole_and_held_out_in_pairs(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: set[int] = set()
    from trueup.rewards import fit

    seen = fit.judgements
    monkeypatch.setattr(fit, "judgements", lambda groups, row: sizes.update(len(g.replies) for g in groups) or seen(groups, row))
    trueup.train(judged_world(desk), desk / "out", report=False)
    assert sizes == {3}
    run = Run(desk / "out")
    facts, offline = run.done("reward"), run.done("offline")
    assert facts is not None
    assert offline is not None
    assert (facts["pairs"], facts["steps"]) == (24, 16)  # 24 of 30 rankings are for training; 8 epochs of two batches
    assert offline["pairs"] == 9  # three pairs each of three held-out rankings
    assert offline["accuracy"] > 0.6
    ratings: set[float] = set()
    monkeypatch.setattr(
        fit,
        "judgements",
        lambda groups, row: ratings.update(x for g in groups if len(g.replies) == 2 for x in g.ratings) or seen(groups, row),
    )
    realign = {"every": 1, "prompts": 4, "epochs": 1, "batch_size": 8, "select": {"kind": "random", "size": 40}}
    again = {**judged_world(desk), "policy": {**SMALL["policy"], "steps": 2}, "arms": [{"name": "refit", "realign": realign}]}
    trueup.train(again, desk / "refit", report=False)
    assert ratings == {-1.0, -2.0, -3.0}  # pairs of a refit keep the ranks of their rankings
    given = {**judged_world(desk), "world": {**judged_world(desk)["world"], "preferences": "x.jsonl"}}
    with pytest.raises(UserError, match="'preferences' or 'judgements', not both"):
        trueup.train(given, desk / "out2")


def test_groups_as_pairs() -> None:
    prompt = Prompt(id="p", text="ask", tags={"kind": "x"})
    replies = tuple(Reply(text=t) for t in ("a", "b", "c"))
    group = Judged(id="g", prompt=prompt, replies=replies, ratings=(1.0, 3.0, 1.0), domain="chat", annotator="me", where="here")
    found = pairs_of([group])
    assert [(p.id, p.chosen.text, p.rejected.text) for p in found] == [("g:1-0", "b", "a"), ("g:1-2", "b", "c")]  # a and c are tied
    assert all(p.prompt.tags == {"kind": "x", "domain": "chat"} and (p.annotator, p.where) == ("me", "here") for p in found)
    pair = Preference(id="q", prompt=prompt, chosen=replies[1], rejected=replies[0], margin=2.0)
    assert pairs_of([judged(pair)]) == [pair]
    assert judged_pairs([judged(pair)]) == {"q": judged(pair)}
    twos = judged_pairs([group])
    assert {k: (tuple(r.text for r in v.replies), v.ratings) for k, v in twos.items()} == {
        "g:1-0": (("b", "a"), (3.0, 1.0)),
        "g:1-2": (("b", "c"), (3.0, 1.0)),
    }


def test_a_reward_model_trained_elsewhere_is_used_as_it_is(desk: Path) -> None:
    trueup.train(judged_world(desk), desk / "made", report=False)
    made = desk / "made/checkpoints/reward"
    given = {"train": False, "reference_samples": 12, "model": {"trunk": "path", "path": str(made)}}
    both = {"kind": "sum", "parts": [{"reward": "learned"}, {"reward": "numeric_answer"}]}
    config = sums(desk, reward=given, arms=[{"name": "static"}, {"name": "sum", "reward": both}])
    trueup.train(config, desk / "out", report=False)
    kept = desk / "out/checkpoints/reward"
    assert (kept / "model.safetensors").read_bytes() == (made / "model.safetensors").read_bytes()
    context = context_of(desk / "out", validate(config, RunConfig, where="here"))
    assert read_scale(kept) == rescaling(context, load_reward(made))
    assert not [r for r in context.run.metrics() if r["stage"] == "reward"]
    facts = context.run.done("reward")
    assert facts is not None
    assert (facts["steps"], facts["from"]) == (0, str(made))
    rows = frame(desk / "out")
    assert rows[rows["arm"] == "static"]["scores.rm-0"].notna().all()
    with pytest.raises(UserError, match="not a reward model"):
        trueup.train({**config, "reward": {**given, "model": {"trunk": "path", "path": str(desk / "policy")}}}, desk / "bad")


def test_members_that_cannot_differ_so(desk: Path) -> None:
    config = {**judged_world(desk), "arms": [{"name": "a", "reward": {"kind": "ensemble", "members": 2, "differ": "pretraining"}}]}
    with pytest.raises(UserError, match=r"the policy is given\. Name others in 'trunks'"):
        trueup.train(config, desk / "out", report=False)
    config["arms"][0]["reward"]["trunks"] = [str(desk / "policy")]
    trueup.train(config, desk / "out2", report=False)
    (place,) = (desk / "out2/checkpoints").glob("reward-pretraining-1-*")
    first, other = (load_file(p / "model.safetensors") for p in (desk / "out2/checkpoints/reward", place))
    assert not torch.equal(first["score.weight"], other["score.weight"])


def test_a_run_builds_dense_rewards_to_scale(context: Context, tmp_path: Path) -> None:
    model = load_reward(context.run.checkpoint("reward"))
    assert isinstance(model, TrunkReward)
    save_dense(tmp_path / "judge", SegmentReward(model, [Category(name="whole", labels=("wrong",), unit="reply", reading="chance")]))
    sources = Sources(shared_of(context), None)
    reward = DenseConfig(path=str(tmp_path / "judge")).build(sources)
    prompts, replies = reference_samples(context)
    found = reward.score([p.text for p in prompts], replies)
    assert found.std(correction=0).item() == pytest.approx(1.0, abs=1e-4)
    plain = load_dense(tmp_path / "judge").score([p.text for p in prompts], replies)
    torch.testing.assert_close(found, plain / plain.std(correction=0), rtol=1e-4, atol=1e-5)
    with pytest.raises(UserError, match=r"no dense reward model"):
        DenseConfig(path=str(context.run.checkpoint("sft"))).build(sources)


class Lengths:
    """An embedder of two numbers: words and the first word's length."""

    name, dimension = "lengths", 2

    def embed(self, texts: Sequence[str]) -> np.ndarray[Any, Any]:
        return np.array([[len(t.split()), len(t.split()[0]) if t.split() else 0] for t in texts], dtype=np.float32)

    def flush(self) -> None:
        """Nothing is kept."""


def test_a_bayesian_head_is_rescaled_and_unsure(context: Context) -> None:
    shared = shared_of(context)
    context.__dict__["embedder"] = Lengths()
    prompts, replies = reference_samples(context)
    texts = [p.text for p in prompts]
    sources = Sources(shared, None)
    references = sources.references(2)
    assert all(len(r) == 2 for r in references.values())
    assert {p.text for s in ("test", "validation") for p in context.world.prompts(s)} <= set(references)  # type: ignore[arg-type]
    bold, careful = (last_layer(shared, "reply", references, d) for d in (0.0, 2.0))
    for reward in (bold, careful):
        found = reward.score(texts, replies)
        assert (found.mean().item(), found.std(correction=0).item()) == pytest.approx((0.0, 1.0), abs=1e-4)
    # spread in the same units: undoing the scale, careful is bold less two deviations
    lower, mean = ((r.score(texts, replies) - r.scale.shift) / r.scale.gain for r in (careful, bold))
    unsure = bold.spread(texts, replies) / bold.scale.gain
    torch.testing.assert_close(lower, mean - 2 * unsure, atol=1e-4, rtol=0)
    assert unsure.max() > 0
    path = context.run.root / "data" / "references-2.jsonl"
    before = path.read_bytes()
    assert sources.references(2) == references
    assert path.read_bytes() == before


# Calibration


def test_a_claimed_chance_comes_from_other_prompts() -> None:
    rng = np.random.default_rng(0)
    delta = np.where(rng.random(400) < 1 / (1 + np.exp(-np.abs(d := rng.normal(size=400)))), np.abs(d), -np.abs(d)) * 3.0
    prompts = [f"p{i % 40}" for i in range(400)]
    found = claimed(delta, prompts, [""] * 400, "temperature", Key(1))
    assert found is not None
    halves = {prompts[i]: (found[i] > 0.5) == (delta[i] > 0) for i in range(400)}
    assert all(halves.values())  # a temperature changes no order
    odds = np.log(found / (1 - found)) / delta
    slopes = {p: odds[[i for i in range(400) if prompts[i] == p]] for p in set(prompts)}
    assert all(np.ptp(s) < 1e-6 for s in slopes.values())
    values = sorted({round(float(s[0]), 6) for s in slopes.values()})
    assert len(values) == 2  # one map a half
    first = [p for p in slopes if abs(slopes[p][0] - values[0]) < 1e-5]
    assert len(first) == 20
    other = np.array([p not in first for p in prompts])
    map_ = fit_calibration(*shuffled(delta[other], Key(1) / "order"), "temperature")
    assert map_ is not None
    assert map_.pooled.slope == pytest.approx(values[0], abs=1e-5)
    assert claimed(np.abs(delta), prompts, [""] * 400, "temperature", Key(1)) is None  # always right: no finite map


def test_the_place_of_the_chosen_reply_is_random() -> None:
    delta, outcome = shuffled(np.ones(1000), Key(3))
    assert set(zip(delta.tolist(), outcome.tolist(), strict=True)) == {(1.0, 1.0), (-1.0, 0.0)}
    assert abs(outcome.mean() - 0.5) < 4 * 0.5 / np.sqrt(1000)


def offline_row(name: str, prompt: str, score: float) -> SampleRecord:
    return SampleRecord(
        run="r", arm="offline", seed=0, step=None, split="validation", prompt_id=prompt, sample_id=name, policy_id="x", prompt="ask",
        response="x", scores={"rm-0": score},
    )  # fmt: skip


@pytest.mark.parametrize("method", ["temperature", "platt", "isotonic"])
def test_a_calibration_is_kept_and_written_beside_the_scores(tmp_path: Path, method: str) -> None:
    config = validate({**SMALL, "reward": {**SMALL["reward"], "calibration": method}}, RunConfig, where="here")
    context = context_of(tmp_path, config)
    rng = np.random.default_rng(1)
    pairs, records = [], []
    for i in range(300):
        # pairs of the same difference, four times as large in domain a
        if i % 2 == 0:
            apart = abs(rng.normal())
            won = rng.random() < 1 / (1 + np.exp(-apart))
        domain = "ba"[i % 2]
        delta = float(apart * (1 if won else -1) * (4 if domain == "a" else 1))
        prompt = Prompt(id=f"p{i % 60}", text="ask", tags={"domain": domain})
        pairs.append(Preference(id=str(i), prompt=prompt, chosen=Reply(text="x"), rejected=Reply(text="y")))
        records += [offline_row(f"{i}:chosen", prompt.id, delta), offline_row(f"{i}:rejected", prompt.id, 0.0)]
    context.run.write_records("offline", records)
    folder = tmp_path / "rm"
    folder.mkdir()
    calibrate(context, "rm-0", LearnedReward(tiny_policy, folder=folder), pairs)  # type: ignore[arg-type]
    kept = read_calibration(folder)
    assert kept is not None
    assert (kept.pooled.method, set(kept.domains), kept.domains["a"].n) == (method, {"a", "b"}, 150)
    written = read_records(tmp_path)
    chances = [r.win_probability["rm-0"] for r in written]
    assert all(a + b == pytest.approx(1.0) for a, b in zip(chances[::2], chances[1::2], strict=True))
    assert [r.scores for r in written] == [r.scores for r in records]
    if method == "temperature":
        assert kept.domains["b"].slope / kept.domains["a"].slope == pytest.approx(4.0, abs=1e-3)
    first = (folder / "trueup_calibration.json").read_bytes()
    calibrate(context, "rm-0", LearnedReward(tiny_policy, folder=folder), pairs)  # type: ignore[arg-type]
    assert (folder / "trueup_calibration.json").read_bytes() == first


def test_few_pairs_allow_no_calibration(context: Context, records: pd.DataFrame) -> None:
    assert not (context.run.checkpoint("reward") / "trueup_calibration.json").exists()  # ten held-out pairs
    assert not [c for c in records.columns if c.startswith("win_probability")]


def test_heads_have_an_objective_of_their_own(context: Context) -> None:
    facts = json.loads((context.run.checkpoint("reward-heads-3-0.8") / "config.json").read_text())
    assert facts["trueup_outputs"] == HeadsConfig(members=3).outputs == 3
    check_rewards(context)
